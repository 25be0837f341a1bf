"""Which endpoint is asked next, by how each has done so far.

The rules are pure functions over ``Record``; ``Endpoints`` keeps the records under a lock and does no I/O but probes.
A breaker or a ban sends the work elsewhere, but never leaves it undone: blocks are verified, so when nobody better is
left the least bad is asked, by few at a time.
"""

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median_low

from prsm.core.errors import InvalidRequest
from prsm.data_layer.seams import BlockSource, Breakers, Fault, StorageFault


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """The rules' numbers. Averages forget by ``weight`` a call and fade to the prior with ``fade_s``."""

    weight: float = 0.2
    fade_s: float = 60.0
    prior_latency_s: float = 0.1
    window: int = 128
    ban_s: float = 60.0
    max_ban_s: float = 3600.0
    max_rest_s: float = 60.0
    last_resort_calls: int = 2
    max_endpoints: int = 64


@dataclass(slots=True)
class Record:
    """What is known of an endpoint. Times are of one monotonic clock."""

    latency_s: float | None = None
    failing: float = 0.0
    changed_s: float = 0.0
    answered_s: float = -math.inf
    in_flight: int = 0
    last_resorts: int = 0
    resting_until_s: float = 0.0
    banned_until_s: float = 0.0
    bans: int = 0
    ban_reason: str = ""
    fetched: int = 0
    fetched_bytes: int = 0
    missed: int = 0
    failed: int = 0
    last_fault: str = ""
    latencies_s: deque[float] = field(default_factory=lambda: deque[float]())


@dataclass(frozen=True, slots=True)
class EndpointView:
    """What status pages and metrics show of an endpoint."""

    name: str
    in_flight: int
    fetched: int
    fetched_bytes: int
    missed: int
    failed: int
    failing: float
    p50_s: float | None
    resting_s: float
    banned_s: float
    ban_reason: str
    last_fault: str

    @property
    def healthy(self) -> bool:
        """Whether it is among those asked first."""
        return self.banned_s == 0.0 and self.resting_s == 0.0 and self.failing < 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """The right to ask ``source`` once; to be given back by ``report``."""

    source: BlockSource
    admitted_s: float
    last_resort: bool = False


class Endpoints:
    """The endpoints that blocks come from. Thread-safe.

    ``breakers`` are used under this object's lock only, so they are to be its own, and run on the same ``clock``.
    """

    def __init__(
        self,
        sources: Iterable[BlockSource] = (),
        *,
        breakers: Breakers,
        policy: EndpointPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._breakers = breakers
        self._policy = policy or EndpointPolicy()
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._sources: dict[str, BlockSource] = {}
        self._records: dict[str, Record] = {}
        self.fetched_bytes = 0
        """Of verified blocks, from all endpoints that ever were."""
        for source in sources:
            self.add(source)

    @property
    def names(self) -> tuple[str, ...]:
        """All endpoints, as they were added."""
        with self._lock:
            return tuple(self._sources)

    def add(self, source: BlockSource) -> None:
        """Ask this one too from now on; one of the same name is replaced. Raises InvalidRequest at the limit."""
        with self._lock:
            if source.name not in self._sources and len(self._sources) >= self._policy.max_endpoints:
                raise InvalidRequest(
                    f"There are {self._policy.max_endpoints} endpoints already.",
                    param="endpoints",
                    remedy="Remove one before another is added.",
                )
            replaced = self._sources.get(source.name)
            self._sources[source.name] = source
            self._records[source.name] = Record(latencies_s=deque(maxlen=self._policy.window))
        if replaced is not None:
            replaced.close()

    def remove(self, name: str) -> None:
        """Ask this one no more and end its connections; an unknown name is no error."""
        with self._lock:
            source = self._sources.pop(name, None)
            self._records.pop(name, None)
            self._breakers.reset(name)
        if source is not None:
            source.close()

    def close(self) -> None:
        """Remove all."""
        for name in self.names:
            self.remove(name)

    def choose(self, excluding: Collection[str] = ()) -> Lease | None:
        """The best endpoint that may be asked now; None when none may, see ``ready_in_s``."""
        with self._lock:
            now_s = self._clock()
            ranked = sorted(
                (score(record, now_s, self._policy), self._draw(), name)
                for name, record in self._records.items()
                if name not in excluding and record.resting_until_s <= now_s
            )
            for _, _, name in ranked:
                record = self._records[name]
                if record.banned_until_s <= now_s and self._breakers.allow(name, now_s=now_s):
                    return self._admit(name, now_s, last_resort=False)
            names = [name for _, _, name in ranked]
            for name in sorted(names, key=lambda name: self._records[name].banned_until_s > now_s):
                if self._records[name].last_resorts < self._policy.last_resort_calls:
                    return self._admit(name, now_s, last_resort=True)
            return None

    def report(self, lease: Lease, *, seconds: float, size_bytes: int = 0, fault: StorageFault | None = None) -> None:
        """How a leased call ended: with a verified block of ``size_bytes``, or with ``fault``."""
        with self._lock:
            record = self._end(lease, fault)
            if record is None:
                return
            now_s = self._clock()
            if fault is None:
                record.fetched += 1
                record.fetched_bytes += size_bytes
                self.fetched_bytes += size_bytes
                record.latencies_s.append(seconds)
                learn(record, seconds, ok=True, now_s=now_s, policy=self._policy)
            elif fault.fault not in (Fault.FATAL, Fault.LOCAL_DISK):
                blame(record, fault, seconds, now_s=now_s, policy=self._policy)

    def ready_in_s(self, excluding: Collection[str] = ()) -> float:
        """How long until one that rests may be asked; 0 if one need not rest, infinite if there is none."""
        with self._lock:
            now_s = self._clock()
            rests = (r.resting_until_s - now_s for name, r in self._records.items() if name not in excluding)
            return max(0.0, min(rests, default=math.inf))

    def silent_s(self, excluding: Collection[str] = ()) -> float:
        """How long none of them has answered: with a block, that it has none, or when to come again; maybe infinite."""
        with self._lock:
            answered_s = (record.answered_s for name, record in self._records.items() if name not in excluding)
            return self._clock() - max(answered_s, default=-math.inf)

    def probe_all(self, timeout_s: float = 5.0) -> None:
        """Ask every endpoint that is not banned for a sign of life, side by side; takes ``timeout_s`` at most.

        It is how a breaker closes again without a fetch being risked on it.
        """
        with self._lock:
            now_s = self._clock()
            leases = [
                self._admit(name, now_s, last_resort=False)
                for name, record in self._records.items()
                if max(record.banned_until_s, record.resting_until_s) <= now_s
                and self._breakers.allow(name, now_s=now_s)
            ]
        if leases:
            deadline_s = time.monotonic() + timeout_s
            with ThreadPoolExecutor(len(leases), "probe") as threads:
                probes = [threads.submit(self._probe, lease, deadline_s) for lease in leases]
            for probe in probes:  # each has ended, and given its lease back
                probe.result()

    def snapshot(self) -> tuple[EndpointView, ...]:
        """All endpoints as of now, best first."""
        with self._lock:
            now_s = self._clock()
            records = sorted(
                self._records.items(),
                key=lambda item: (item[1].banned_until_s > now_s, score(item[1], now_s, self._policy)),
            )
            return tuple(_view(name, record, now_s, self._policy) for name, record in records)

    def _admit(self, name: str, now_s: float, *, last_resort: bool) -> Lease:
        record = self._records[name]
        record.in_flight += 1
        record.last_resorts += last_resort
        return Lease(self._sources[name], now_s, last_resort)

    def _end(self, lease: Lease, fault: StorageFault | None) -> Record | None:
        """End a lease and tell the breaker; the record, or None for an endpoint that was removed meanwhile."""
        name = lease.source.name
        record = self._records.get(name)
        if record is None or self._sources[name] is not lease.source:
            return None
        record.in_flight -= 1
        record.last_resorts -= lease.last_resort
        ok = fault is None or fault.fault is Fault.OTHER_REPLICA  # not to have a block is no sickness
        if ok or (fault is not None and fault.retry_after_s is not None):
            record.answered_s = self._clock()
        if lease.last_resort:
            return record  # the breaker did not let it in, and has its own way back
        if fault is not None and fault.fault in (Fault.FATAL, Fault.LOCAL_DISK):
            self._breakers.release(name, admitted_s=lease.admitted_s)
        else:
            self._breakers.record(name, ok=ok, admitted_s=lease.admitted_s)
        return record

    def _probe(self, lease: Lease, deadline_s: float) -> None:
        fault: StorageFault | None = StorageFault("The probe failed.", fault=Fault.FATAL)
        try:
            lease.source.probe(deadline_s)
            fault = None
        except StorageFault as failed:
            fault = failed
        finally:
            with self._lock:
                record = self._end(lease, fault)
                if record is not None and fault is not None and fault.fault is not Fault.FATAL:
                    blame(record, fault, 0.0, now_s=self._clock(), policy=self._policy)


def score(record: Record, now_s: float, policy: EndpointPolicy) -> float:
    """The seconds that a block may be expected to cost there; lower is better.

    Latency times what is in flight, over the chance of success, squared since a failed call costs another one besides
    its own time; what was learnt long ago counts less.
    """
    kept = math.exp((record.changed_s - now_s) / policy.fade_s)
    latency_s = policy.prior_latency_s
    if record.latency_s is not None:
        latency_s += (record.latency_s - latency_s) * kept
    return latency_s * (record.in_flight + 1) / max(0.01, (1.0 - record.failing * kept) ** 2)


def learn(record: Record, seconds: float, *, ok: bool, now_s: float, policy: EndpointPolicy) -> None:
    """Bring a call into the averages. One that failed counts its time only where that was longer than usual."""
    kept = math.exp((record.changed_s - now_s) / policy.fade_s)
    usual_s = policy.prior_latency_s if record.latency_s is None else record.latency_s
    if ok:
        first = record.latency_s is None
        record.latency_s = seconds if first else usual_s + policy.weight * (seconds - usual_s)
    elif seconds > usual_s:
        record.latency_s = usual_s + policy.weight * (seconds - usual_s)
    record.failing *= kept
    record.failing += policy.weight * ((0.0 if ok else 1.0) - record.failing)
    record.changed_s = now_s


def blame(record: Record, fault: StorageFault, seconds: float, *, now_s: float, policy: EndpointPolicy) -> None:
    """Bring a fault into the record: averages, rest and ban. Each ban lasts twice as long as the one before."""
    learn(record, seconds, ok=False, now_s=now_s, policy=policy)
    record.last_fault = fault.message
    if fault.fault is Fault.OTHER_REPLICA:
        record.missed += 1
        return
    record.failed += 1
    if fault.retry_after_s is not None:
        record.resting_until_s = max(record.resting_until_s, now_s + min(fault.retry_after_s, policy.max_rest_s))
    if fault.fault is Fault.BAN and record.banned_until_s <= now_s:
        record.banned_until_s = now_s + min(policy.max_ban_s, policy.ban_s * 2.0 ** min(record.bans, 32))
        record.bans += 1
        record.ban_reason = fault.message


def _view(name: str, record: Record, now_s: float, policy: EndpointPolicy) -> EndpointView:
    banned_s = max(0.0, record.banned_until_s - now_s)
    return EndpointView(
        name=name,
        in_flight=record.in_flight,
        fetched=record.fetched,
        fetched_bytes=record.fetched_bytes,
        missed=record.missed,
        failed=record.failed,
        failing=record.failing * math.exp((record.changed_s - now_s) / policy.fade_s),
        p50_s=median_low(record.latencies_s) if record.latencies_s else None,
        resting_s=max(0.0, record.resting_until_s - now_s),
        banned_s=banned_s,
        ban_reason=record.ban_reason if banned_s else "",
        last_fault=record.last_fault,
    )
