"""The breaker's laws: when it opens, how it lets calls back in, and that it never lets in too many."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy, CircuitBreaker, Opening, State

POLICY = BreakerPolicy(
    window_s=10, buckets=5, min_calls=4, failure_rate=0.5, open_s=2, max_open_s=8, max_probes=2, probes_to_close=2
)


def opened(now_s: float = 0.0, policy: BreakerPolicy = POLICY) -> CircuitBreaker:
    breaker = CircuitBreaker(policy)
    for _ in range(policy.min_calls):
        breaker.record(now_s, ok=False)
    assert breaker.state(now_s) is State.OPEN
    return breaker


def test_it_opens_at_the_threshold_and_not_before() -> None:
    breaker = CircuitBreaker(POLICY)
    for ok in (True, False, True):
        breaker.record(1, ok=ok)
    assert breaker.allow(1)
    breaker.record(1, ok=False)
    assert breaker.state(1) is State.OPEN
    assert not breaker.allow(1)
    assert breaker.view(1).reason == "2 of 4 calls failed"


def test_too_few_calls_never_open_it() -> None:
    breaker = CircuitBreaker(POLICY)
    for _ in range(3):
        breaker.record(0, ok=False)
    assert breaker.state(0) is State.CLOSED


def test_a_success_can_be_the_call_that_completes_the_evidence() -> None:
    breaker = CircuitBreaker(POLICY)
    for ok in (False, False, False, True):
        breaker.record(0, ok=ok)
    assert breaker.state(0) is State.OPEN


def test_failures_older_than_the_window_do_not_count() -> None:
    breaker = CircuitBreaker(POLICY)
    for _ in range(3):
        breaker.record(0, ok=False)
    breaker.record(10, ok=False)
    assert breaker.state(10) is State.CLOSED
    assert (breaker.view(10).calls, breaker.view(10).failures) == (1, 1)
    assert breaker.view(1000).calls == 0


def test_probes_close_it_and_the_past_is_forgotten() -> None:
    breaker = opened()
    assert not breaker.allow(1.9)
    assert breaker.view(1.5).retry_in_s == pytest.approx(0.5)
    assert breaker.state(2) is State.HALF_OPEN
    assert [breaker.allow(2) for _ in range(3)] == [True, True, False]
    breaker.record(2, ok=True)
    assert breaker.state(2) is State.HALF_OPEN
    assert breaker.allow(2)
    breaker.record(2, ok=True)
    assert breaker.state(2) is State.CLOSED
    assert (breaker.view(2).calls, breaker.view(2).reason) == (0, "")


def test_each_failed_return_doubles_the_wait_up_to_its_cap() -> None:
    breaker, now_s = opened(), 0.0
    for expected_s in (2, 4, 8, 8):
        assert breaker.view(now_s).retry_in_s == expected_s
        now_s += expected_s
        assert breaker.allow(now_s)
        breaker.record(now_s, ok=False)
    breaker.reset()
    for _ in range(4):
        breaker.record(now_s, ok=False)
    assert breaker.view(now_s).retry_in_s == 2


def test_late_reports_of_calls_from_before_are_not_taken_for_probes() -> None:
    breaker = opened(now_s=1)
    breaker.record(1.5, ok=True, admitted_s=0.5)
    assert breaker.state(1.5) is State.OPEN
    assert breaker.allow(3)
    breaker.record(3.1, ok=False, admitted_s=0.7)
    breaker.release(admitted_s=0.8)
    assert breaker.state(3.1) is State.HALF_OPEN
    assert breaker.allow(3.2)
    assert not breaker.allow(3.3)
    breaker.record(3.4, ok=False, admitted_s=3.0)
    assert breaker.state(3.4) is State.OPEN


def test_a_released_or_forgotten_probe_makes_room() -> None:
    breaker = opened()
    assert breaker.allow(2)
    assert breaker.allow(3)
    assert not breaker.allow(4)
    breaker.release(admitted_s=3)
    assert breaker.allow(4)
    assert not breaker.allow(5)
    assert breaker.allow(2 + POLICY.probe_timeout_s)


def test_by_hand_it_opens_until_reset() -> None:
    breaker = CircuitBreaker(POLICY)
    breaker.trip("maintenance")
    assert not breaker.allow(1e9)
    assert breaker.view(1e9).reason == "maintenance"
    assert breaker.view(1e9).retry_in_s == 0
    breaker.record(1e9, ok=True)
    breaker.release()
    assert breaker.state(1e9) is State.OPEN
    breaker.reset()
    assert breaker.allow(1e9)


@given(st.lists(st.tuples(st.sampled_from(["allow", "ok", "fail", "release"]), st.floats(0, 3)), max_size=120))
def test_half_open_never_has_more_probes_out_than_allowed(steps: list[tuple[str, float]]) -> None:
    breaker, now_s, serial = opened(), 0.0, itertools.count()
    out: list[float] = []
    for action, wait_s in steps:
        now_s += wait_s + next(serial) * 1e-9
        before = breaker.state(now_s)
        if action == "allow":
            if breaker.allow(now_s):
                assert before is not State.OPEN
                if before is State.HALF_OPEN:
                    out.append(now_s)
                    live = [s for s in out if now_s - s < POLICY.probe_timeout_s]
                    assert len(live) <= POLICY.max_probes
        elif out:
            ticket = out.pop(0)
            if action == "release":
                breaker.release(admitted_s=ticket)
            else:
                breaker.record(now_s, ok=action == "ok", admitted_s=ticket)
        if breaker.state(now_s) is not State.HALF_OPEN:
            out.clear()


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20), st.floats(0.05, 1))
def test_it_is_open_exactly_when_the_evidence_says_so(ends: list[bool], min_calls: int, rate: float) -> None:
    breaker = CircuitBreaker(BreakerPolicy(min_calls=min_calls, failure_rate=rate))
    calls = failures = 0
    for ok in ends:
        breaker.record(0, ok=ok)
        calls, failures = calls + 1, failures + (not ok)
        if calls >= min_calls and failures >= rate * calls:
            assert breaker.state(0) is State.OPEN
            return
        assert breaker.state(0) is State.CLOSED


@given(st.lists(st.tuples(st.floats(0, 15), st.booleans()), max_size=60))
def test_the_window_counts_what_lies_in_it(calls: list[tuple[float, bool]]) -> None:
    breaker, now_s = CircuitBreaker(BreakerPolicy(window_s=10, buckets=5, min_calls=1000)), 0.0
    told: list[tuple[float, bool]] = []
    for wait_s, ok in calls:
        now_s += wait_s
        breaker.record(now_s, ok=ok)
        told.append((now_s, ok))
        recent = [ok for at, ok in told if int(at / 2) > int(now_s / 2) - 5]
        assert (breaker.view(now_s).calls, breaker.view(now_s).failures) == (len(recent), recent.count(False))


def test_looking_at_a_breaker_changes_nothing() -> None:
    breaker = CircuitBreaker(POLICY)
    breaker.record(1, ok=False)
    breaker.record(7, ok=True)
    assert [(breaker.view(now_s).calls, breaker.view(now_s).failures) for now_s in (100, 12, 9, 7)] == [
        *((0, 0), (1, 0), (2, 1), (2, 1)),
    ]


def test_a_board_keeps_breakers_apart_and_bounded() -> None:
    now = [0.0]
    board = BreakerBoard(lambda: now[0], POLICY, max_keys=2)
    assert board.allow("never seen")
    for _ in range(4):
        board.record("bad", ok=False)
    board.record("good", ok=True)
    assert (board.allow("bad"), board.allow("good")) == (False, True)
    assert [board.resting(key) for key in ("bad", "good", "unknown")] == [True, False, False]
    board.record("third", ok=True)
    assert set(board.snapshot()) == {"bad", "third"}, "closed breakers are forgotten before open ones"
    assert board.snapshot()["bad"].state is State.OPEN
    now[0] = 2.0
    assert board.allow("bad", now_s=2.0)
    board.record("bad", ok=True, admitted_s=2.0)
    board.release("bad", admitted_s=9.0)
    board.release("unknown")
    assert board.snapshot()["bad"].state is State.HALF_OPEN
    board.trip("third", "by hand")
    assert not board.allow("third")
    board.trip("fourth", "by hand")
    assert set(board.snapshot()) == {"third", "fourth"} or set(board.snapshot()) == {"bad", "fourth"}
    board.reset("fourth")
    board.reset("fourth")
    assert board.allow("fourth")


@pytest.mark.parametrize(
    "wrong",
    [{"window_s": 0}, {"buckets": 0}, {"failure_rate": 0}, {"failure_rate": 1.1}, {"open_s": 9, "max_open_s": 1}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a breaker needs"):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one key"):
        BreakerBoard(lambda: 0.0, max_keys=0)


def test_what_another_opened_is_open_here_as_long_as_it_says_and_closes_when_it_says() -> None:
    now_s = 0.0
    board = BreakerBoard(lambda: now_s, POLICY)
    told: list[tuple[str, Opening | None]] = []
    board.changed = lambda key, opening: told.append((key, opening))
    board.adopt("a", Opening(5, 2, "elsewhere", held=False))
    assert board.resting("a")
    assert not board.allow("a")
    assert told == []  # it is no news to who said it
    now_s = 5.0
    assert board.allow("a")
    board.record("a", ok=False, admitted_s=5.0)
    assert told == [("a", Opening(8, 3, "a probe failed", held=False))]  # its third opening in a row
    board.adopt("a", None)
    assert board.allow("a")
    board.adopt("b", Opening(0, 0, "by hand", held=True))
    now_s = 1e9
    assert not board.allow("b")


def test_each_opening_and_closing_is_told_once() -> None:
    now_s = 0.0
    board = BreakerBoard(lambda: now_s, POLICY)
    told: list[bool] = []
    board.changed = lambda key, opening: told.append(opening is not None)
    for _ in range(POLICY.min_calls + 3):
        if board.allow("a"):
            board.record("a", ok=False)
    assert told == [True]
    now_s = 2.0
    for _ in range(POLICY.probes_to_close):
        assert board.allow("a", now_s=now_s)
        board.record("a", ok=True, admitted_s=now_s)
    assert told == [True, False]
    board.trip("a", "by hand")
    board.reset("a")
    assert told == [True, False, True, False]


def test_threads_that_use_a_board_together_lose_no_call() -> None:
    board = BreakerBoard(lambda: 0.0, BreakerPolicy(min_calls=10**9))

    def calls(number: int) -> None:
        for at in range(500):
            board.allow(f"k{at % 7}")
            board.record(f"k{at % 7}", ok=at % 2 == 0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))
    assert sum(view.calls for view in board.snapshot().values()) == 8 * 500
