"""How one block is got from endpoints that fail: who is asked again, who is not, and what is said at last."""

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.block_fetch import fetch_block, patience_s
from prsm.data_layer.network.endpoints import EndpointPolicy, Endpoints
from prsm.data_layer.network.http_fetch import UNPACED
from prsm.data_layer.seams import Fault, Pace, StorageFault
from prsm.safety.circuit_breaker import BreakerBoard

BLOCK = b"the block"
CID = Cid.of(Codec.RAW, BLOCK)


@dataclass
class Source:
    """An endpoint in memory: first what its script says, then the block."""

    name: str
    script: deque[Fault | bytes] = field(default_factory=deque)
    takes_s: float = 0.0
    talkative: bool = False
    asked: int = 0
    deadlines_s: list[float] = field(default_factory=list)

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        self.asked += 1
        self.deadlines_s.append(deadline_s - time.monotonic())
        time.sleep(self.takes_s)
        if self.talkative:
            raise StorageFault(f"{self.name} said {self.asked}.", fault=Fault.RETRY, endpoint=self.name)
        answer = self.script.popleft() if self.script else BLOCK
        if isinstance(answer, Fault):
            raise StorageFault(f"{self.name} said {answer}.", fault=answer, endpoint=self.name)
        into[: len(answer)] = answer
        return len(answer)

    def probe(self, deadline_s: float) -> float:
        return 0.0

    def close(self) -> None:
        pass


def sources(*scripts: Iterable[Fault | bytes]) -> tuple[list[Source], Endpoints]:
    found = [Source("abcdef"[number], deque(script)) for number, script in enumerate(scripts)]
    policy = EndpointPolicy(last_resort_calls=1)
    return found, Endpoints(found, breakers=BreakerBoard(time.monotonic), policy=policy, draw=lambda: 0.0)


def fetch(endpoints: Endpoints, budget_s: float = 30.0, **options) -> bytes:
    into = memoryview(bytearray(100))
    size = fetch_block(endpoints, CID, into, **{"budget_s": budget_s, "pace": UNPACED, "draw": lambda: 0.0} | options)
    return bytes(into[:size])


def test_the_next_is_asked_and_each_is_told_before() -> None:
    _, endpoints = sources([Fault.RETRY], [Fault.OTHER_REPLICA], [])
    told: list[str] = []
    assert fetch(endpoints, on_ask=told.append) == BLOCK
    assert told == ["a", "b", "c"]
    assert [view.in_flight for view in endpoints.snapshot()] == [0, 0, 0]


def test_only_what_may_pass_is_asked_again() -> None:
    found, endpoints = sources([Fault.RETRY] * 3, [Fault.OTHER_REPLICA] * 9, [b"a lie"] * 9)
    assert fetch(endpoints) == BLOCK
    assert [source.asked for source in found] == [4, 1, 1]


def test_excluded_ones_are_never_asked() -> None:
    found, endpoints = sources([], [Fault.OTHER_REPLICA])
    with pytest.raises(StorageFault, match="b said other_replica"):
        fetch(endpoints, excluding={"a"})
    with pytest.raises(StorageFault, match="no endpoint to ask"):
        fetch(endpoints, excluding={"a", "b"})
    assert [source.asked for source in found] == [0, 1]


@pytest.mark.parametrize("fault", [Fault.FATAL, Fault.LOCAL_DISK])
def test_what_no_other_endpoint_can_help_ends_it(fault: Fault) -> None:
    found, endpoints = sources([fault], [])
    with pytest.raises(StorageFault, match=f"^a said {fault}") as ended:
        fetch(endpoints)
    assert ended.value.fault is fault
    assert found[1].asked == 0
    assert endpoints.snapshot()[0].in_flight == 0


@pytest.mark.parametrize(
    ("scripts", "fault", "code"),
    [
        ([[Fault.OTHER_REPLICA]] * 2, Fault.OTHER_REPLICA, "block_not_found"),
        ([[b"lie"]] * 2, Fault.BAN, "block_not_fetched"),
        ([[b"lie"], [Fault.OTHER_REPLICA]], Fault.RETRY, "block_not_fetched"),
        ([[b"lie"], [Fault.RETRY] * 9999], Fault.RETRY, "block_not_fetched"),
    ],
)
def test_the_last_word_names_all_that_happened(scripts: list[list[Fault | bytes]], fault: Fault, code: str) -> None:
    found, endpoints = sources(*scripts)
    with pytest.raises(StorageFault) as failed:
        fetch(endpoints, budget_s=0.05)
    assert (failed.value.fault, failed.value.code) == (fault, code)
    assert str(CID) in failed.value.message
    for source, script in zip(found, scripts, strict=True):
        assert (
            f"{source.name} lied" in failed.value.message or f"{source.name} said {script[0]}" in failed.value.message
        )
    assert len(failed.value.message) < 1000
    assert failed.value.remedy


def test_one_that_hangs_leaves_time_for_others() -> None:
    found, endpoints = sources([Fault.RETRY], [Fault.RETRY], [])
    fetch(endpoints, budget_s=900)
    assert all(200 < source.deadlines_s[0] <= 300 for source in found)
    [last], endpoints = sources([])
    fetch(endpoints, budget_s=3)
    assert last.deadlines_s[0] <= 3


def test_work_that_others_have_taken_all_places_of_a_last_resort_from_waits_for_one() -> None:
    _, endpoints = sources([b"lie"])
    with pytest.raises(StorageFault, match="lied"):
        fetch(endpoints)
    held = endpoints.choose()
    assert held is not None
    assert held.last_resort
    assert endpoints.choose() is None
    timer = threading.Timer(0.1, lambda: endpoints.report(held, seconds=0.1))
    timer.start()
    assert fetch(endpoints) == BLOCK
    timer.join()


def test_what_the_buffer_held_is_never_answered_for_the_block() -> None:
    _, endpoints = sources([b""])
    into = memoryview(bytearray(BLOCK))
    with pytest.raises(StorageFault, match="0 bytes"):
        fetch_block(endpoints, CID, into, budget_s=1, pace=UNPACED)


def test_an_identity_that_does_not_fit_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="smaller"):
        fetch_block(
            sources()[1], Cid(Codec.RAW, b"xyz", identity=True), memoryview(bytearray(2)), budget_s=1, pace=UNPACED
        )


@pytest.mark.parametrize(
    ("elapsed_s", "silent_s", "left_s"),
    [
        (0, float("inf"), 3),  # never heard of: a few tries
        (4, float("inf"), -1),
        (0, 3600, 3),
        (0, 60, 3),
        (10, 10, 50),  # they answered just before it began
        (10, 2, 50),  # one of them answers others meanwhile
        (10, 25, 35),  # away for a quarter of a minute when it began
        (59, 59.5, 0.5),
    ],
)
def test_patience_counts_from_the_last_sign_of_life(elapsed_s: float, silent_s: float, left_s: float) -> None:
    assert patience_s(elapsed_s, silent_s, 60.0) == left_s


@given(st.floats(0, 100), st.floats(0, 1e9), st.floats(0.01, 3600))
def test_patience_never_goes_beyond_the_budget(elapsed_s: float, silent_s: float, budget_s: float) -> None:
    left_s = patience_s(elapsed_s, silent_s, budget_s)
    assert left_s <= budget_s - elapsed_s
    assert left_s == budget_s - elapsed_s or silent_s > elapsed_s


AWAY = [Fault.RETRY] * 10_000


def test_nobody_waits_long_for_endpoints_that_were_away_before() -> None:
    found, endpoints = sources(AWAY, [Fault.OTHER_REPLICA], AWAY)
    with pytest.raises(StorageFault, match=r"a said retry.* b said other_replica.* c said retry") as failed:
        fetch(endpoints, budget_s=1e6, urgent=True, draw=lambda: 1.0)
    assert failed.value.fault is Fault.RETRY
    assert (found[0].asked > 1, found[1].asked, found[2].asked > 1) == (True, 1, True)


def test_one_that_answered_just_before_is_waited_for() -> None:
    [only], endpoints = sources([])
    assert fetch(endpoints, urgent=True) == BLOCK
    only.script.extend([Fault.RETRY] * 5)  # the pauses between them are longer than the least patience
    assert fetch(endpoints, urgent=True, draw=lambda: 1.0) == BLOCK
    assert not only.script


def test_all_are_asked_once_however_long_it_takes_and_nobody_is_without_time_to_answer() -> None:
    found, endpoints = sources(*[AWAY] * 4)
    for slow in found[:2]:
        slow.takes_s = 0.3
    with pytest.raises(StorageFault):
        fetch(endpoints, budget_s=0.25)
    assert min(deadline_s for source in found for deadline_s in source.deadlines_s) > 0
    assert sum(view.failed for view in endpoints.snapshot()) == sum(source.asked for source in found) < 4


def test_those_that_could_not_be_asked_are_named_and_may_have_it() -> None:
    found, endpoints = sources([Fault.OTHER_REPLICA] * 9, [])
    endpoints.report(
        endpoints.choose({"a"}), seconds=0.1, fault=StorageFault("busy", fault=Fault.RETRY, retry_after_s=50)
    )
    with pytest.raises(StorageFault, match=r"a said other_replica.* b was not asked: it rests for 50 s") as failed:
        fetch(endpoints, budget_s=20)
    assert failed.value.fault is Fault.RETRY, "b may have it"
    with pytest.raises(StorageFault, match=r"1 endpoint\(s\): b was not asked: it rests for 50 s"):
        fetch(endpoints, budget_s=20, excluding={"a"})
    assert found[1].asked == 0


def test_one_that_others_try_already_is_named_with_its_trouble() -> None:
    _, endpoints = sources([b"lie"])
    with pytest.raises(StorageFault):
        fetch(endpoints)
    held = endpoints.choose()
    assert held is not None
    with pytest.raises(StorageFault, match=r"a was not asked: others try it already\. a lied about"):
        fetch(endpoints, budget_s=0.05, urgent=True)
    endpoints.report(held, seconds=0.1)


def test_each_endpoint_is_named_with_a_trouble_however_much_another_says() -> None:
    found, endpoints = sources([], AWAY, AWAY)
    found[0].talkative = True
    with pytest.raises(StorageFault) as failed:
        fetch(endpoints, budget_s=0.2)
    for name in "abc":
        assert f"{name} said" in failed.value.message
