"""The storage of a node: files and directories by CID, kept on its disk, fetched from wherever they are.

What is here is served with no wait for any network, and a file by its CID without the catalog too. What is not is
fetched once, however many ask, from all endpoints together, each block verified. The rest of the node sees only this.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import structlog

from prsm.core.database import UNREACHABLE
from prsm.core.errors import InvalidRequest, Unavailable
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_walk import EntityBytes, Scope
from prsm.data_layer.codec.directories import Built
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.seams import Pace
from prsm.data_layer.store.catalog import Catalog, State, StoredObject
from prsm.data_layer.store.collector import Collected, Collector
from prsm.data_layer.store.ingest import Intake, ReadInto, Stored, ingest
from prsm.data_layer.store.keeping import HeldFiles, KeptFiles, kept
from prsm.data_layer.store.listings import Listings
from prsm.data_layer.store.object_files import NotStored, ObjectKind, StoredFile
from prsm.data_layer.store.object_index import Damaged, kind_on_disk, read_index
from prsm.data_layer.store.pins import Pins, not_here, not_pinned
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.store.scrub import Scrubbed
from prsm.data_layer.store.uploads import Upload
from prsm.data_layer.stored_models import ModelContents, OpenModel, inspect_stored, open_stored_model
from prsm.data_layer.transfer.block_reading import BlockReading
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.care import Care
from prsm.data_layer.transfer.download import Fetched
from prsm.data_layer.transfer.fetching import DownloadLimits, Supply
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.reading import Reader, StoredReader, following, opened
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic
from prsm.data_layer.transfer.transfers import Transfers
from prsm.data_layer.transfer.upload_drain import Uploads
from prsm.data_layer.transfer.walking import cancelled_after

Answer = TypeVar("Answer")

MAX_DIRECTORY_PARTS = 100_000
"""Entries of a new directory and the folders that their paths imply, each of which is an object."""
_REPORT_S = 0.25
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


@dataclass(frozen=True, slots=True)
class Added(Stored):
    """What was added; ``newly_kept`` unless its owner kept it before."""

    newly_kept: bool


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
        self._care = Care(catalog, self._pools, self._transfers, self._damaged)
        supply = partial(self._supply, Traffic.INTERACTIVE)
        self._blocks = BlockReading(catalog, self._pools, self._care, self._closing, supply)
        self._pins = Pins(catalog, policy.quota_bytes)
        self._listings = Listings(self.files)
        self._reads: dict[Cid, int] = {}

    async def aclose(self) -> None:
        """End all transfers; what has come stays for the next run."""
        await asyncio.to_thread(self._closing.set)
        await self.uploads.aclose()
        await self._transfers.aclose()
        await asyncio.to_thread(self._neighbours.close)
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
    ) -> Added:
        """Take in a file from ``read_into`` (called in a thread) and keep it for ``owner``; ``limited`` by the quota.

        A damaged object of the same CID is whole again then. Raises what ``read_into`` raises, InvalidRequest for an
        unknown profile, PrsmError (``storage_quota_exceeded``), StorageFault (LOCAL_DISK).
        """
        chosen = self._profile(profile)
        if await self.free_bytes() < size_hint:
            await self._free(size_hint)
        with HeldFiles(self.files) as files:  # no collector comes before it is pinned
            # Renewed although it may be here: what is there was read and hashed some time ago, this one now.
            take_in = partial(
                ingest, read_into, files, chosen, pace=self._unpaced(self._closing), size_hint=size_hint, replace=True
            )
            stored = await run_in(self._pools.taking_in, take_in)
            await self._record(stored)
            return await self._kept_now(stored, owner, limited=limited)

    async def add_directory(
        self, entries: Sequence[tuple[str, Cid]], owner: str, profile: str = "", *, limited: bool = False
    ) -> Added:
        """Make a directory of objects that are here, by their paths below it, and keep all of it for ``owner``.

        Raises NotStored, InvalidRequest for a bad path or more than ``MAX_DIRECTORY_PARTS`` entries and folders of
        their paths, PrsmError (``storage_quota_exceeded``, ``size_unknown``).
        """
        chosen = self._profile(profile)
        cids = {cid for _, cid in entries}
        async with kept(self.catalog, *cids, why="add") as holder:
            known = await self._known(cids)
            for _, cid in entries:
                if cid not in known or known[cid].state is State.MISSING:
                    raise not_here(cid)
            links = [(path, Built(cid, known[cid].dag_bytes)) for path, cid in entries]
            async with cancelled_after(self._closing, self._pools) as cancelled:
                files = KeptFiles(self.catalog, holder)
                with Intake(files, chosen, pace=self._unpaced(cancelled)) as intake:
                    made = await self._run(partial(intake.tree, links, most=MAX_DIRECTORY_PARTS))
            for stored in made:
                await self._record(stored)
            return await self._kept_now(made[-1], owner, limited=limited)

    # Reading

    async def open(self, cid: Cid) -> StoredFile:
        """A file that is here; needs no catalog. Raises NotStored, InvalidRequest for a directory, Damaged."""
        async with self._care.noting():
            row = await self._care.require_sound(cid)
            try:
                file = await opened(self._pools, partial(self.files.open, cid))
            except NotStored:
                if await self._run(partial(kind_on_disk, self.files, cid)) is ObjectKind.DIRECTORY:
                    raise _is_directory(cid) from None
                raise
            if row is not None and row.state is State.WHOLE and row.size_bytes != file.size_bytes:
                file.close()
                raise Damaged(cid, "The payload's length")
        self._count_read(cid)
        return file

    @asynccontextmanager
    async def read(self, cid: Cid) -> AsyncGenerator[Reader]:
        """A file that is here, for reading. Raises as ``open``."""
        with await self.open(cid) as file:
            async with self._care.noting():
                yield StoredReader(file, self._pools)

    @asynccontextmanager
    async def open_or_fetch(self, cid: Cid) -> AsyncGenerator[Reader]:
        """A file for reading: what is here at once, anything else as it comes, the parts that are read first.

        When its last reader leaves before the end, the transfer ends; what has come stays for a later one. Raises
        InvalidRequest for a directory, Damaged, StorageFault, BadBlock, TooLarge.
        """
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self.read(cid))
            except NotStored:
                reader = await stack.enter_async_context(self._coming(cid))
            yield reader

    async def resolve(self, cid: Cid, path: str, *, fetch: bool = False) -> Cid:
        """What a path below an object leads to; with ``fetch``, blocks on the way that are not here are fetched.

        Raises NotStored, NoSuchEntry, Damaged; with ``fetch`` StorageFault, TooLarge.
        """
        return await self._blocks.resolve(cid, path, fetch=fetch) if path.strip("/") else cid

    async def block(self, cid: Cid) -> bytes:
        """One block of what is here, verified. Raises NotStored, Damaged, StorageFault (LOCAL_DISK)."""
        if cid.identity:
            return cid.digest
        root, block = await self._blocks.find(cid)
        self._count_read(root)
        return block

    async def car(self, cid: Cid, path: str, scope: Scope, entity: EntityBytes | None) -> AsyncIterator[bytes]:
        """A CAR of what is here, in pieces. Raises NotStored, NoSuchEntry and Damaged at once, if it knows by then."""
        pieces = await self._blocks.car(cid, path, scope, entity)
        self._count_read(cid)
        return pieces

    async def entries(self, cid: Cid, *, after: str = "", limit: int = 1000) -> list[Entry]:
        """The next entries of a directory that is here, by name. Raises NotStored, InvalidRequest for a file, Damaged.

        ``after`` is the last name of the page before.
        """
        async with self._care.noting():
            await self._care.require_sound(cid)
            page = await self._run(partial(self._listings.page, cid, after, limit))
        known = await self._known({child for _, child in page})
        return [Entry(name, child, known.get(child)) for name, child in page]

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
            raise not_here(cid)
        return found

    async def pin(self, cid: Cid, owner: str, *, limited: bool = False) -> bool:
        """Keep an object that is here for ``owner``, ``limited`` by the quota; False when he kept it before.

        Raises NotStored, PrsmError (``storage_quota_exceeded``, ``size_unknown``).
        """
        return await self._pins.add(cid, owner, limited=limited)

    async def unpin(self, cid: Cid, owner: str) -> None:
        """Keep it no more. Raises NotStored when ``owner`` did not."""
        await self._pins.remove(cid, owner)

    async def unpin_all(self, cids: Sequence[Cid], owner: str) -> int:
        """Keep these no more; answers how many of them ``owner`` kept."""
        return await self.catalog.unpin_all(cids, owner)

    async def quota_left(self, owner: str, enough_bytes: int | None = None) -> int:
        """How many bytes more an owner may keep; perhaps more than answered where that is ``enough_bytes``."""
        return await self._pins.left_bytes(owner, enough_bytes)

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

    async def publish(self, cid: Cid, owner: str, *, limited: bool = False) -> list[Upload]:
        """Queue an object that is here for every node of one's own; answers what the queue has of it.

        It waits as long as somebody keeps it; who is ``limited`` must do so himself. Raises NotStored, Unavailable
        (``no_own_node``), PrsmError (``not_pinned``).
        """
        nodes = self._neighbours.nodes
        if not nodes:
            raise Unavailable(
                "No IPFS node of your own is configured to upload to.",
                code="no_own_node",
                remedy="Set PRSM_STORAGE_NODES to the address of its RPC API, as http://127.0.0.1:5001.",
            )
        await self.object(cid)
        if limited and owner not in {pin.name for pin in await self.catalog.pins(cid)}:
            raise not_pinned(cid)
        for name in nodes:
            await self.uploads.queue.add([cid], name)
        return await self.uploads.queue.entries(cid=cid)

    # Care

    async def verify(self, cid: Cid) -> Scrubbed:
        """Read an object from the disk and hash all of it; the catalog notes what was found. Raises NotStored."""
        async with cancelled_after(self._closing, self._pools) as cancelled:
            return await self._care.verify(cid, self._unpaced(cancelled))

    async def repair(self, cid: Cid) -> Fetched:
        """Fetch what is damaged of an object and of all under it, and only that. Raises NotStored, StorageFault."""
        await self.object(cid)
        return await self._care.repair(cid, Traffic.INTERACTIVE)

    async def verify_next(self) -> None:
        """Verify what was verified longest ago, if that is long enough, and repair what is damaged."""
        pace = self._disk.pace(Traffic.BACKGROUND, self._closing)
        await self._care.verify_next(self.policy.scrub_after_s, pace)
        if self.endpoints.names:
            await self._care.mend()

    async def collect(self) -> Collected:
        """Delete what nobody keeps."""
        return await self._collector.collect_garbage()

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
        """Whether this is a file that can be read now."""
        if await self._run(partial(kind_on_disk, self.files, cid)) is not ObjectKind.FILE:
            return False
        row = await self.catalog.get(cid)
        return row is not None and row.state is State.WHOLE

    @asynccontextmanager
    async def _coming(self, cid: Cid) -> AsyncGenerator[Reader]:
        # A directory is refused before all of it is fetched in vain.
        if cid.codec is Codec.DAG_PB and not self._transfers.fetches(cid) and not await self._blocks.is_file(cid):
            raise _is_directory(cid)
        async with self._transfers.join(cid) as transfer, following(transfer, self._pools, self._closing) as reader:
            yield reader

    def _supply(self, traffic: Traffic, cancelled: Cancellation) -> Supply:
        limits = DownloadLimits(self.policy.workers, self.policy.block_budget_s, self.policy.object_limit_bytes)
        return Supply(self.endpoints, self._bandwidth, traffic, cancelled, limits)

    async def _free(self, size_bytes: int) -> None:
        """Free so many bytes of the disk, as far as nobody keeps or reads what takes them."""
        stored_bytes = (await self.catalog.usage()).stored_bytes
        await self._collector.evict(max(0, min(self.policy.limit_bytes, stored_bytes - size_bytes)))

    async def _record(self, stored: Stored) -> None:
        index = await self._run(partial(read_index, self.files, stored.cid))
        # The pin that follows brings this to the database's disk too.
        await self.catalog.record(index, profile=stored.profile, dag_bytes=stored.dag_bytes, durably=False)
        self._damaged.discard(stored.cid)

    async def _kept_now(self, stored: Stored, owner: str, *, limited: bool) -> Added:
        new = await self._pins.add(stored.cid, owner, limited=limited)
        return Added(**{field.name: getattr(stored, field.name) for field in fields(stored)}, newly_kept=new)

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

    def _unpaced(self, cancelled: Cancellation) -> Pace:
        """Nothing to slow down, but to end."""
        return Bandwidth().pace(Traffic.INTERACTIVE, cancelled)

    def _count_read(self, cid: Cid, count: int = 1) -> None:
        if cid in self._reads or len(self._reads) < _READS_COUNTED:
            self._reads[cid] = self._reads.get(cid, 0) + count

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await run_in(self._pools.disk, work)


def _is_directory(cid: Cid) -> InvalidRequest:
    return InvalidRequest(f"{cid} is a directory, not a file.", param="cid", remedy=f"See: prsm storage ls {cid}")
