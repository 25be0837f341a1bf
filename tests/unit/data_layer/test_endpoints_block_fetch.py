"""How one block is got from endpoints that fail: who is asked again, who is not, and what is said at last."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import pytest

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.block_fetch import fetch_block
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
    asked: int = 0
    deadlines_s: list[float] = field(default_factory=list)

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        self.asked += 1
        self.deadlines_s.append(deadline_s - time.monotonic())
        answer = self.script.popleft() if self.script else BLOCK
        if isinstance(answer, Fault):
            raise StorageFault(f"{self.name} said {answer}.", fault=answer, endpoint=self.name)
        into[: len(answer)] = answer
        return len(answer)

    def probe(self, deadline_s: float) -> float:
        return 0.0

    def close(self) -> None:
        pass


def sources(*scripts: list[Fault | bytes]) -> tuple[list[Source], Endpoints]:
    found = [Source("abcdef"[number], deque(script)) for number, script in enumerate(scripts)]
    policy = EndpointPolicy(last_resort_calls=1)
    return found, Endpoints(found, breakers=BreakerBoard(time.monotonic), policy=policy, draw=lambda: 0.0)


def fetch(endpoints: Endpoints, budget_s: float = 30.0, **options) -> bytes:
    into = memoryview(bytearray(100))
    size = fetch_block(endpoints, CID, into, budget_s=budget_s, pace=UNPACED, draw=lambda: 0.0, **options)
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
