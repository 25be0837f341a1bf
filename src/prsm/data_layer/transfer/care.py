"""Damage on this node's own disk: what is known of it, what is found of it, and how it is mended.

What is known as damaged, in whichever worker it was found, is not given out until it is mended. Whoever comes upon
damage notes it, and then it is known.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import structlog

from prsm.core.database import UNREACHABLE
from prsm.core.errors import PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.seams import Pace, StorageFault
from prsm.data_layer.store.catalog import Catalog, State, StoredObject
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.store.object_index import Damaged, kind_on_disk
from prsm.data_layer.store.pools import Pools, run_in
from prsm.data_layer.store.scrub import Scrubbed, scrub
from prsm.data_layer.transfer.cancellation import Cancelled
from prsm.data_layer.transfer.download import Fetched
from prsm.data_layer.transfer.throttle import Traffic
from prsm.data_layer.transfer.transfers import Transfers

_REPAIR_AGAIN_S = 600.0
_log: Any = structlog.get_logger("storage")


class Care:
    """``damaged`` is what this worker knows as such; the transfers tell it what is sound again."""

    def __init__(self, catalog: Catalog, pools: Pools, transfers: Transfers, damaged: set[Cid]) -> None:
        self._catalog = catalog
        self._pools = pools
        self._transfers = transfers
        self._damaged = damaged
        self._repair_after_s: dict[Cid, float] = {}

    async def require_sound(self, cid: Cid) -> StoredObject | None:
        """What the catalog knows of an object that may be given out; None where it knows nothing or is away.

        Raises Damaged.
        """
        row = None
        with suppress(*UNREACHABLE):
            row = await self._catalog.get(cid)
        # What this worker remembers counts only where the catalog says nothing: another may have mended it since.
        if cid in self._damaged if row is None else row.state is State.DAMAGED:
            raise Damaged(cid, "A part")
        return row

    @asynccontextmanager
    async def noting(self) -> AsyncGenerator[None]:
        """Have damage that is come upon in the context known from then on; it is raised all the same."""
        try:
            yield
        except Damaged as damage:
            self._damaged.add(damage.cid)
            with suppress(*UNREACHABLE):
                await self._catalog.mark(damage.cid, State.DAMAGED)
            raise

    async def verify(self, cid: Cid, pace: Pace) -> Scrubbed:
        """Read an object from the disk and hash all of it; the catalog notes what was found. Raises NotStored."""
        try:
            scrubbed = await run_in(self._pools.care, partial(scrub, self._catalog.files, cid, pace=pace))
        except NotStored:
            if await run_in(self._pools.disk, partial(kind_on_disk, self._catalog.files, cid)) is None:
                await self._catalog.mark(cid, State.MISSING)
            raise
        except StorageFault as fault:
            if fault.code == "disk_failed":
                await self._catalog.mark(cid, State.DAMAGED)
            raise
        await self._catalog.mark(cid, State.WHOLE if scrubbed.whole else State.DAMAGED)
        (self._damaged.discard if scrubbed.whole else self._damaged.add)(cid)
        return scrubbed

    async def verify_next(self, after_s: float, pace: Pace) -> None:
        """Verify what was verified longest ago, if that is ``after_s`` ago, and learn what others know as damaged."""
        for cid in await self._catalog.longest_unverified(after_s):
            try:
                await self.verify(cid, pace)
            except Cancelled:
                raise
            except (NotStored, StorageFault) as error:
                _log.warning("not verified", cid=str(cid), reason=error.message)
        damaged = await self._catalog.in_state(State.DAMAGED)
        self._damaged.clear()
        self._damaged.update(damaged)

    async def repair(self, cid: Cid, traffic: Traffic) -> Fetched:
        """Fetch what is damaged of an object and of all under it, and only that. Raises StorageFault."""
        async with self._transfers.join(cid, traffic, repair=True) as transfer:
            return await asyncio.shield(transfer.task)

    async def mend(self) -> None:
        """Repair all that is known as damaged; what cannot be is tried again later."""
        now_s = time.monotonic()
        self._repair_after_s = {cid: at_s for cid, at_s in self._repair_after_s.items() if cid in self._damaged}
        for cid in sorted(self._damaged, key=str):
            if self._repair_after_s.get(cid, now_s) <= now_s:
                try:
                    await self.repair(cid, Traffic.BACKGROUND)
                except PrsmError as error:  # the next one may be had
                    self._repair_after_s[cid] = now_s + _REPAIR_AGAIN_S
                    _log.warning("not repaired", cid=str(cid), reason=error.message)
