"""One block, verified, from whichever endpoint gives it: failover, backoff, and a budget of time for all of it.

No byte counts before its hash was checked. Every failed try is kept, so that what is raised at the end says what each
endpoint did. (Backoff with full jitter: Brooker, "Exponential Backoff And Jitter", 2015.)
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from prsm.core.errors import Kind
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.classify import lied
from prsm.data_layer.network.endpoints import Endpoints, Lease
from prsm.data_layer.seams import Fault, Pace, StorageFault

_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0
_LEAST_TRY_S = 5.0
_NAP_S = 0.1  # how long a cancelled wait may go on
_MOST_SAID = 12


def fetch_block(
    endpoints: Endpoints,
    cid: Cid,
    into: memoryview,
    *,
    budget_s: float,
    pace: Pace,
    excluding: Collection[str] = (),
    on_ask: Callable[[str], None] | None = None,
    draw: Callable[[], float] = random.random,
) -> int:
    """Put the block into ``into``; answers how many bytes. ``into`` may be left with anything after an error.

    Every endpoint but those in ``excluding`` is asked once, best first, then after a pause again those that may answer
    yet, until ``budget_s`` is over (time spent in ``pace`` does not count). ``on_ask`` is told each endpoint's name
    before it is asked. Raises StorageFault: OTHER_REPLICA (not found) when nobody has it, BAN when all that came was
    wrong, RETRY otherwise; FATAL and LOCAL_DISK as they come.
    """
    if cid.identity:
        if len(cid.digest) > len(into):
            raise ValueError("the buffer is smaller than the block")
        into[: len(cid.digest)] = cid.digest
        return len(cid.digest)
    tries = _Tries(cid, budget_s, _StopwatchPace(pace), set(excluding))
    while True:
        lease = endpoints.choose(tries.asked)
        if lease is None:
            _pause(endpoints, tries, draw)
            continue
        if on_ask is not None:
            on_ask(lease.source.name)
        size = _try(endpoints, lease, tries, into)
        if size is not None:
            return size


@dataclass(slots=True)
class _Tries:
    """What was tried for one block so far. ``given_up`` are not asked again for it, ``asked`` not in this round."""

    cid: Cid
    budget_s: float
    pace: "_StopwatchPace"
    given_up: set[str]
    asked: set[str] = field(init=False)
    started_s: float = field(default_factory=time.monotonic)
    rounds: int = 0
    last: dict[str, Fault] = field(default_factory=lambda: dict[str, Fault]())
    said: Counter[str] = field(default_factory=lambda: Counter[str]())

    def __post_init__(self) -> None:
        self.asked = set(self.given_up)

    def left_s(self) -> float:
        return self.started_s + self.budget_s + self.pace.waited_s - time.monotonic()

    def failed(self, name: str, fault: StorageFault) -> None:
        self.said[fault.message] += 1
        self.last[name] = fault.fault
        self.asked.add(name)
        if fault.fault is not Fault.RETRY:
            self.given_up.add(name)

    def summary(self) -> StorageFault:
        """All that happened in one fault that a person can act on."""
        if not self.last:
            return StorageFault(
                f"There is no endpoint to ask for block {self.cid}.",
                fault=Fault.RETRY,
                kind=Kind.UNAVAILABLE,
                code="no_endpoint",
                remedy="Name gateways or an own node in the settings of storage; `prsm storage status` lists them.",
            )
        told = [said + (f" ({count} times)" if count > 1 else "") for said, count in self.said.most_common(_MOST_SAID)]
        message = f"Block {self.cid} could not be fetched from {len(self.last)} endpoint(s): {' '.join(told)}"
        faults = set(self.last.values())
        if faults == {Fault.OTHER_REPLICA}:
            return StorageFault(
                message,
                fault=Fault.OTHER_REPLICA,
                kind=Kind.NOT_FOUND,
                code="block_not_found",
                remedy="Check the CID, or add an endpoint that has it.",
            )
        return StorageFault(
            message,
            fault=Fault.BAN if faults == {Fault.BAN} else Fault.RETRY,
            code="block_not_fetched",
            remedy="See `prsm storage status`; run it again, or add an endpoint.",
        )


@dataclass(slots=True)
class _StopwatchPace:
    """A pace that counts how long it was waited for: our own limits are no fault of an endpoint."""

    pace: Pace
    waited_s: float = 0.0

    def take(self, size_bytes: int) -> None:
        started_s = time.monotonic()
        self.pace.take(size_bytes)
        self.waited_s += time.monotonic() - started_s


def _try(endpoints: Endpoints, lease: Lease, tries: _Tries, into: memoryview) -> int | None:
    """Ask one endpoint; None when it failed in a way that others may make up for."""
    name = lease.source.name
    started_s, waited_s = time.monotonic(), tries.pace.waited_s
    size, fault = 0, StorageFault("The caller failed.", fault=Fault.FATAL)
    try:
        left_s = tries.left_s()
        # One that hangs leaves time for others.
        deadline_s = started_s + max(min(left_s, _LEAST_TRY_S), left_s / 3)
        size = lease.source.fetch(tries.cid, into, deadline_s=deadline_s, pace=tries.pace)
        if not tries.cid.names(into[:size]):
            raise lied(name, tries.cid, f"the {size} bytes that it sent have another hash")
        fault = None
    except StorageFault as failed:
        fault = failed
        if failed.fault in (Fault.FATAL, Fault.LOCAL_DISK):
            raise
        tries.failed(name, failed)
    finally:
        seconds = time.monotonic() - started_s - (tries.pace.waited_s - waited_s)
        endpoints.report(lease, seconds=seconds, size_bytes=size, fault=fault)
    return size if fault is None else None


def _pause(endpoints: Endpoints, tries: _Tries, draw: Callable[[], float]) -> None:
    """Wait before the next round. Raises the summary when no time is left or nobody is."""
    failed = tries.asked != tries.given_up  # else those left are resting or busy with others: no reason to back off
    jitter_s = draw() * min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (min(tries.rounds, 32) if failed else 0))
    pause_s = max(jitter_s, endpoints.ready_in_s(tries.given_up))
    if pause_s >= tries.left_s():
        raise tries.summary()
    until_s = time.monotonic() + pause_s
    while (left_s := until_s - time.monotonic()) > 0:
        tries.pace.take(0)  # raises when the caller cancelled
        time.sleep(min(left_s, _NAP_S))
    tries.rounds += failed
    tries.asked = set(tries.given_up)
