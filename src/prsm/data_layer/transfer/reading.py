"""A file read by its CID, wherever it is: from the disk, or while it comes, what is asked for first.

A reader belongs to one task. It keeps the file, or takes part in its transfer, until it is closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from prsm.core.errors import PrsmError
from prsm.data_layer.store.object_files import InUse, NotStored, StoredFile
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.download import Download
from prsm.data_layer.transfer.transfers import Transfer

MAX_READ_BYTES = 4 * 1024 * 1024
_LOOK_S = 0.05


class Reader(Protocol):
    """A file, read piece by piece."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        ...

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """Bytes from ``offset`` on, at most MAX_READ_BYTES; fewer than asked for only at the end or beyond that.

        Raises StorageFault, and what else may end a transfer.
        """
        ...


class StoredReader:
    """A file that is here."""

    def __init__(self, file: StoredFile, pools: Pools) -> None:
        self._file = file
        self._pools = pools
        self.size_bytes = file.size_bytes

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """See ``Reader``."""
        room = _room(offset, size_bytes, self.size_bytes)
        count = await run_in(self._pools.disk, partial(self._file.read_into, memoryview(room), offset))
        return bytes(memoryview(room)[:count])


class ComingReader:
    """A file that is being fetched. ``cancelled`` ends the waiting of this reader, not the transfer."""

    def __init__(self, transfer: Transfer, pools: Pools, cancelled: Cancellation) -> None:
        self._transfer = transfer
        self._pools = pools
        self._cancelled = cancelled
        self.size_bytes = 0

    async def learn_size(self) -> None:
        """Wait until the size is known. Raises as ``read``."""
        self.size_bytes = await self._follow(lambda download: download.size_bytes(self._cancelled))

    async def read(self, offset: int, size_bytes: int) -> bytes:
        """See ``Reader``."""
        room = _room(offset, size_bytes, self.size_bytes)
        if not room:
            return b""
        count = await self._follow(lambda download: download.read(memoryview(room), offset, self._cancelled))
        return bytes(memoryview(room)[:count])

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
    """A reader of what a transfer brings, once its size is known."""
    cancelled = Cancellation(closing)
    reader = ComingReader(transfer, pools, cancelled)
    try:
        await reader.learn_size()
        yield reader
    finally:
        if not closing.is_set():
            pools.disk.submit(cancelled.set)  # lets the thread go that waits for a task that has been cancelled


def _passes(error: PrsmError) -> bool:
    """Whether another attempt of the same transfer may bring what this one did not."""
    return isinstance(error, InUse) or error.code == "disk_full"


def _room(offset: int, size_bytes: int, file_bytes: int) -> bytearray:
    return bytearray(max(0, min(size_bytes, MAX_READ_BYTES, file_bytes - offset)))
