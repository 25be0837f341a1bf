"""Which instances are ejected, how long, and how they come back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.liveness.ejection import NEVER_OUT, EjectionPolicy, Seen, Standing, eject, judge

POLICY = EjectionPolicy()
NOW_S = 1000.0
WELL = Seen(calls=100, failures=1, first_s=0.2, first_count=100, tokens_s=60, pace_count=100)


def judged(standings: dict[str, Standing] | None = None, **seen: Seen) -> dict[str, Standing]:
    return judge(seen, dict.fromkeys(seen, NEVER_OUT) | (standings or {}), NOW_S, POLICY)


def test_one_that_fails_far_more_than_its_peers_goes_out_with_a_reason() -> None:
    found = judged(a=WELL, b=WELL, c=Seen(calls=60, failures=20))
    assert list(found) == ["c"]
    assert found["c"].reason == "fails 33% of its calls, its peers 1%"
    assert found["c"].out(NOW_S + POLICY.eject_s - 1)
    assert not found["c"].out(NOW_S + POLICY.eject_s)


def test_one_that_is_far_slower_goes_out() -> None:
    late = Seen(100, 1, first_s=0.7, first_count=100, tokens_s=60, pace_count=100)
    assert judged(a=WELL, b=WELL, c=late)["c"].reason == "begins to answer after 0.70 s, its peers after 0.20 s"
    crawling = Seen(100, 1, first_s=0.2, first_count=100, tokens_s=10, pace_count=100)
    assert judged(a=WELL, b=WELL, c=crawling)["c"].reason == "gives 10.0 tokens per second, its peers 60.0"


def test_what_is_quick_for_everybody_is_no_outlier_by_a_factor() -> None:
    swift = Seen(100, 0, first_s=0.002, first_count=100)
    assert not judged(a=swift, b=swift, c=Seen(100, 0, first_s=0.04, first_count=100))


def test_too_few_calls_say_nothing() -> None:
    assert not judged(a=WELL, b=WELL, c=Seen(calls=9, failures=9))
    assert not judged(a=Seen(calls=9, failures=0), b=Seen(calls=50, failures=50))
    few = Seen(100, 0, first_s=9.0, first_count=5, tokens_s=0.1, pace_count=5)
    assert not judged(a=WELL, b=WELL, c=few)


def test_when_all_fail_nobody_is_an_outlier() -> None:
    bad = Seen(calls=100, failures=90)
    assert not judged(a=bad, b=bad, c=bad)


def test_at_most_half_are_out_and_the_worst_go_first() -> None:
    bad = {f"bad{n}": Seen(calls=100, failures=50 + n) for n in range(3)}
    good = {f"good{n}": WELL for n in range(4)}
    assert list(judged(**good, **bad)) == ["bad2", "bad1", "bad0"]
    two_out = {"good0": Standing(NOW_S + 9, 1, "x"), "good1": Standing(NOW_S + 9, 1, "x")}
    assert list(judged(two_out, **good, **bad)) == ["bad2"]
    assert not judged(a=WELL)


def test_the_time_out_doubles_up_to_its_bound_and_is_forgiven() -> None:
    standing, now_s = NEVER_OUT, NOW_S
    times: list[float] = []
    for _ in range(7):
        standing = eject(standing, "x", now_s, POLICY)
        times.append(standing.until_s - now_s)
        now_s = standing.until_s
    assert times == [30, 60, 120, 240, 480, 900, 900]
    later = eject(standing, "x", now_s + 6 * POLICY.forgive_s, POLICY)
    assert later.until_s - (now_s + 6 * POLICY.forgive_s) == 60


def test_after_a_return_the_weight_grows_from_a_tenth_to_one() -> None:
    standing = Standing(until_s=NOW_S, ejections=1)
    weights = [standing.weight(NOW_S + later_s, POLICY) for later_s in (0, 1, 15, 29.9, 30, 1e9)]
    assert weights == [0.1, 0.1, 0.5, pytest.approx(29.9 / 30), 1.0, 1.0]
    assert NEVER_OUT.weight(NOW_S, POLICY) == 1.0


seens = st.builds(
    lambda calls, share, first, pace: Seen(calls, calls * share, first, calls, pace, calls),
    st.floats(0, 1000), st.floats(0, 1), st.none() | st.floats(1e-3, 100), st.none() | st.floats(0.1, 1000),
)  # fmt: skip


@given(st.lists(st.tuples(seens, st.booleans()), max_size=9))
def test_never_more_than_half_are_out_and_nobody_twice(instances: list[tuple[Seen, bool]]) -> None:
    seen = {str(number): one for number, (one, _) in enumerate(instances)}
    standings = {
        str(number): Standing(NOW_S + 5, 1, "x") if out and number * 2 + 2 <= len(instances) else NEVER_OUT
        for number, (_, out) in enumerate(instances)
    }
    already = {name for name, standing in standings.items() if standing.out(NOW_S)}
    found = judge(seen, standings, NOW_S, POLICY)
    assert not already & set(found)
    assert len(already) + len(found) <= max(math.floor(len(instances) / 2), len(already))
    assert all(seen[name].calls >= POLICY.min_calls and standing.reason for name, standing in found.items())
