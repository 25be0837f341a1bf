"""The way to what stands below a directory that is not here: the blocks on that way are fetched, and forgotten again.

Each is verified against the CID that names it; how many there may be, and of how many bytes, holds for one walk.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.directories import GetBlock
from prsm.data_layer.network.block_fetch import fetch_block
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.store.pools import Pools
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.fetching import Supply, TooLarge


@dataclass(frozen=True, slots=True)
class WalkLimits:
    """What one walk may fetch. A path has a bound of its own (``codec.directories.MAX_PATH_PARTS``)."""

    blocks: int = 512
    size_bytes: int = 64 * 1024 * 1024


def walker(here: GetBlock, supply: Supply, limits: WalkLimits = WalkLimits()) -> GetBlock:
    """Blocks by CID, for one thread: as ``here`` has them, else from the endpoints.

    Raises TooLarge, StorageFault, and what ``here`` raises besides NotStored.
    """
    pace = supply.bandwidth.pace(supply.traffic, supply.cancelled)
    buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
    fetched = size_bytes = 0

    def get_block(cid: Cid) -> bytes:
        nonlocal fetched, size_bytes
        with suppress(NotStored):
            return bytes(here(cid))
        if fetched >= limits.blocks or size_bytes >= limits.size_bytes:
            raise TooLarge(
                f"The way to this path has more than {limits.blocks} blocks or {limits.size_bytes:,} bytes.",
                remedy="Fetch the directory first, and then read from it.",
            )
        budget_s = supply.limits.block_budget_s
        count = fetch_block(supply.endpoints, cid, buffer, budget_s=budget_s, pace=pace, urgent=supply.urgent)
        fetched, size_bytes = fetched + 1, size_bytes + count
        return bytes(buffer[:count])

    return get_block


@asynccontextmanager
async def cancelled_after(closing: Cancellation, pools: Pools) -> AsyncGenerator[Cancellation]:
    """A cancellation for threads that work for a task: set when the task leaves, however it does."""
    cancelled = Cancellation(closing)
    try:
        yield cancelled
    finally:
        if not closing.is_set():
            # In a thread: it may wait for locks that a thread holds while it works.
            pools.disk.submit(cancelled.set)
