"""One block, verified, from whichever endpoint gives it: failover, backoff, and a budget of time for all of it.

No byte counts before its hash was checked. Every failed try is kept, so that what is raised at the end says what each
endpoint did. (Backoff with full jitter: Brooker, "Exponential Backoff And Jitter", 2015.)
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from prsm.core.errors import Kind
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.network.classify import lied
from prsm.data_layer.network.endpoints import Endpoints, EndpointView, Lease
from prsm.data_layer.seams import Fault, Pace, StorageFault

_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0
_LEAST_TRY_S = 5.0
_LEAST_PATIENCE_S = 3.0
_NAP_S = 0.1  # how long a cancelled wait may go on
_MOST_SAID = 12


def fetch_block(
    endpoints: Endpoints,
    cid: Cid,
    into: memoryview,
    *,
    budget_s: float,
    pace: Pace,
    urgent: bool = False,
    excluding: Collection[str] = (),
    on_ask: Callable[[str], None] | None = None,
    draw: Callable[[], float] = random.random,
) -> int:
    """Put the block into ``into``; answers how many bytes. ``into`` may be left with anything after an error.

    Every endpoint but those in ``excluding`` is asked once, best first, then after a pause again those that may answer
    yet, until ``budget_s`` is over (time spent in ``pace`` does not count), or ``patience_s`` where somebody waits for
    the block (``urgent``). ``on_ask`` is told each endpoint's name before it is asked.

    Raises StorageFault: OTHER_REPLICA (not found) when nobody has it, BAN when all that came was wrong, else RETRY;
    FATAL and LOCAL_DISK as they come.
    """
    if cid.identity:
        if len(cid.digest) > len(into):
            raise ValueError("the buffer is smaller than the block")
        into[: len(cid.digest)] = cid.digest
        return len(cid.digest)
    tries = _Tries(cid, budget_s, urgent, _StopwatchPace(pace), set(excluding))
    while True:
        # With no time left nobody is asked: whoever is could only fail, and would be blamed for it.
        lease = endpoints.choose(tries.asked) if tries.left_s() > 0 or not tries.last else None
        if lease is None:
            _pause(endpoints, tries, draw)
            continue
        if on_ask is not None:
            on_ask(lease.source.name)
        size = _try(endpoints, lease, tries, into)
        if size is not None:
            return size


def patience_s(elapsed_s: float, silent_s: float, budget_s: float) -> float:
    """How much longer to try for somebody who waits, when all who may have the block have failed.

    The budget counts from the last sign of life of any of them, ``silent_s`` ago: what was away before the fetch began,
    for longer than a budget, is tried for ``_LEAST_PATIENCE_S`` and no more.
    """
    return min(budget_s - elapsed_s, max(budget_s - silent_s, _LEAST_PATIENCE_S - elapsed_s))


@dataclass(slots=True)
class _Tries:
    """What was tried for one block so far. ``given_up`` are not asked again for it, ``asked`` not in this round."""

    cid: Cid
    budget_s: float
    urgent: bool
    pace: "_StopwatchPace"
    given_up: set[str]
    asked: set[str] = field(init=False)
    started_s: float = field(default_factory=time.monotonic)
    rounds: int = 0
    last: dict[str, Fault] = field(default_factory=lambda: dict[str, Fault]())
    said: dict[str, Counter[str]] = field(default_factory=lambda: dict[str, Counter[str]]())

    def __post_init__(self) -> None:
        self.asked = set(self.given_up)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s - self.pace.waited_s

    def left_s(self) -> float:
        return self.budget_s - self.elapsed_s()

    def failed(self, name: str, fault: StorageFault) -> None:
        self.said.setdefault(name, Counter())[fault.message] += 1
        self.last[name] = fault.fault
        self.asked.add(name)
        if fault.fault is not Fault.RETRY:
            self.given_up.add(name)

    def summary(self, views: Sequence[EndpointView]) -> StorageFault:
        """All that happened in one fault that a person can act on."""
        unasked = [view for view in views if view.name not in self.given_up and view.name not in self.last]
        if not self.last and not unasked:
            return StorageFault(
                f"There is no endpoint to ask for block {self.cid}.",
                fault=Fault.RETRY,
                kind=Kind.UNAVAILABLE,
                code="no_endpoint",
                remedy="Name gateways or an own node in the settings of storage; `prsm storage status` lists them.",
            )
        told = [_most_said(said) for said in self.said.values()]
        told += [f"{view.name} was not asked: {_why_not(view)}" for view in unasked]
        more = f" And {len(told) - _MOST_SAID} more." if len(told) > _MOST_SAID else ""
        said = " ".join(told[:_MOST_SAID]) + more
        message = f"Block {self.cid} could not be fetched from {len(told)} endpoint(s): {said}"
        faults = {*self.last.values(), *(Fault.RETRY for _ in unasked)}
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
    left_s = tries.left_s()
    if tries.urgent and tries.last:
        left_s = patience_s(tries.elapsed_s(), endpoints.silent_s(tries.given_up), tries.budget_s)
    if pause_s >= left_s:
        raise tries.summary(endpoints.snapshot())
    until_s = time.monotonic() + pause_s
    while (left_s := until_s - time.monotonic()) > 0:
        tries.pace.take(0)  # raises when the caller cancelled
        time.sleep(min(left_s, _NAP_S))
    tries.rounds += failed
    tries.asked = set(tries.given_up)


def _most_said(said: Counter[str]) -> str:
    """An endpoint's main trouble; the first one where there was another each time."""
    [(message, _)] = said.most_common(1)
    times = said.total()
    return message + (f" ({times} tries)" if times > 1 else "")


def _why_not(view: EndpointView) -> str:
    if view.resting_s:
        return f"it rests for {view.resting_s:.0f} s, by its own wish."
    return f"others try it already. {view.ban_reason or view.last_fault}".rstrip()
