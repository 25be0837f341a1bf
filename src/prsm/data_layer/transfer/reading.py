"""A file read by its CID, wherever it is: from the disk, or while it comes, what is asked for first.

A reader belongs to one task. It keeps the file, or takes part in its transfer, until it is closed.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from prsm.core.errors import PrsmError
from prsm.data_layer.store.disk import disk
from prsm.data_layer.store.object_files import InUse, NotStored, StoredFile
from prsm.data_layer.store.object_index import Damaged
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.download import Download
from prsm.data_layer.transfer.transfers import Transfer
from prsm.data_layer.transfer.walking import cancelled_after

MAX_READ_BYTES = 4 * 1024 * 1024
_LOOK_S = 0.05


class Reader(Protocol):
    """A file, read piece by piece."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        ...

    @property
    def piece_bytes(self) -> int:
        """How much to ask for at once: large where that is cheap, small where it must come first."""
        ...

    async def read(self, offset: int, size_bytes: int, ahead_bytes: int = 0) -> bytes:
        """Bytes from ``offset`` on, at most MAX_READ_BYTES; fewer than asked for only at the end or beyond that.

        ``ahead_bytes`` behind these will be read next. Raises StorageFault, and what else may end a transfer.
        """
        ...


class StoredReader:
    """A file that is here."""

    piece_bytes = 1024 * 1024

    def __init__(self, file: StoredFile, pools: Pools) -> None:
        self._file = file
        self._pools = pools
        self.size_bytes = file.size_bytes

    async def read(self, offset: int, size_bytes: int, ahead_bytes: int = 0) -> bytes:
        """See ``Reader``. Raises Damaged where the file has become shorter."""
        wanted = _most(offset, size_bytes, self.size_bytes)
        data = await run_in(self._pools.disk, partial(self._read, wanted, offset))
        if len(data) < wanted:
            raise Damaged(self._file.cid, "The payload's length")
        return data

    def _read(self, size_bytes: int, offset: int) -> bytes:
        with disk(f"read {self._file.cid}"):
            return os.pread(self._file.fd, size_bytes, offset)


class ComingReader:
    """A file that is being fetched. ``cancelled`` ends the waiting of this reader, not the transfer."""

    piece_bytes = 256 * 1024

    def __init__(self, transfer: Transfer, pools: Pools, cancelled: Cancellation) -> None:
        self._transfer = transfer
        self._pools = pools
        self._cancelled = cancelled
        self.size_bytes = 0

    async def learn_size(self) -> None:
        """Wait until the size is known. Raises as ``read``."""
        self.size_bytes = await self._follow(lambda download: download.size_bytes(self._cancelled))

    async def read(self, offset: int, size_bytes: int, ahead_bytes: int = 0) -> bytes:
        """See ``Reader``."""
        room = bytearray(_most(offset, size_bytes, self.size_bytes))
        if not room:
            return b""
        view = memoryview(room)
        count = await self._follow(lambda download: download.read(view, offset, self._cancelled, ahead_bytes))
        return bytes(view[:count])

    async def settle(self) -> None:
        """Where nothing is to come any more, wait until the file is published."""
        download = self._transfer.download
        if download is not None and download.complete:
            await asyncio.wait([self._transfer.task])

    async def _follow(self, ask: Callable[[Download], int]) -> int:
        """Ask the attempt that runs, and the next one where that ended without an answer."""
        transfer = self._transfer
        while True:
            download = transfer.download
            if download is not None:
                try:
                    return await run_in(self._pools.following, partial(ask, download))
                except PrsmError as error:
                    if not _passes(error):
                        raise
            while transfer.download is download:
                if transfer.task.done():
                    raise transfer.task.exception() or NotStored(f"{transfer.cid} was taken away.")
                await asyncio.wait([transfer.task], timeout=_LOOK_S)


@asynccontextmanager
async def following(transfer: Transfer, pools: Pools, closing: Cancellation) -> AsyncGenerator[ComingReader]:
    """A reader of what a transfer brings, once its size is known; who read to the end leaves the file published."""
    async with cancelled_after(closing, pools) as cancelled:
        reader = ComingReader(transfer, pools, cancelled)
        await reader.learn_size()
        yield reader
        await reader.settle()


async def opened(pools: Pools, opening: Callable[[], StoredFile]) -> StoredFile:
    """The file that a thread opens; closed again where nobody waits for it any more."""
    work = pools.disk.submit(opening)
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        work.add_done_callback(_close)
        raise


def _close(work: Future[StoredFile]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()


def _passes(error: PrsmError) -> bool:
    """Whether another attempt of the same transfer may bring what this one did not."""
    return isinstance(error, InUse) or error.code == "disk_full"


def _most(offset: int, size_bytes: int, file_bytes: int) -> int:
    return max(0, min(size_bytes, MAX_READ_BYTES, file_bytes - offset))
