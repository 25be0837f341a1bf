"""The downloads of one process: one for each object, however many ask for it, and none that nobody waits for.

What another worker fetches is waited for, as long as it goes on, and taken over where it stops. A download counts as
ended when the catalog knows all that it brought, and nothing of it has been taken away meanwhile.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from prsm.core.errors import PrsmError, Unavailable
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.seams import StorageFault
from prsm.data_layer.store.catalog import Catalog, State
from prsm.data_layer.store.keeping import kept
from prsm.data_layer.store.object_files import InUse, NotStored, ObjectKind
from prsm.data_layer.store.object_index import ObjectIndex, read_index
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.download import Download, Fetched
from prsm.data_layer.transfer.fetching import Supply
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.throttle import Traffic

MAX_TRANSFERS = 256
"""Under way or waiting for a thread; what would be one more is refused."""
_ROUNDS = 5
_LOOK_S = 0.2
_AT_ONCE = 256


@dataclass(slots=True, eq=False)
class Transfer:
    """A download that several may wait for."""

    cid: Cid
    repair: bool
    cancelled: Cancellation
    task: "asyncio.Task[Fetched]" = field(init=False)
    download: Download | None = None
    """The attempt that runs now, for who reads while it comes."""
    waiting: int = 0

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.download.progress if self.download else Progress(self.cid)


class Transfers:
    """``supply`` says where blocks come from; ``make_room`` frees so many bytes of the disk, if it can.

    ``damaged`` is what the storage knows as such, and is told here of what is sound again.
    """

    def __init__(
        self,
        catalog: Catalog,
        pools: Pools,
        closing: Cancellation,
        supply: Callable[[Traffic, Cancellation], Supply],
        make_room: Callable[[int], Awaitable[object]],
        damaged: set[Cid],
        *,
        patience_s: float = 900.0,
    ) -> None:
        """``patience_s``: how long another worker's transfer may stand still while it is waited for.

        It need not be short: a worker that dies lets go at once, and one that looks through what it has moves nothing.
        """
        self._catalog = catalog
        self._pools = pools
        self._closing = closing
        self._supply = supply
        self._make_room = make_room
        self._damaged = damaged
        self._patience_s = patience_s
        self._current: dict[Cid, Transfer] = {}
        self._tasks: set[asyncio.Task[Fetched]] = set()

    @property
    def current(self) -> list[Transfer]:
        """What somebody waits for."""
        return list(self._current.values())

    def fetches(self, cid: Cid) -> bool:
        """Whether this is being fetched for somebody."""
        return cid in self._current

    async def aclose(self) -> None:
        """Wait for the end of all; ``closing`` has told them."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def join(
        self, cid: Cid, traffic: Traffic = Traffic.INTERACTIVE, *, repair: bool = False
    ) -> AsyncGenerator[Transfer]:
        """Take part in the transfer of ``cid``, which is begun where there is none; the last to leave ends it.

        Raises Unavailable when there are too many, or the node stops.
        """
        while repair and (other := self._current.get(cid)) is not None and not other.repair:
            await asyncio.wait([other.task])
        transfer = self._current.get(cid) or self._begin(cid, traffic, repair)
        transfer.waiting += 1
        try:
            yield transfer
        finally:
            transfer.waiting -= 1
            if not transfer.waiting:
                # Whoever comes now begins anew; the part's lock makes him wait until this one has let go.
                self._forget(transfer)
                if not self._closing.is_set():
                    # Not here: it waits for locks that the transfer's threads hold while they write.
                    self._pools.disk.submit(transfer.cancelled.set)

    def _begin(self, cid: Cid, traffic: Traffic, repair: bool) -> Transfer:
        if self._closing.is_set():
            raise _stopping()
        if len(self._tasks) >= MAX_TRANSFERS:
            raise Unavailable(f"{MAX_TRANSFERS} objects are being fetched already.", code="overloaded", retry_after_s=5)
        transfer = self._current[cid] = Transfer(cid, repair, Cancellation(self._closing))
        transfer.task = asyncio.create_task(self._bring(transfer, traffic))
        self._tasks.add(transfer.task)
        transfer.task.add_done_callback(partial(self._ended, transfer))
        return transfer

    def _ended(self, transfer: Transfer, task: "asyncio.Task[Fetched]") -> None:
        self._tasks.discard(task)
        self._forget(transfer)
        if not task.cancelled():
            task.exception()  # when all have left there is nobody to tell

    def _forget(self, transfer: Transfer) -> None:
        if self._current.get(transfer.cid) is transfer:
            del self._current[transfer.cid]

    async def _bring(self, transfer: Transfer, traffic: Traffic) -> Fetched:
        cid, supply = transfer.cid, self._supply(traffic, transfer.cancelled)
        try:
            async with kept(self._catalog, cid, why="fetch", afterwards=True):
                row = await self._catalog.get(cid)
                transfer.repair |= row is not None and row.state is State.DAMAGED
                return await self._bring_all(transfer, supply)
        except Cancelled:
            if self._closing.is_set():
                raise _stopping() from None
            raise

    async def _bring_all(self, transfer: Transfer, supply: Supply) -> Fetched:
        """Fetch, and again where something of it was taken away before the catalog knew that it is kept."""
        moved_bytes = 0
        for number in range(_ROUNDS):
            fetched = await self._attempt(transfer, transfer.cid, supply, repair=transfer.repair and not number)
            moved_bytes += fetched.moved_bytes
            with suppress(NotStored):
                damaged = await self._enter(transfer.cid)
                if not damaged:
                    return replace(fetched, moved_bytes=moved_bytes)
                for cid in damaged:
                    moved_bytes += (await self._attempt(transfer, cid, supply, repair=True)).moved_bytes
                    await self._record(await self._index(cid))
        raise Unavailable(
            f"Parts of {transfer.cid} were taken away as fast as they came.",
            code="storage_crowded",
            remedy="Raise PRSM_STORAGE_LIMIT_BYTES, or unpin something: prsm storage rm CID",
        )

    async def _attempt(self, transfer: Transfer, cid: Cid, supply: Supply, *, repair: bool) -> Fetched:
        """Run a download, when no other worker works on it; with a full disk, once more after making room."""
        others = _Others(self._catalog.files.folder / "parts", self._patience_s)
        made_room = False
        while True:
            download = Download(cid, self._catalog.files, supply, repair=repair)
            if cid == transfer.cid:
                transfer.download = download
            try:
                return await run_in(self._pools.moving, download.run)
            except InUse:
                await others.wait(self._pools)
            except StorageFault as fault:
                if fault.code != "disk_full" or made_room:
                    raise
                made_room = True
                progress = download.progress
                await self._make_room(progress.total_bytes - progress.done_bytes)

    async def _enter(self, root: Cid) -> list[Cid]:
        """Enter into the catalog what a download has brought; answers what of it the catalog knows as damaged.

        Raises NotStored when something is not here any more.
        """
        damaged: list[Cid] = []
        last: ObjectIndex | None = None
        stack, seen = [root], {root}
        while stack:
            some = stack[-_AT_ONCE:]
            del stack[-_AT_ONCE:]
            known = await self._catalog.get_many(some)
            for cid in some:
                row = known.get(cid)
                if row is not None and row.state is State.DAMAGED and cid != root:
                    damaged.append(cid)
                    continue
                if row is not None and row.state is State.WHOLE and row.kind is ObjectKind.FILE:
                    if not await run_in(self._pools.disk, partial(self._catalog.files.has_file, cid)):
                        raise NotStored(f"{cid} was taken away.", remedy="Fetch it again.")
                    continue
                index = await self._index(cid)
                if index.kind is ObjectKind.DIRECTORY and (row is None or row.state is not State.WHOLE):
                    await self._record(index)  # at once: it keeps what is in it
                elif row is None or row.state is not State.WHOLE:
                    if last is not None:
                        await self._record(last, durably=False)
                    last = index
                fresh = {child for _, child in index.children()} - seen
                seen |= fresh
                stack += fresh
        if last is not None:
            await self._record(last)  # which brings all before it to the database's disk too
        return damaged

    async def _record(self, index: ObjectIndex, *, durably: bool = True) -> None:
        await self._catalog.record(index, durably=durably)
        self._damaged.discard(index.root)

    async def _index(self, cid: Cid) -> ObjectIndex:
        return await run_in(self._pools.disk, partial(read_index, self._catalog.files, cid))


class _Others:
    """Other workers' transfers, waited for while anything of them moves."""

    def __init__(self, parts: Path, patience_s: float) -> None:
        self._parts = parts
        self._patience_s = patience_s
        self._stirred_ns = 0
        self._since_s = time.monotonic()

    async def wait(self, pools: Pools) -> None:
        """Wait a little. Raises InUse when nothing has moved for too long."""
        newest_ns = await run_in(pools.disk, partial(_newest_ns, self._parts))
        now_s = time.monotonic()
        if newest_ns != self._stirred_ns:
            self._stirred_ns, self._since_s = newest_ns, now_s
        if now_s - self._since_s > self._patience_s:
            raise InUse("Another worker has begun to fetch this and does not go on.", remedy="Try again later.")
        await asyncio.sleep(_LOOK_S)


def _newest_ns(parts: Path) -> int:
    newest_ns = 0
    for entry in os.scandir(parts):
        with suppress(FileNotFoundError):
            newest_ns = max(newest_ns, entry.stat().st_mtime_ns)
    return newest_ns


def _stopping() -> PrsmError:
    return Unavailable("This node is stopping.", code="stopping", remedy="Ask again when it is back.", retry_after_s=5)
