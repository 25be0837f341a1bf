"""Bandwidth by class: exact on a clock of the test's own; with real threads only that everybody is woken."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.throttle import BURST_S, LEAST_SHARE, Ask, Bandwidth, Buckets, Traffic

RATE = 1_000_000
LONG_S = 10.0
ENDLESS = 10**9


class Clock:
    """A time that passes only by waiting."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0
        self.waits = 0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, _told: threading.Condition, timeout_s: float | None) -> None:
        assert timeout_s is not None, "the only waiter must keep time"
        self.waits += 1
        self.now_s += timeout_s


def bandwidth_and_clock(limit: int | None = RATE, **class_limits: int | None) -> tuple[Bandwidth, Clock]:
    clock = Clock()
    limits = {Traffic(name): limit for name, limit in class_limits.items()}
    return Bandwidth(limit, limits, clock=clock, wait=clock.wait), clock


def contest(
    buckets: Buckets, demands: list[tuple[Traffic, int]], seconds: float, pause_s: float = 0.0
) -> Iterator[tuple[float, Ask]]:
    """Each demand asks anew (``pause_s`` later) as soon as it was granted; yields grants as they come."""
    start = now = buckets.now_s
    coming = [(now, Ask(traffic, size)) for traffic, size in demands]
    while now < start + seconds:
        for _, ask in sorted((each for each in coming if each[0] <= now), key=lambda each: each[0]):
            buckets.join(ask)
        coming = [each for each in coming if each[0] > now]
        for ask in buckets.grant(now):
            yield now - start, ask
            coming.append((now + pause_s, Ask(ask.traffic, ask.size_bytes)))
        due = buckets.due_in_s()
        times = [when for when, _ in coming] + ([] if due is None else [now + due])
        now = min(times)


def moved(grants: Iterator[tuple[float, Ask]]) -> Counter[Traffic]:
    total: Counter[Traffic] = Counter()
    for _, ask in grants:
        total[ask.traffic] += ask.size_bytes
    return total


def limited(limit: int | None = RATE, **class_limits: int) -> Buckets:
    buckets = Buckets(50.0)
    buckets.set_limit(limit, None, 50.0)
    for name, each in class_limits.items():
        buckets.set_limit(each, Traffic(name), 50.0)
    return buckets


@pytest.mark.parametrize(("size", "rate"), [(1, 1024), (12_345, 1024), (1, RATE), (7 * RATE + 3, RATE), (RATE, 10**9)])
def test_bytes_take_exactly_their_time(size: int, rate: int) -> None:
    bandwidth, clock = bandwidth_and_clock(rate)
    start = clock()
    bandwidth.pace(Traffic.BULK, Cancellation()).take(size)
    assert clock() - start == pytest.approx(size / rate, rel=1e-6, abs=2e-6)


def test_no_limit_no_wait() -> None:
    bandwidth, clock = bandwidth_and_clock(None)
    bandwidth.pace(Traffic.BACKGROUND, Cancellation()).take(10**15)
    assert clock.waits == 0


def test_an_idle_time_saves_up_no_more_than_a_burst() -> None:
    bandwidth, clock = bandwidth_and_clock()
    clock.now_s += 3600
    start = clock()
    bandwidth.pace(Traffic.BULK, Cancellation()).take(10 * RATE)
    assert clock() - start == pytest.approx(10 - BURST_S, abs=1e-4)


def test_a_late_waking_is_made_up_for() -> None:
    clock = Clock()

    def late(told: threading.Condition, timeout_s: float | None) -> None:
        clock.wait(told, timeout_s)
        clock.now_s += 0.1

    bandwidth = Bandwidth(RATE, clock=clock, wait=late)
    start = clock()
    bandwidth.pace(Traffic.BULK, Cancellation()).take(10 * RATE)
    assert clock() - start == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ("interactive bulk background", {"interactive": 0.85, "bulk": 0.10, "background": 0.05}),
        ("bulk background", {"bulk": 0.95, "background": 0.05}),
        ("interactive background", {"interactive": 0.95, "background": 0.05}),
        ("interactive bulk", {"interactive": 0.90, "bulk": 0.10}),
        ("background", {"background": 1.0}),
        ("interactive", {"interactive": 1.0}),
    ],
)
def test_shares_of_a_full_line(present: str, expected: dict[str, float]) -> None:
    buckets = limited()
    demands = [(Traffic(name), buckets.piece_bytes(Traffic(name))) for name in present.split()]
    total = moved(contest(buckets, demands, LONG_S))
    assert {str(each): pytest.approx(total[each] / (RATE * LONG_S), abs=0.01) for each in total} == expected


def test_interactive_gets_what_it_needs_at_once() -> None:
    buckets = limited()
    piece = buckets.piece_bytes(Traffic.BULK)
    bulk = [(Traffic.BULK, piece)] * 8 + [(Traffic.BACKGROUND, piece)] * 8
    for _ in contest(buckets, bulk, 5.0):
        pass
    ask = Ask(Traffic.INTERACTIVE, piece)
    buckets.join(ask)
    now = start = buckets.now_s
    while not ask.granted:
        now += buckets.due_in_s() or 0.0
        buckets.grant(now)
    # Behind at most the piece of each class that was owed one.
    assert now - start <= 3 * piece / RATE + 1e-5


def test_an_interactive_need_below_the_limit_is_met_in_full() -> None:
    buckets = limited()
    piece = buckets.piece_bytes(Traffic.BULK)
    demands = [(Traffic.BULK, piece)] * 4 + [(Traffic.INTERACTIVE, piece)]
    total = moved(contest(buckets, demands, LONG_S, pause_s=4 * piece / RATE))
    # One piece every four pieces' time, and its own time in the line: a fifth at least.
    assert total[Traffic.INTERACTIVE] >= RATE * LONG_S * 0.18
    assert sum(total.values()) == pytest.approx(RATE * LONG_S, rel=0.01)


def test_asks_of_one_class_pass_in_the_order_they_came() -> None:
    buckets = limited()
    asks = [Ask(Traffic.BULK, size) for size in (5000, 1, 9000, 30, 700)]
    for ask in asks:
        buckets.join(ask)
    passed: list[Ask] = []
    for step in range(200):
        passed += buckets.grant(50.0 + step / 1000)
    assert [id(ask) for ask in passed] == [id(ask) for ask in asks]


def test_threads_of_one_class_share_alike() -> None:
    buckets = limited()
    counts: Counter[int] = Counter()
    for _, ask in contest(buckets, [(Traffic.BULK, 1000 + number) for number in range(5)], LONG_S):
        counts[ask.size_bytes] += 1
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_class_limit_binds_its_class_only() -> None:
    buckets = limited(interactive=RATE // 10)
    total = moved(contest(buckets, [(Traffic.INTERACTIVE, 1500), (Traffic.BULK, 10_000)], LONG_S))
    assert total[Traffic.INTERACTIVE] == pytest.approx(RATE * LONG_S / 10, rel=0.01)
    assert total[Traffic.BULK] == pytest.approx(RATE * LONG_S * 0.9, rel=0.01)


def test_a_class_limit_without_a_shared_one() -> None:
    bandwidth, clock = bandwidth_and_clock(None, background=1250)
    start = clock()
    bandwidth.pace(Traffic.BULK, Cancellation()).take(ENDLESS)
    assert clock() == start
    bandwidth.pace(Traffic.BACKGROUND, Cancellation()).take(5000)
    assert clock() - start == pytest.approx(4.0)
    assert [bandwidth.limit_bytes_s(each) for each in Traffic] == [None, None, 1250]


def test_a_piece_larger_than_the_burst_of_a_lowered_limit_still_passes() -> None:
    buckets = limited()
    ask = Ask(Traffic.BULK, buckets.piece_bytes(Traffic.BULK))
    buckets.join(ask)
    assert buckets.grant(50.0) == []
    buckets.set_limit(1024, None, 50.0)
    now = 50.0 + (buckets.due_in_s() or 0.0)
    assert [each is ask for each in buckets.grant(now)] == [True]
    behind = Ask(Traffic.BULK, 1)
    buckets.join(behind)
    assert buckets.due_in_s() == pytest.approx((ask.size_bytes - 256 + 1) / 1024, rel=0.01)  # the debt is paid first


@settings(deadline=None, max_examples=20)
@given(
    rate=st.integers(1024, 10**9),
    demands=st.lists(st.tuples(st.sampled_from(Traffic), st.floats(0.01, 1.0)), min_size=1, max_size=6),
)
def test_never_more_than_the_limit_and_a_burst_and_nobody_starves(
    rate: int, demands: list[tuple[Traffic, float]]
) -> None:
    buckets = limited(rate)
    sized = [(each, max(1, int(buckets.piece_bytes(each) * part))) for each, part in demands]
    total: Counter[Traffic] = Counter()
    for now_s, ask in contest(buckets, sized, 2.0):
        total[ask.traffic] += ask.size_bytes
        assert sum(total.values()) <= rate * now_s * (1 + 1e-6) + len(total) + 1e-5 * rate
    assert sum(total.values()) >= rate * 2.0 * 0.97 - 10
    for traffic in {each for each, _ in sized}:
        assert total[traffic] >= rate * 2.0 * LEAST_SHARE[traffic] * 0.9 - 2 * buckets.piece_bytes(traffic)


@pytest.mark.parametrize("limit", [0, -5, 1023])
def test_a_limit_that_stops_everything_is_refused(limit: int) -> None:
    with pytest.raises(InvalidRequest, match="would stop all traffic"):
        Bandwidth(limit)


def test_cancelling_wakes_one_waiter_and_no_other() -> None:
    bandwidth = Bandwidth(1024)
    first, second = Cancellation(), Cancellation()
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(bandwidth.pace(Traffic.BULK, first).take, ENDLESS)
        other = threads.submit(bandwidth.pace(Traffic.BULK, second).take, ENDLESS)
        first.set()
        with pytest.raises(Cancelled):
            one.result(timeout=30)
        assert not other.done()
        second.set()
        with pytest.raises(Cancelled):
            other.result(timeout=30)


def test_a_cancelled_transfer_takes_nothing_even_without_a_limit() -> None:
    cancelled = Cancellation()
    cancelled.set()
    with pytest.raises(Cancelled):
        Bandwidth().pace(Traffic.BULK, cancelled).take(1)


@pytest.mark.parametrize("raised", [None, ENDLESS * 1000])
def test_raising_the_limit_frees_those_who_wait(raised: int | None) -> None:
    bandwidth = Bandwidth(1024)
    with ThreadPoolExecutor(6) as threads:
        waits = [
            threads.submit(bandwidth.pace(traffic, Cancellation()).take, RATE) for traffic in Traffic for _ in range(2)
        ]
        bandwidth.set_limit(raised)
        for wait in waits:
            wait.result(timeout=30)


def test_no_waiter_is_forgotten() -> None:
    """Many threads of all classes; some are cancelled, the limit changes: everybody comes back."""
    bandwidth = Bandwidth(2_000_000)
    doomed = Cancellation()

    def work(number: int) -> bool:
        pace = bandwidth.pace(list(Traffic)[number % 3], doomed if number % 5 == 0 else Cancellation())
        try:
            for _ in range(20):
                pace.take(1000 + number)
        except Cancelled:
            return False
        return True

    with ThreadPoolExecutor(24) as threads:
        ends = [threads.submit(work, number) for number in range(24)]
        for limit in (500_000, 8_000_000, 3_000_000):
            bandwidth.set_limit(limit)
        doomed.set()
        finished = [end.result(timeout=60) for end in ends]
    assert all(finished[number] for number in range(24) if number % 5)


def test_a_child_is_cancelled_with_its_parent_and_not_the_other_way() -> None:
    parent = Cancellation()
    child, sibling = Cancellation(parent), Cancellation(parent)
    woken: list[str] = []
    with child.waking(lambda: woken.append("child")), sibling.waking(lambda: woken.append("sibling")):
        child.set()
        assert (woken, parent.is_set(), sibling.is_set()) == (["child"], False, False)
        parent.set()
        assert sorted(woken) == ["child", "child", "sibling"]
    with sibling.waking(lambda: woken.append("late")):
        assert woken[-1] == "late"
    with pytest.raises(Cancelled):
        sibling.check()
