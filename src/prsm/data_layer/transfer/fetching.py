"""One object on its way into its part: the blocks above the leaves first, then the leaves, by several threads.

Nothing is believed but hashes, of what comes as of what an earlier attempt left. An error ends all threads in good
order and leaves the part to the next attempt; what was in flight is fetched again then, and nothing else.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.unixfs import FileNode, decode_node
from prsm.data_layer.codec.unixfs_dag import Leaf
from prsm.data_layer.network.block_fetch import fetch_block
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import ObjectKind, Verified
from prsm.data_layer.store.parts import Part
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.crew import block_buffers, work_together
from prsm.data_layer.transfer.download_plan import Claim, Hedging, Plan
from prsm.data_layer.transfer.progress import Meter
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic

_LOOK_S = 0.25  # how often the spare worker looks for leaves that are stuck


class TooLarge(PrsmError):
    """An object is larger than this download may be; nothing of its content was fetched."""

    kind = Kind.TOO_LARGE
    code = "object_too_large"


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What a download may cost.

    ``block_budget_s`` is the time for one block at all endpoints, retries included; ``files`` counts directories too.
    """

    workers: int = 8
    block_budget_s: float = 120.0
    total_bytes: int = 1 << 40
    files: int = 100_000
    folders_deep: int = 32


@dataclass(frozen=True, slots=True)
class Supply:
    """Where blocks come from, at what pace, and who can end it."""

    endpoints: Endpoints
    bandwidth: Bandwidth
    traffic: Traffic = Traffic.BULK
    cancelled: Cancellation = field(default_factory=Cancellation)
    limits: DownloadLimits = field(default_factory=DownloadLimits)
    hedging: Hedging = field(default_factory=Hedging)

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for it, who is told soon when nobody answers."""
        return self.traffic is Traffic.INTERACTIVE


class Allowance:
    """What is left of a download's limits; shared by all its objects, from any thread."""

    def __init__(self, limits: DownloadLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._objects = 0
        self.files = 0
        self.size_bytes = 0

    def admit(self, cid: Cid, kind: ObjectKind, size_bytes: int) -> None:
        """Count one more object. Raises TooLarge."""
        with self._lock:
            self._objects += 1
            self.files += kind is ObjectKind.FILE
            self.size_bytes += size_bytes
            if self.size_bytes > self._limits.total_bytes or self._objects > self._limits.files:
                raise TooLarge(
                    f"With {cid} the download has {self._objects:,} files of {self.size_bytes:,} bytes; at most "
                    f"{self._limits.files:,} files of {self._limits.total_bytes:,} bytes are taken.",
                    remedy="Fetch its parts one by one, or raise the limit in the settings of storage.",
                )


class Fetching:
    """The transfer of one object into its part. ``run`` is called once; ``wait_for`` from any thread meanwhile.

    ``salvage`` may put leaves into the part, once they are known and before any is fetched.
    """

    def __init__(
        self,
        part: Part,
        supply: Supply,
        meter: Meter,
        allowance: Allowance,
        salvage: Callable[[], object] | None = None,
    ) -> None:
        self._part = part
        self._salvage = salvage
        self._supply = supply
        self._meter = meter
        self._allowance = allowance
        self._workers = supply.limits.workers
        self._stop = Cancellation(supply.cancelled)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._spare = threading.Condition(lock)
        self._plan: Plan | None = None
        self._leaves: list[Leaf] = []
        self._attempts: dict[int, _Attempt] = {}

    def run(self) -> None:
        """Fetch all that is missing. Raises StorageFault, BadBlock, TooLarge; the part stays as far as it came."""
        with self._stop.waking(self._wake):
            self._expand()
            if self._part.kind is ObjectKind.FILE:
                self._fetch_leaves()

    def wait_for(self, offset: int, size_bytes: int, cancelled: Cancellation, ahead_bytes: int = 0) -> None:
        """Put a range ahead of all others and wait until it is on the disk; ``ahead_bytes`` behind it come next.

        Raises Cancelled when either side ends.
        """
        with cancelled.waking(self._wake), self._changed:
            while (plan := self._plan) is None or not plan.want(offset, size_bytes, ahead_bytes):
                if plan is not None:
                    ahead_bytes = 0  # said once is enough
                cancelled.check()
                self._stop.check()
                self._changed.wait()

    @property
    def complete(self) -> bool:
        """Whether every leaf of the file is on the disk."""
        plan = self._plan
        return plan is not None and plan.finished

    def close(self) -> None:
        """End the waiting of readers, where ``run`` did not bring what they wait for."""
        self._stop.set()
        self._wake()  # ``run`` has ended, and with it what passes a stop on to those who wait

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
            self._spare.notify_all()

    def _expand(self) -> None:
        """Fetch the blocks above the leaves, level by level, and leaves that only their own block shows to be some."""
        if (kind := self._part.kind) is not None:  # from an earlier attempt
            self._admit(kind, self._part.size_bytes or 0)
        while wanted := self._part.wanted:
            buffers = block_buffers(min(self._workers, len(wanted)))
            work_together(partial(self._feed, iter(wanted)), buffers, self._stop)

    def _admit(self, kind: ObjectKind, size_bytes: int) -> None:
        self._allowance.admit(self._part.cid, kind, size_bytes)
        self._meter.add(total_bytes=size_bytes, done_bytes=self._part.have_bytes, files=kind is ObjectKind.FILE)

    def _feed(self, coming: Iterator[Cid], buffer: memoryview) -> None:
        while True:
            with self._changed:
                cid = next(coming, None)
            if cid is None:
                return
            size = self._fetch(cid, buffer, _Attempt(self._stop))
            if cid == self._part.cid:  # before the part makes room for it
                node = decode_node(cid, buffer[:size])
                is_file = isinstance(node, FileNode)
                self._admit(ObjectKind.FILE if is_file else ObjectKind.DIRECTORY, node.size_bytes if is_file else 0)
            with self._changed:
                fed = self._part.feed(Verified.checked(cid, buffer[:size]))
            self._meter.add(moved_bytes=size, done_bytes=sum(len(payload) for _, payload in fed.known))

    def _fetch_leaves(self) -> None:
        part = self._part
        here = part.have_bytes
        part.recheck(pace=Bandwidth().pace(self._supply.traffic, self._stop))
        if self._salvage is not None:
            self._salvage()
        self._meter.add(done_bytes=part.have_bytes - here)
        leaves = self._leaves = part.leaves
        in_flight_bytes = self._workers * max((leaf.size_bytes for leaf in leaves), default=0)
        limit = self._supply.bandwidth.limit_bytes_s(self._supply.traffic)
        hedging = self._supply.hedging.under_limit(limit, in_flight_bytes)
        plan = Plan([leaf.offset for leaf in leaves], part.size_bytes or 0, hedging)
        for index, leaf in enumerate(leaves):
            if part.holds(leaf):
                plan.skip(index)
        with self._changed:
            self._plan = plan
            self._changed.notify_all()
        missing = len(leaves) - plan.whole
        if missing:
            workers = min(self._workers, missing)
            buffers = block_buffers(workers + (workers > 1))
            roles = [(index == workers, buffer) for index, buffer in enumerate(buffers)]
            work_together(partial(self._work, plan), roles, self._stop)

    def _work(self, plan: Plan, role: tuple[bool, memoryview]) -> None:
        spare, buffer = role
        while (claimed := self._claim(plan, spare)) is not None:
            size = self._bring(plan, *claimed, buffer)
            if size is not None:
                self._keep(plan, claimed[0], buffer[:size])

    def _claim(self, plan: Plan, spare: bool) -> "tuple[Claim, _Attempt] | None":
        with self._changed:
            while not plan.finished:
                self._stop.check()
                claim = plan.claim(now_s := time.monotonic(), spare=spare)
                if claim is not None:
                    rivals = [self._attempts[rival.number].asking for rival in plan.rivals(claim)]
                    attempt = self._attempts[claim.number] = _Attempt(self._stop, frozenset(rivals))
                    return claim, attempt
                idle_s = plan.idle_s(now_s, spare=spare)
                if spare:  # not woken by every leaf that comes
                    self._spare.wait(_LOOK_S if idle_s is None else max(idle_s, 0.01))
                else:
                    self._changed.wait(idle_s)
            self._spare.notify_all()
        return None

    def _bring(self, plan: Plan, claim: Claim, attempt: "_Attempt", buffer: memoryview) -> int | None:
        """Fetch a leaf; answers its size, or None when a rival brought it, or still may."""
        try:
            size = self._fetch(self._leaves[claim.leaf].cid, buffer, attempt)
        except StorageFault as fault:
            with self._changed:
                del self._attempts[claim.number]
                covered = plan.lose(claim)
                self._changed.notify_all()
            beaten = attempt.cancelled.is_set() and not self._stop.is_set()
            if covered and (beaten or fault.fault not in (Fault.FATAL, Fault.LOCAL_DISK)):
                return None
            raise
        with self._changed:
            del self._attempts[claim.number]
            won = plan.win(claim)
            losers = [self._attempts[rival.number] for rival in plan.rivals(claim)] if won else []
        for loser in losers:
            loser.cancelled.set()
        return size if won else None

    def _keep(self, plan: Plan, claim: Claim, data: memoryview) -> None:
        leaf = self._leaves[claim.leaf]
        self._part.put(leaf, Verified.checked(leaf.cid, data))
        with self._changed:
            plan.end(claim, fetched_s=time.monotonic() - claim.started_s)
            self._changed.notify_all()
        self._meter.add(moved_bytes=len(data), done_bytes=leaf.size_bytes)

    def _fetch(self, cid: Cid, buffer: memoryview, attempt: "_Attempt") -> int:
        supply = self._supply
        return fetch_block(
            supply.endpoints,
            cid,
            buffer,
            budget_s=supply.limits.block_budget_s,
            pace=supply.bandwidth.pace(supply.traffic, attempt.cancelled),
            urgent=supply.urgent,
            excluding=attempt.excluding,
            on_ask=attempt.asks,
        )


class _Attempt:
    """One running attempt at a block: which endpoint it asks now, and how to end it."""

    def __init__(self, stop: Cancellation, excluding: frozenset[str] = frozenset()) -> None:
        self.cancelled = Cancellation(stop)
        self.excluding = excluding
        self.asking = ""

    def asks(self, endpoint: str) -> None:
        self.asking = endpoint
