"""Who is asked next: score, breaker, rest and ban, under a clock and dice that the test turns."""

import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.endpoints import (
    EndpointPolicy,
    Endpoints,
    EndpointView,
    Lease,
    Record,
    learn,
    score,
)
from prsm.data_layer.seams import Fault, Pace, StorageFault
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy

POLICY = EndpointPolicy()


@dataclass
class Source:
    """An endpoint without a network."""

    name: str
    sick: bool = False
    breaks: bool = False
    closed: int = 0
    probed: int = 0

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        raise NotImplementedError

    def probe(self, deadline_s: float) -> float:
        self.probed += 1
        if self.breaks:
            raise RuntimeError("can't start new thread")
        if self.sick:
            raise fault(Fault.RETRY)
        return 0.001

    def close(self) -> None:
        self.closed += 1


@dataclass
class Stage:
    """Endpoints, and the time they live in."""

    names: str = "abc"
    now_s: float = 1000.0
    policy: EndpointPolicy = POLICY
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)

    def __post_init__(self) -> None:
        self.board = BreakerBoard(lambda: self.now_s, self.breaker)
        self.sources = {name: Source(name) for name in self.names}
        self.endpoints = Endpoints(
            self.sources.values(), breakers=self.board, policy=self.policy, clock=lambda: self.now_s, draw=lambda: 0.5
        )

    def take(self, *excluding: str) -> Lease:
        lease = self.endpoints.choose(excluding)
        assert lease is not None
        return lease

    def use(self, name: str, seconds: float = 0.1, what: Fault | None = None, **more) -> None:
        """One call to ``name``, whatever would be chosen."""
        lease = self.take(*(each for each in self.endpoints.names if each != name))
        assert lease.source.name == name
        self.endpoints.report(lease, seconds=seconds, size_bytes=7, fault=fault(what, **more) if what else None)

    def chosen(self, *excluding: str) -> str | None:
        """Who would be asked now."""
        lease = self.endpoints.choose(excluding)
        if lease is None:
            return None
        self.endpoints.report(lease, seconds=0, fault=fault(Fault.FATAL))
        return lease.source.name

    def view(self, name: str) -> EndpointView:
        return next(view for view in self.endpoints.snapshot() if view.name == name)


def fault(what: Fault, **more) -> StorageFault:
    return StorageFault(f"it was {what}", fault=what, **more)


def test_the_quick_is_preferred_until_it_is_busy() -> None:
    stage = Stage()
    for name, seconds in (("a", 0.2), ("b", 0.1), ("c", 0.35)):
        stage.use(name, seconds)
    leases = [stage.take().source.name for _ in range(6)]
    # Latency times in flight + 1: b .1 .2 .3, a .2 .4, c .35 (ties go by the dice, then by name).
    assert leases == ["b", "a", "b", "b", "c", "a"]


def test_the_unknown_is_tried() -> None:
    stage = Stage("ab")
    stage.use("a", 0.5)
    assert stage.chosen() == "b"


def test_one_that_fails_fast_is_not_the_quickest() -> None:
    stage = Stage("ab")
    stage.use("a", 0.3)
    for _ in range(4):
        stage.use("b", 0.001, Fault.RETRY)
    assert stage.chosen() == "a"


def test_a_failure_is_forgotten_with_time() -> None:
    stage = Stage("ab")
    for _ in range(3):
        stage.use("a", 0.1)
        stage.use("b", 0.1, Fault.RETRY)
    lease = stage.take()
    assert lease.source.name == "a"
    assert stage.chosen() == "a"  # even with one in flight
    stage.now_s += 600
    assert stage.chosen() == "b"


def test_to_have_no_block_costs_rank_but_no_health() -> None:
    stage = Stage("ab", breaker=BreakerPolicy(min_calls=3))
    for _ in range(8):
        stage.use("b", 0.01, Fault.OTHER_REPLICA)
    assert stage.chosen() == "a"
    assert stage.board.snapshot()["b"].state == "closed"
    assert (stage.view("b").missed, stage.view("b").failed, stage.view("b").banned_s) == (8, 0, 0)


def test_what_is_no_fault_of_the_endpoint_leaves_no_trace() -> None:
    stage = Stage("a")
    for what in (Fault.FATAL, Fault.LOCAL_DISK):
        stage.use("a", 9.0, what)
    view = stage.view("a")
    assert (view.failed, view.missed, view.failing, view.in_flight, view.last_fault) == (0, 0, 0, 0, "")
    assert stage.board.snapshot() == {}


def test_excluded_ones_are_not_asked() -> None:
    stage = Stage()
    assert stage.chosen("a", "b") == "c"
    assert stage.chosen("a", "b", "c") is None
    assert stage.endpoints.ready_in_s("abc") == float("inf")


def test_a_ban_has_a_reason_and_an_end_and_the_next_is_longer() -> None:
    stage = Stage("ab")
    for expected_s in (60, 120, 240):
        stage.use("a", 0.01, Fault.BAN)
        view = stage.view("a")
        assert (view.banned_s, view.ban_reason, view.healthy) == (expected_s, "it was ban", False)
        assert [stage.chosen() for _ in range(3)] == ["b", "b", "b"]
        stage.now_s += expected_s
        assert (stage.view("a").banned_s, stage.view("a").ban_reason) == (0, "")
    stage.now_s += 10_000
    assert stage.chosen("b") == "a"


def test_a_ban_is_never_longer_than_the_limit_and_one_lie_is_one_ban() -> None:
    stage = Stage("ab", policy=EndpointPolicy(max_ban_s=100))
    leases = [stage.take("b") for _ in range(3)]
    for lease in leases:  # asked at the same time: one lie, told thrice
        stage.endpoints.report(lease, seconds=0.1, fault=fault(Fault.BAN))
    assert stage.view("a").banned_s == 60
    for _ in range(40):
        stage.now_s += 100
        stage.use("a", 0.1, Fault.BAN)
    assert stage.view("a").banned_s == 100


def test_when_all_are_banned_the_least_bad_is_asked_by_few() -> None:
    stage = Stage("ab")
    stage.use("a", 0.1, Fault.BAN)
    stage.use("b", 0.3, Fault.BAN)
    leases = [stage.endpoints.choose() for _ in range(6)]
    assert [lease and (lease.source.name, lease.last_resort) for lease in leases] == [
        ("a", True),
        ("b", True),
        ("a", True),
        ("b", True),
        None,
        None,
    ]
    assert leases[0] is not None
    stage.endpoints.report(leases[0], seconds=0.1, size_bytes=5)
    assert stage.chosen() == "a"


def test_when_all_breakers_are_open_the_least_bad_is_asked_and_a_ban_is_worse_than_an_open_breaker() -> None:
    stage = Stage("abc", breaker=BreakerPolicy(min_calls=1, open_s=50))
    stage.use("a", 0.5, Fault.RETRY)
    stage.use("b", 0.1, Fault.RETRY)
    stage.use("c", 0.01, Fault.BAN)
    lease = stage.take()
    assert (lease.source.name, lease.last_resort) == ("b", True)
    stage.endpoints.report(lease, seconds=0.1)
    assert stage.board.snapshot()["b"].state == "open"  # the breaker did not let it in: its way back is its own
    stage.now_s += 50
    for _ in range(2):
        lease = stage.take()
        assert (lease.source.name, lease.last_resort) == ("b", False)
        stage.endpoints.report(lease, seconds=0.1)
    assert stage.board.snapshot()["b"].state == "closed"


def test_only_one_probe_goes_to_a_half_open_breaker_while_others_are_there() -> None:
    stage = Stage("ab", breaker=BreakerPolicy(min_calls=1, open_s=5))
    stage.use("a", 0.001, Fault.RETRY)
    for _ in range(5):
        stage.use("b", 5.0)
    stage.now_s += 300
    names = [stage.take().source.name for _ in range(4)]
    assert names == ["a", "b", "b", "b"]


def test_retry_after_is_honoured_within_bounds() -> None:
    stage = Stage("a", policy=EndpointPolicy(max_rest_s=30))
    stage.use("a", 0.1, Fault.RETRY, retry_after_s=10.0)
    assert stage.chosen() is None
    assert stage.endpoints.ready_in_s() == 10
    assert stage.view("a").resting_s == 10
    stage.now_s += 10
    assert stage.chosen() == "a"
    stage.use("a", 0.1, Fault.RETRY, retry_after_s=9999.0)
    assert stage.endpoints.ready_in_s() == 30


def test_the_median_is_of_the_last_fetches_only() -> None:
    stage = Stage("ab", policy=EndpointPolicy(window=4))
    for seconds in (9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 2.0):
        stage.use("a", seconds)
    assert (stage.view("a").p50_s, stage.view("b").p50_s) == (1.0, None)


def test_a_sign_of_life_is_a_block_or_that_there_is_none_or_when_to_come_again_or_a_probe() -> None:
    stage = Stage("ab", breaker=BreakerPolicy(min_calls=99))
    assert stage.endpoints.silent_s() == float("inf")
    for what, more, counts in (
        (None, {}, True),
        (Fault.RETRY, {}, False),
        (Fault.BAN, {}, False),
        (Fault.OTHER_REPLICA, {}, True),
        (Fault.FATAL, {}, False),
        (Fault.RETRY, {"retry_after_s": 0.5}, True),
    ):
        stage.now_s += 500
        before_s = stage.endpoints.silent_s("b")
        stage.use("a", 0.1, what, **more)
        assert stage.endpoints.silent_s("b") == (0 if counts else before_s), what
        assert stage.endpoints.silent_s("a") == float("inf")
    stage.now_s += 500
    stage.endpoints.probe_all()
    assert stage.endpoints.silent_s("a") == stage.endpoints.silent_s() == 0
    stage.now_s += 7
    assert stage.endpoints.silent_s() == 7


def test_probes_close_a_breaker_and_spare_the_banned() -> None:
    stage = Stage("abc", breaker=BreakerPolicy(min_calls=1, open_s=5))
    stage.use("a", 0.1, Fault.RETRY)
    stage.use("b", 0.1, Fault.BAN)
    stage.endpoints.probe_all()
    assert [source.probed for source in stage.sources.values()] == [0, 0, 1]
    stage.now_s += 5
    stage.endpoints.probe_all()
    stage.endpoints.probe_all()
    assert [source.probed for source in stage.sources.values()] == [2, 0, 3]
    assert stage.board.snapshot()["a"].state == "closed"
    stage.sources["c"].sick = True
    stage.endpoints.probe_all()
    assert stage.view("c").last_fault == "it was retry"
    assert all(view.in_flight == 0 for view in stage.endpoints.snapshot())


def test_endpoints_come_and_go_while_they_are_asked() -> None:
    stage = Stage("a", policy=EndpointPolicy(max_endpoints=2))
    lease = stage.take()
    stage.endpoints.remove("a")
    stage.endpoints.remove("a")
    stage.endpoints.report(lease, seconds=0.1)
    assert stage.sources["a"].closed == 1
    assert (stage.endpoints.names, stage.chosen(), stage.endpoints.ready_in_s()) == ((), None, float("inf"))
    stage.endpoints.add(Source("x"))
    stage.endpoints.add(Source("y"))
    with pytest.raises(InvalidRequest, match="2 endpoints already"):
        stage.endpoints.add(Source("z"))
    lease, again = stage.take("y"), Source("x")
    stage.endpoints.add(again)  # the same name anew
    stage.endpoints.report(lease, seconds=0.1)
    assert stage.view("x").fetched == 0
    stage.endpoints.close()
    assert again.closed == 1


def test_the_snapshot_counts() -> None:
    stage = Stage("ab")
    stage.use("a", 0.1)
    stage.use("a", 0.1, Fault.RETRY)
    stage.use("b", 0.1, Fault.OTHER_REPLICA)
    view = stage.view("a")
    assert (view.fetched, view.fetched_bytes, view.failed, view.missed) == (1, 7, 1, 0)
    assert view.last_fault == "it was retry"
    assert 0 < view.failing < 0.5
    assert view.healthy


def test_many_threads_leave_no_lease_behind() -> None:
    stage = Stage("abc", policy=EndpointPolicy(ban_s=0.0), breaker=BreakerPolicy(min_calls=10**9))
    kinds = [None, Fault.RETRY, Fault.OTHER_REPLICA, Fault.BAN, Fault.FATAL]

    def work(number: int) -> None:
        for turn in range(200):
            lease = stage.endpoints.choose()
            if lease is not None:
                what = kinds[(number + turn) % len(kinds)]
                stage.endpoints.report(lease, seconds=0.01, fault=fault(what) if what else None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    views = stage.endpoints.snapshot()
    assert all(view.in_flight == 0 for view in views)
    assert sum(view.fetched + view.failed + view.missed for view in views) == 8 * 200 * 4 // 5


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.floats(0, 1000)), max_size=30), st.floats(0, 1000))
def test_scores_are_positive_and_grow_with_what_is_in_flight(calls, later_s: float) -> None:
    record, now_s = Record(), 0.0
    for seconds, ok, pause_s in calls:
        now_s += pause_s
        learn(record, seconds, ok=ok, now_s=now_s, policy=POLICY)
        assert 0.0 <= record.failing <= 1.0
    alone = score(record, now_s + later_s, POLICY)
    record.in_flight = 3
    assert score(record, now_s + later_s, POLICY) == pytest.approx(4 * alone)
    assert alone >= 0


def test_a_probe_that_breaks_leaves_nothing_behind() -> None:
    stage = Stage("ab")
    stage.sources["a"].breaks = True
    with pytest.raises(RuntimeError):
        stage.endpoints.probe_all()
    assert [view.in_flight for view in stage.endpoints.snapshot()] == [0, 0]
