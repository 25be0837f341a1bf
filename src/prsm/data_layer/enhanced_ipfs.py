"""The storage of a node: files and directories by CID, kept on its disk, fetched from wherever they are.

What is here is served with no wait for any network. What is not is fetched once, however many ask, from all endpoints
together, each block verified. The rest of the node sees only this; blocking work runs in threads of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from prsm.core.errors import InvalidRequest, Kind, PrsmError, Unavailable
from prsm.data_layer.block_finder import BlockFinder
from prsm.data_layer.cancellation import Cancellation
from prsm.data_layer.catalog import Catalog, Located, State, StoredObject, Upload
from prsm.data_layer.cid import Cid
from prsm.data_layer.collector import Collected, Collector
from prsm.data_layer.dag_walk import EntityBytes, Scope, car_of
from prsm.data_layer.directories import Built, resolve
from prsm.data_layer.download import Download, Fetched
from prsm.data_layer.fetching import DownloadLimits, Supply
from prsm.data_layer.ingest import Intake, ReadInto, Stored, ingest
from prsm.data_layer.neighbours import Neighbours
from prsm.data_layer.object_files import InUse, NotStored, ObjectKind, StoredFile
from prsm.data_layer.object_index import ObjectIndex, read_block, read_index
from prsm.data_layer.progress import Progress
from prsm.data_layer.scrub import Scrubbed, scrub
from prsm.data_layer.throttle import Bandwidth, Traffic
from prsm.data_layer.unixfs_dag import PROFILES, Profile
from prsm.data_layer.upload_drain import Uploads

Answer = TypeVar("Answer")

_THREADS = 32
_REPORT_S = 0.25
_CAR_PIECE_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class StoragePolicy:
    """What the storage of a node may take, and how it adds files. ``quota_bytes`` is for one owner's pins."""

    profile: str = "unixfs-v1-2025"
    limit_bytes: int = 100 << 30
    object_limit_bytes: int = 100 << 30
    quota_bytes: int = 20 << 30
    workers: int = 8
    block_budget_s: float = 60.0
    scrub_after_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a directory; the rest is known once it is stored here."""

    name: str
    cid: Cid
    stored: StoredObject | None


@dataclass(slots=True)
class _Transfer:
    """A download that several may wait for; it ends when nobody does."""

    download: Download
    cancelled: Cancellation
    task: "asyncio.Task[Fetched]"
    waiting: int = 0


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
        self._threads = ThreadPoolExecutor(_THREADS, "storage")
        self._transfers: dict[Cid, _Transfer] = {}
        self._reads: dict[Cid, int] = {}
        self._closing = Cancellation()

    async def aclose(self) -> None:
        """End all transfers; what has come stays for the next run."""
        self._closing.set()
        await self.uploads.aclose()
        self.endpoints.close()
        await asyncio.gather(*(transfer.task for transfer in self._transfers.values()), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    @property
    def transfers(self) -> list[Progress]:
        """How far each download under way is."""
        return [transfer.download.progress for transfer in self._transfers.values()]

    # Adding

    async def add(self, read_into: ReadInto, owner: str, profile: str = "", size_hint: int = 0) -> Stored:
        """Take in a file from ``read_into`` (called in a thread) and keep it for ``owner``.

        Raises what ``read_into`` raises, InvalidRequest for an unknown profile, StorageFault (LOCAL_DISK).
        """
        stored = await self._run(partial(ingest, read_into, self.files, self._profile(profile), size_hint=size_hint))
        await self._record(stored, owner)
        return stored

    async def add_directory(self, entries: Sequence[tuple[str, Cid]], owner: str, profile: str = "") -> Stored:
        """Make a directory of objects that are here, by their paths below it, and keep it for ``owner``."""
        known = await self.catalog.get_many({cid for _, cid in entries})
        for _, cid in entries:
            if cid not in known:
                raise _not_here(cid)
        links = [(path, Built(cid, known[cid].dag_bytes)) for path, cid in entries]
        with Intake(self.files, self._profile(profile)) as intake:
            made = await self._run(partial(intake.tree, links))
        for stored in made:
            await self._record(stored, owner if stored is made[-1] else None)
        return made[-1]

    # Reading

    async def open(self, cid: Cid) -> StoredFile:
        """A file that is here. Raises NotStored, InvalidRequest for a directory."""
        file = await self._run(partial(self.files.open, cid))
        self._count_read(cid)
        return file

    async def resolve(self, cid: Cid, path: str) -> Cid:
        """What a path below an object that is here leads to. Raises NotStored, NoSuchEntry."""
        return await self._run(partial(resolve, cid, path, self._finder().get)) if path.strip("/") else cid

    async def block(self, cid: Cid) -> bytes:
        """One block of what is here, verified. Raises NotStored, StorageFault (LOCAL_DISK)."""
        if cid.identity:
            return cid.digest
        located = await self.catalog.find_block(cid)
        if located is None:
            raise _not_here(cid)
        self._count_read(located.root)
        return await self._run(partial(read_block, self.files, located.root, located.place))

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
        children = list(index.children())
        known = await self.catalog.get_many(child for _, child in children)
        return [Entry(name, child, known.get(child)) for name, child in children]

    # What is here, and who keeps it

    async def object(self, cid: Cid) -> StoredObject:
        """What is known of an object that is here. Raises NotStored."""
        found = await self.catalog.get(cid)
        if found is None or found.state is State.MISSING:
            raise _not_here(cid)
        return found

    async def pin(self, cid: Cid, owner: str) -> None:
        """Keep an object that is here for ``owner``."""
        await self.object(cid)
        await self.catalog.pin(cid, owner)

    async def unpin(self, cid: Cid, owner: str) -> None:
        """Keep it no more. Raises NotStored when ``owner`` did not."""
        if not await self.catalog.unpin(cid, owner):
            raise NotStored(f"{cid} is not pinned by you.", remedy="See what is: prsm storage ls")

    async def check_quota(self, owner: str, size_bytes: int) -> None:
        """Refuse what would take an owner's pins beyond the quota."""
        left = await self.quota_left(owner)
        if size_bytes > left:
            raise PrsmError(
                f"You may keep {left:,} bytes more here; these are {size_bytes:,}.",
                kind=Kind.TOO_LARGE,
                code="storage_quota_exceeded",
                remedy="Unpin something: prsm storage rm CID. Or have PRSM_STORAGE_QUOTA_BYTES raised.",
            )

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
        found = await self.catalog.get(cid)
        if found is not None and found.state is State.WHOLE and found.kind is ObjectKind.FILE:
            self._count_read(cid)
            return
        transfer = self._transfers.get(cid) or self._begin(cid)
        transfer.waiting += 1
        try:
            while not transfer.task.done():
                yield transfer.download.progress
                await asyncio.wait([transfer.task], timeout=_REPORT_S)
            transfer.task.result()
        finally:
            transfer.waiting -= 1
            if not transfer.waiting:
                transfer.cancelled.set()

    def _begin(self, cid: Cid, *, repair: bool = False) -> _Transfer:
        cancelled = Cancellation(self._closing)
        limits = DownloadLimits(self.policy.workers, self.policy.block_budget_s, self.policy.object_limit_bytes)
        supply = Supply(self.endpoints, self._bandwidth, Traffic.INTERACTIVE, cancelled, limits)
        download = Download(cid, self.files, supply, repair=repair)

        async def run() -> Fetched:
            try:
                fetched = await self._run(download.run)
                await self._adopt(cid)
            finally:
                del self._transfers[cid]
            return fetched

        transfer = self._transfers[cid] = _Transfer(download, cancelled, asyncio.create_task(run()))
        return transfer

    async def _adopt(self, root: Cid) -> None:
        """Enter into the catalog what a download has published."""
        stack = [root]
        while stack:
            cid = stack.pop()
            index = await self._run(partial(read_index, self.files, cid))
            await self.catalog.record(index)
            children = [child for _, child in index.children()]
            known = await self.catalog.get_many(children)
            stack += [child for child in children if child not in known or known[child].state is not State.WHOLE]

    # Sending

    async def publish(self, cid: Cid) -> list[Upload]:
        """Queue an object that is here for every node of one's own; answers what the queue has of it."""
        await self.object(cid)
        if not self._neighbours.nodes:
            raise Unavailable(
                "No IPFS node of your own is configured to upload to.",
                code="no_own_node",
                remedy="Set PRSM_STORAGE_NODES to the address of its RPC API, as http://127.0.0.1:5001.",
            )
        for name in self._neighbours.nodes:
            await self.uploads.queue.add([cid], name)
        return await self.uploads.queue.entries(cid=cid)

    # Care

    async def verify(self, cid: Cid) -> Scrubbed:
        """Read an object from the disk and hash all of it; the catalog notes what was found. Raises NotStored."""
        scrubbed = await self._run(partial(scrub, self.files, cid))
        await self.catalog.mark(cid, State.WHOLE if scrubbed.whole else State.DAMAGED)
        return scrubbed

    async def repair(self, cid: Cid) -> Fetched:
        """Fetch what is damaged of an object, and only that. Raises NotStored, StorageFault."""
        await self.object(cid)
        if cid in self._transfers:
            raise InUse(f"{cid} is being fetched already.", remedy="Wait for that transfer.", retry_after_s=1)
        return await asyncio.shield(self._begin(cid, repair=True).task)

    async def verify_next(self) -> None:
        """Verify what was verified longest ago, if that is long enough, and repair what is damaged."""
        for cid in await self.catalog.longest_unverified(self.policy.scrub_after_s):
            await self.verify(cid)
        for cid in await self.catalog.in_state(State.DAMAGED):
            if self.endpoints.names:
                await self.repair(cid)

    async def collect(self) -> Collected:
        """Delete what nobody keeps."""
        return await self._collector.collect_garbage() or Collected()

    async def make_room(self) -> None:
        """Bring what is stored within the limit, by what nobody keeps and nobody reads."""
        await self._collector.evict(self.policy.limit_bytes)

    async def reconcile(self) -> None:
        """Bring disk and catalog together, as at each start."""
        await self._collector.reconcile()

    async def meet(self) -> None:
        """Learn which endpoints there are now and which of them answer."""
        await self._run(self._neighbours.learn)
        await self._run(self.endpoints.probe_all)
        await self.uploads.welcome_back()

    # Inside

    async def _record(self, stored: Stored, owner: str | None) -> StoredObject:
        index: ObjectIndex = await self._run(partial(read_index, self.files, stored.cid))
        return await self.catalog.record(index, profile=stored.profile, dag_bytes=stored.dag_bytes, pin=owner)

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

    def _count_read(self, cid: Cid) -> None:
        self._reads[cid] = self._reads.get(cid, 0) + 1

    async def flush_reads(self) -> None:
        """Tell the catalog what was read since the last call: what is read often stays longest."""
        reads, self._reads = self._reads, {}
        await self.catalog.count_reads(reads)

    async def _in_threads(self, pieces: Iterator[bytes], first: bytes) -> AsyncGenerator[bytes]:
        piece = first
        while piece:
            yield piece
            piece = await self._run(partial(_gathered, pieces))

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


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
