"""The storage of a node: files and directories by CID, kept on its disk, fetched from wherever they are.

What is here is served with no wait for any network, and a file by its CID without the catalog too. What is not is
fetched once, however many ask, from all endpoints together, each block verified. The rest of the node sees only this.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog

from prsm.core.database import UNREACHABLE
from prsm.core.errors import InvalidRequest, Kind, PrsmError, Unavailable
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_walk import EntityBytes, Scope, car_of
from prsm.data_layer.codec.directories import Built, resolve
from prsm.data_layer.codec.unixfs import FileNode, decode_node
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.network.block_fetch import fetch_block
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.seams import Pace, StorageFault
from prsm.data_layer.store.block_finder import BlockFinder
from prsm.data_layer.store.catalog import Catalog, Located, State, StoredObject, Upload
from prsm.data_layer.store.collector import Collected, Collector
from prsm.data_layer.store.ingest import Intake, ReadInto, Stored, ingest
from prsm.data_layer.store.keeping import KeptFiles, kept
from prsm.data_layer.store.object_files import NotStored, ObjectKind, StoredFile
from prsm.data_layer.store.object_index import Damaged, kind_on_disk, read_index
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.store.scrub import Scrubbed, scrub
from prsm.data_layer.stored_models import ModelContents, OpenModel, inspect_stored, open_stored_model
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.download import Fetched
from prsm.data_layer.transfer.fetching import DownloadLimits, Supply
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.reading import Reader, StoredReader, following
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic
from prsm.data_layer.transfer.transfers import Transfers
from prsm.data_layer.transfer.upload_drain import Uploads

Answer = TypeVar("Answer")

_REPORT_S = 0.25
_REPAIR_AGAIN_S = 600.0
_CAR_PIECE_BYTES = 512 * 1024
_ASKED_AT_ONCE = 1000
_READS_COUNTED = 10_000
_log: Any = structlog.get_logger("storage")


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """What the storage of a node may take, and how it adds files.

    ``quota_bytes`` is for one owner's pins; ``scrub_bytes_s`` is how fast the disk is read to verify what is stored;
    ``others_patience_s`` how long another worker's transfer may stand still while it is waited for.
    """

    profile: str = "unixfs-v1-2025"
    limit_bytes: int = 100 << 30
    object_limit_bytes: int = 100 << 30
    quota_bytes: int = 20 << 30
    workers: int = 8
    block_budget_s: float = 60.0
    scrub_after_s: float = 30 * 86_400.0
    scrub_bytes_s: int = 64 << 20
    others_patience_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a directory; the rest is known once it is stored here."""

    name: str
    cid: Cid
    stored: StoredObject | None


class EnhancedIPFS:
    """The one door to storage. ``owner`` is the name under which somebody keeps an object."""

    def __init__(
        self,
        catalog: Catalog,
        collector: Collector,
        neighbours: Neighbours,
        uploads: Uploads,
        bandwidth: Bandwidth,
        policy: StoragePolicy,
    ) -> None:
        self.files = catalog.files
        self.catalog = catalog
        self.endpoints = neighbours.endpoints
        self.uploads = uploads
        self.policy = policy
        self._collector = collector
        self._neighbours = neighbours
        self._bandwidth = bandwidth
        self._disk = Bandwidth(policy.scrub_bytes_s)
        self._pools = Pools()
        self._closing = Cancellation()
        self._damaged: set[Cid] = set()
        self._transfers = Transfers(
            catalog,
            self._pools,
            self._closing,
            self._supply,
            self._free,
            self._damaged,
            patience_s=policy.others_patience_s,
        )
        self._reads: dict[Cid, int] = {}
        self._repair_after_s: dict[Cid, float] = {}

    async def aclose(self) -> None:
        """End all transfers; what has come stays for the next run."""
        await asyncio.to_thread(self._closing.set)
        await self.uploads.aclose()
        await self._transfers.aclose()
        await asyncio.to_thread(self.endpoints.close)
        await self._pools.aclose()
        try:
            await self.flush_reads()
        except UNREACHABLE as error:
            _log.warning("reads were not counted", error=type(error).__name__)

    @property
    def transfers(self) -> list[Progress]:
        """How far each download under way is."""
        return [transfer.progress for transfer in self._transfers.current]

    async def free_bytes(self) -> int:
        """What may still be taken of the file system."""
        return await self._run(self.files.free_bytes)

    # Adding

    async def add(
        self, read_into: ReadInto, owner: str, profile: str = "", size_hint: int = 0, *, limited: bool = False
    ) -> Stored:
        """Take in a file from ``read_into`` (called in a thread) and keep it for ``owner``; ``limited`` by the quota.

        A damaged object of the same CID is whole again then. Raises what ``read_into`` raises, InvalidRequest for an
        unknown profile, PrsmError (``storage_quota_exceeded``), StorageFault (LOCAL_DISK).
        """
        chosen = self._profile(profile)
        if await self.free_bytes() < size_hint:
            await self._free(size_hint)
        async with kept(self.catalog, why="add") as holder:
            files = KeptFiles(self.catalog, holder)
            # Renewed although it may be here: what is there was read and hashed some time ago, this one now.
            take_in = partial(ingest, read_into, files, chosen, pace=self._unpaced(), size_hint=size_hint, replace=True)
            stored = await run_in(self._pools.taking_in, take_in)
            await self._record(stored)
            await self._pin(stored.cid, owner, limited=limited)
        return replace(stored, fresh=stored.cid not in files.was_there)

    async def add_directory(
        self, entries: Sequence[tuple[str, Cid]], owner: str, profile: str = "", *, limited: bool = False
    ) -> Stored:
        """Make a directory of objects that are here, by their paths below it, and keep all of it for ``owner``.

        Raises NotStored, InvalidRequest for a bad path, PrsmError (``storage_quota_exceeded``).
        """
        chosen = self._profile(profile)
        cids = {cid for _, cid in entries}
        async with kept(self.catalog, *cids, why="add") as holder:
            known = await self._known(cids)
            for _, cid in entries:
                if cid not in known or known[cid].state is State.MISSING:
                    raise _not_here(cid)
            links = [(path, Built(cid, known[cid].dag_bytes)) for path, cid in entries]
            with Intake(KeptFiles(self.catalog, holder), chosen) as intake:
                made = await self._run(partial(intake.tree, links))
            for stored in made:
                await self._record(stored)
            await self._pin(made[-1].cid, owner, limited=limited)
        return made[-1]

    # Reading

    async def open(self, cid: Cid) -> StoredFile:
        """A file that is here; needs no catalog. Raises NotStored, InvalidRequest for a directory, Damaged."""
        if cid in self._damaged:
            raise Damaged(cid, "A part")
        try:
            file = await self._run(partial(self.files.open, cid))
        except NotStored:
            if await self._run(partial(kind_on_disk, self.files, cid)) is ObjectKind.DIRECTORY:
                raise _is_directory(cid) from None
            raise
        self._count_read(cid)
        return file

    @asynccontextmanager
    async def open_or_fetch(self, cid: Cid) -> AsyncGenerator[Reader]:
        """A file for reading: what is here at once, anything else as it comes, the parts that are read first.

        When its last reader leaves before the end, the transfer ends; what has come stays for a later one. Raises
        InvalidRequest for a directory, StorageFault, BadBlock, TooLarge.
        """
        if await self._is_here(cid):
            with await self.open(cid) as file:
                yield StoredReader(file, self._pools)
            return
        if cid.codec is Codec.DAG_PB and not self._transfers.fetches(cid):
            await self._require_file(cid)
        async with self._transfers.join(cid) as transfer, following(transfer, self._pools, self._closing) as reader:
            yield reader

    async def resolve(self, cid: Cid, path: str) -> Cid:
        """What a path below an object that is here leads to. Raises NotStored, NoSuchEntry."""
        return await self._run(partial(resolve, cid, path, self._finder().get)) if path.strip("/") else cid

    async def block(self, cid: Cid) -> bytes:
        """One block of what is here, verified. Raises NotStored, StorageFault (LOCAL_DISK)."""
        if cid.identity:
            return cid.digest
        root, block = await self._run(partial(self._finder().find, cid))
        self._count_read(root)
        return block

    async def car(self, cid: Cid, path: str, scope: Scope, entity: EntityBytes | None) -> AsyncIterator[bytes]:
        """A CAR of what is here, in pieces. Raises NotStored and NoSuchEntry at once, not in the midst of it."""
        pieces = car_of(cid, path, scope, entity, self._finder().get)
        first = await self._run(partial(_gathered, pieces))
        self._count_read(cid)
        return self._in_threads(pieces, first)

    async def entries(self, cid: Cid) -> list[Entry]:
        """The entries of a directory that is here. Raises NotStored, InvalidRequest for a file."""
        index = await self._run(partial(read_index, self.files, cid))
        if index.kind is not ObjectKind.DIRECTORY:
            raise InvalidRequest(f"{cid} is a file, not a directory.", param="cid")
        children = await self._run(lambda: list(index.children()))
        known = await self._known({child for _, child in children})
        return [Entry(name, child, known.get(child)) for name, child in children]

    # Models

    async def inspect(self, cid: Cid) -> ModelContents:
        """What a file or directory that is here holds as a model. Raises UnsafeModelFile, NotStored."""
        return await run_in(self._pools.care, partial(inspect_stored, self.files, cid))

    @asynccontextmanager
    async def open_model(self, cid: Cid) -> AsyncGenerator[OpenModel]:
        """A model that is here, inspected and in memory, kept from collectors for the time of the context.

        Raises as ``inspect``. Views of its maps must be gone at the end.
        """
        async with kept(self.catalog, cid, why="model"):
            opening = open_stored_model(self.files, cid)
            model = await run_in(self._pools.care, opening.__enter__)
            try:
                self._count_read(cid)
                yield model
            finally:
                opening.__exit__(None, None, None)

    # What is here, and who keeps it

    async def object(self, cid: Cid) -> StoredObject:
        """What is known of an object that is here. Raises NotStored."""
        found = await self.catalog.get(cid)
        if found is None or found.state is State.MISSING:
            raise _not_here(cid)
        return found

    async def pin(self, cid: Cid, owner: str, *, limited: bool = False) -> None:
        """Keep an object that is here for ``owner``; ``limited`` by the quota. Raises NotStored, PrsmError."""
        async with kept(self.catalog, cid, why="pin"):  # so that it is still here when it is pinned
            await self.object(cid)
            await self._pin(cid, owner, limited=limited)

    async def unpin(self, cid: Cid, owner: str) -> None:
        """Keep it no more. Raises NotStored when ``owner`` did not."""
        if not await self.catalog.unpin(cid, owner):
            raise NotStored(f"{cid} is not pinned by you.", remedy="See what is: prsm storage ls")

    async def check_quota(self, owner: str, size_bytes: int) -> None:
        """Refuse early what would take an owner's pins beyond the quota; ``limited`` has the last word."""
        left = await self.quota_left(owner)
        if size_bytes > left:
            raise _quota_exceeded(left, size_bytes)

    async def quota_left(self, owner: str) -> int:
        """How many bytes more an owner may keep."""
        return max(0, self.policy.quota_bytes - await self.catalog.pinned_bytes(owner))

    # Fetching

    async def fetch(self, cid: Cid) -> StoredObject:
        """Have an object here, whole. Raises StorageFault, BadBlock, TooLarge; what has come stays for a later call."""
        async for _ in self.fetch_telling(cid):
            pass
        return await self.object(cid)

    async def fetch_telling(self, cid: Cid) -> AsyncGenerator[Progress]:
        """Have an object here, saying several times a second how far it is; ends when all of it is here."""
        if await self._is_here(cid):
            self._count_read(cid)
            return
        async with self._transfers.join(cid) as transfer:
            while not transfer.task.done():
                yield transfer.progress
                await asyncio.wait([transfer.task], timeout=_REPORT_S)
            transfer.task.result()

    # Sending

    async def publish(self, cid: Cid) -> list[Upload]:
        """Queue an object that is here for every node of one's own; answers what the queue has of it."""
        nodes = self._neighbours.nodes
        if not nodes:
            raise Unavailable(
                "No IPFS node of your own is configured to upload to.",
                code="no_own_node",
                remedy="Set PRSM_STORAGE_NODES to the address of its RPC API, as http://127.0.0.1:5001.",
            )
        async with kept(self.catalog, cid, why="publish"):  # the queue keeps it from then on
            await self.object(cid)
            for name in nodes:
                await self.uploads.queue.add([cid], name)
        return await self.uploads.queue.entries(cid=cid)

    # Care

    async def verify(self, cid: Cid) -> Scrubbed:
        """Read an object from the disk and hash all of it; the catalog notes what was found. Raises NotStored."""
        return await self._verify(cid, self._unpaced())

    async def repair(self, cid: Cid, *, traffic: Traffic = Traffic.INTERACTIVE) -> Fetched:
        """Fetch what is damaged of an object and of all under it, and only that. Raises NotStored, StorageFault."""
        await self.object(cid)
        async with self._transfers.join(cid, traffic, repair=True) as transfer:
            return await asyncio.shield(transfer.task)

    async def verify_next(self) -> None:
        """Verify what was verified longest ago, if that is long enough, and repair what is damaged."""
        for cid in await self.catalog.longest_unverified(self.policy.scrub_after_s):
            try:
                await self._verify(cid, self._disk.pace(Traffic.BACKGROUND, self._closing))
            except (NotStored, StorageFault) as error:
                self._closing.check()
                _log.warning("not verified", cid=str(cid), reason=error.message)
        damaged = await self.catalog.in_state(State.DAMAGED)
        self._damaged.clear()
        self._damaged.update(damaged)
        now_s = time.monotonic()
        self._repair_after_s = {cid: at_s for cid, at_s in self._repair_after_s.items() if cid in self._damaged}
        for cid in damaged if self.endpoints.names else ():
            if self._repair_after_s.get(cid, now_s) <= now_s:
                try:
                    await self.repair(cid, traffic=Traffic.BACKGROUND)
                except PrsmError as error:  # the next one may be had
                    self._repair_after_s[cid] = now_s + _REPAIR_AGAIN_S
                    _log.warning("not repaired", cid=str(cid), reason=error.message)

    async def collect(self) -> Collected:
        """Delete what nobody keeps."""
        return await self._collector.collect_garbage() or Collected()

    async def make_room(self) -> None:
        """Bring what is stored within the limit, by what nobody keeps and nobody reads."""
        await self._collector.evict(self.policy.limit_bytes)

    async def reconcile(self) -> None:
        """Bring disk and catalog together, as at each start."""
        await self._collector.reconcile(pace=self._disk.pace(Traffic.BACKGROUND, self._closing))

    async def meet(self) -> None:
        """Learn which endpoints there are now and which of them answer."""
        await run_in(self._pools.care, self._neighbours.learn)
        await run_in(self._pools.care, self.endpoints.probe_all)
        await self.uploads.welcome_back()

    async def flush_reads(self) -> None:
        """Tell the catalog what was read since the last call: what is read often stays longest."""
        reads, self._reads = self._reads, {}
        try:
            await self.catalog.count_reads(reads)
        except BaseException:
            for cid, count in reads.items():
                self._count_read(cid, count)
            raise

    # Inside

    async def _is_here(self, cid: Cid) -> bool:
        """Whether this is a file that can be read now; asks the catalog no more than whether it is damaged."""
        if cid in self._damaged or await self._run(partial(kind_on_disk, self.files, cid)) is not ObjectKind.FILE:
            return False
        try:
            row = await self.catalog.get(cid)
        except UNREACHABLE:
            return True
        return row is not None and row.state is State.WHOLE

    async def _require_file(self, cid: Cid) -> None:
        """Refuse a directory before all of it is fetched in vain."""

        def is_file() -> bool:
            buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
            pace = self._bandwidth.pace(Traffic.INTERACTIVE, self._closing)
            size = fetch_block(self.endpoints, cid, buffer, budget_s=self.policy.block_budget_s, pace=pace)
            return isinstance(decode_node(cid, buffer[:size]), FileNode)

        kind = await self._run(partial(kind_on_disk, self.files, cid))
        if kind is ObjectKind.DIRECTORY or (kind is None and not await run_in(self._pools.following, is_file)):
            raise _is_directory(cid)

    def _supply(self, traffic: Traffic, cancelled: Cancellation) -> Supply:
        limits = DownloadLimits(self.policy.workers, self.policy.block_budget_s, self.policy.object_limit_bytes)
        return Supply(self.endpoints, self._bandwidth, traffic, cancelled, limits)

    async def _free(self, size_bytes: int) -> None:
        """Free so many bytes of the disk, as far as nobody keeps or reads what takes them."""
        stored_bytes = (await self.catalog.usage()).stored_bytes
        await self._collector.evict(max(0, min(self.policy.limit_bytes, stored_bytes - size_bytes)))

    async def _verify(self, cid: Cid, pace: Pace) -> Scrubbed:
        try:
            scrubbed = await run_in(self._pools.care, partial(scrub, self.files, cid, pace=pace))
        except NotStored:
            if await self._run(partial(kind_on_disk, self.files, cid)) is None:
                await self.catalog.mark(cid, State.MISSING)
            raise
        except StorageFault as fault:
            if fault.code == "disk_failed":
                await self.catalog.mark(cid, State.DAMAGED)
            raise
        await self.catalog.mark(cid, State.WHOLE if scrubbed.whole else State.DAMAGED)
        (self._damaged.discard if scrubbed.whole else self._damaged.add)(cid)
        return scrubbed

    async def _record(self, stored: Stored) -> None:
        index = await self._run(partial(read_index, self.files, stored.cid))
        await self.catalog.record(index, profile=stored.profile, dag_bytes=stored.dag_bytes)
        self._damaged.discard(stored.cid)

    async def _pin(self, cid: Cid, owner: str, *, limited: bool) -> None:
        """Pin, then count: of two that come at once and do not fit together, neither slips through."""
        if any(pin.name == owner for pin in await self.catalog.pins(cid)):
            return
        await self.catalog.pin(cid, owner)
        over = (await self.catalog.pinned_bytes(owner)) - self.policy.quota_bytes if limited else 0
        if over > 0:
            await self.catalog.unpin(cid, owner)
            left = await self.quota_left(owner)
            raise _quota_exceeded(left, left + over)

    async def _known(self, cids: Iterable[Cid]) -> dict[Cid, StoredObject]:
        known: dict[Cid, StoredObject] = {}
        left = list(cids)
        while left:
            some, left = left[:_ASKED_AT_ONCE], left[_ASKED_AT_ONCE:]
            known |= await self.catalog.get_many(some)
        return known

    def _profile(self, name: str) -> Profile:
        profile = PROFILES.get(name or self.policy.profile)
        if profile is None:
            raise InvalidRequest(
                f"There is no profile {name[:80]!r}; there are {', '.join(PROFILES)}.", param="profile"
            )
        return profile

    def _finder(self) -> BlockFinder:
        loop = asyncio.get_running_loop()

        def locate(cid: Cid) -> Located | None:
            return asyncio.run_coroutine_threadsafe(self.catalog.find_block(cid), loop).result()

        return BlockFinder(self.files, locate)

    def _unpaced(self) -> Pace:
        """Nothing to slow down, but to end when the node stops."""
        return Bandwidth().pace(Traffic.INTERACTIVE, self._closing)

    def _count_read(self, cid: Cid, count: int = 1) -> None:
        if cid in self._reads or len(self._reads) < _READS_COUNTED:
            self._reads[cid] = self._reads.get(cid, 0) + count

    async def _in_threads(self, pieces: Iterator[bytes], first: bytes) -> AsyncGenerator[bytes]:
        piece = first
        while piece:
            yield piece
            piece = await self._run(partial(_gathered, pieces))

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await run_in(self._pools.disk, work)


def _gathered(pieces: Iterator[bytes]) -> bytes:
    """The next pieces, up to a size that is worth a turn."""
    taken = bytearray()
    for piece in pieces:
        taken += piece
        if len(taken) >= _CAR_PIECE_BYTES:
            break
    return bytes(taken)


def _not_here(cid: Cid) -> NotStored:
    return NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")


def _is_directory(cid: Cid) -> InvalidRequest:
    return InvalidRequest(f"{cid} is a directory, not a file.", param="cid", remedy=f"See: prsm storage ls {cid}")


def _quota_exceeded(left: int, size_bytes: int) -> PrsmError:
    return PrsmError(
        f"You may keep {left:,} bytes more here; these are {size_bytes:,}.",
        kind=Kind.TOO_LARGE,
        code="storage_quota_exceeded",
        remedy="Unpin something: prsm storage rm CID. Or have PRSM_STORAGE_QUOTA_BYTES raised.",
    )
