"""Blocks as a DAG asks for them: along a path, one by its CID, or as a CAR; each verified as it is read.

They come from what is stored here; only a walk may ask elsewhere too, and keeps nothing of it. The files that are held
open meanwhile are let go by the thread that reads them, for a task may be cancelled while its thread goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import TypeVar

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.dag_walk import EntityBytes, Scope, car_of
from prsm.data_layer.codec.directories import GetBlock, resolve
from prsm.data_layer.codec.unixfs import FileNode, decode_node
from prsm.data_layer.store.block_finder import BlockFinder
from prsm.data_layer.store.catalog import Catalog, Located
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.care import Care
from prsm.data_layer.transfer.fetching import Supply
from prsm.data_layer.transfer.walking import cancelled_after, walker

Answer = TypeVar("Answer")

_CAR_PIECE_BYTES = 512 * 1024


class BlockReading:
    """``supply`` says where the blocks of a walk come from; damage that is met is noted by ``care``."""

    def __init__(
        self,
        catalog: Catalog,
        pools: Pools,
        care: Care,
        closing: Cancellation,
        supply: Callable[[Cancellation], Supply],
    ) -> None:
        self._catalog = catalog
        self._pools = pools
        self._care = care
        self._closing = closing
        self._supply = supply

    async def find(self, cid: Cid) -> tuple[Cid, bytes]:
        """The object that a block was found in, and the block. Raises NotStored, Damaged."""
        return await self._find(lambda finder: finder.find(cid), self._pools.disk)

    async def resolve(self, cid: Cid, path: str, *, fetch: bool) -> Cid:
        """What a path leads to. Raises NotStored, NoSuchEntry, Damaged; with ``fetch`` StorageFault, TooLarge."""
        if fetch:
            return await self._walk(partial(resolve, cid, path))
        return await self._find(lambda finder: resolve(cid, path, finder.get), self._pools.disk)

    async def is_file(self, cid: Cid) -> bool:
        """Whether the root of an object, wherever it is, is that of a file. Raises StorageFault, BadBlock."""
        return isinstance(decode_node(cid, await self._walk(lambda get_block: get_block(cid))), FileNode)

    async def car(self, cid: Cid, path: str, scope: Scope, entity: EntityBytes | None) -> AsyncIterator[bytes]:
        """A CAR of what is here, in pieces. Raises NotStored, NoSuchEntry and Damaged at once, if it knows by then."""
        finder = self._finder()
        gather = partial(_gathered, car_of(cid, path, scope, entity, finder.get), finder)
        async with self._care.noting():
            await self._care.require_sound(cid)
            first = await run_in(self._pools.disk, gather)
        return self._pieces(first, gather)

    async def _pieces(self, first: bytes, gather: Callable[[], bytes]) -> AsyncGenerator[bytes]:
        async with self._care.noting():
            piece = first
            while piece:
                yield piece
                piece = await run_in(self._pools.disk, gather)

    async def _walk(self, work: Callable[[GetBlock], Answer]) -> Answer:
        """The answer of blocking work with blocks from here or elsewhere."""
        async with cancelled_after(self._closing, self._pools) as cancelled:
            supply = self._supply(cancelled)
            return await self._find(lambda finder: work(walker(finder.get, supply)), self._pools.following)

    async def _find(self, work: Callable[[BlockFinder], Answer], pool: ThreadPoolExecutor) -> Answer:
        """The answer of blocking work with the blocks that are here."""
        finder = self._finder()

        def found() -> Answer:
            with closing(finder):
                return work(finder)

        async with self._care.noting():
            return await run_in(pool, found)

    def _finder(self) -> BlockFinder:
        loop = asyncio.get_running_loop()

        def locate(cid: Cid) -> Located | None:
            return asyncio.run_coroutine_threadsafe(self._catalog.find_block(cid), loop).result()

        return BlockFinder(self._catalog.files, locate)


def _gathered(pieces: Iterator[bytes], finder: BlockFinder) -> bytes:
    """The next pieces, up to a size that is worth a turn; the finder is closed after the last one or an error."""
    taken = bytearray()
    with ExitStack() as stack:
        stack.callback(finder.close)
        for piece in pieces:
            taken += piece
            if len(taken) >= _CAR_PIECE_BYTES:
                stack.pop_all()
                break
    return bytes(taken)
