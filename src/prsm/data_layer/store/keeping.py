"""How an object is kept from collectors while somebody works with it: a lease in the catalog, renewed until he ends.

A worker that dies lets go by itself: its leases run out.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from prsm.core.clock import uuid7
from prsm.core.database import UNREACHABLE
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.catalog import Catalog, Lease
from prsm.data_layer.store.object_files import ObjectFiles, Unnamed

LEASE_S = 60.0
_ANSWER_S = 60.0
_log: Any = structlog.get_logger("storage")


@asynccontextmanager
async def kept(catalog: Catalog, *cids: Cid, why: str, afterwards: bool = False) -> AsyncGenerator[str]:
    """Keep objects, stored or not yet, for the time of the context; gives the holder's name, to lease more under.

    ``afterwards`` keeps them for another ``LEASE_S`` after work that ended well, so that who asked for it can go on.
    """
    holder = f"{why}:{uuid7()}"
    await catalog.lease(cids, Lease(holder, LEASE_S))
    renewing = asyncio.create_task(_renew(catalog, cids, holder))
    ended_well = False
    try:
        yield holder
        ended_well = True
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        with suppress(*UNREACHABLE):  # then it runs out by itself
            if afterwards and ended_well:
                await catalog.lease(cids, Lease(holder, LEASE_S))
            else:
                await catalog.release(holder)


async def _renew(catalog: Catalog, cids: tuple[Cid, ...], holder: str) -> None:
    while True:
        await asyncio.sleep(LEASE_S / 3)
        try:
            await catalog.lease(cids, Lease(holder, LEASE_S))
        except UNREACHABLE as error:
            _log.warning("a lease was not renewed", holder=holder, error=type(error).__name__)


class KeptFiles(ObjectFiles):
    """The folder of ``files``, in which nothing becomes visible before ``holder`` keeps it: no collector gets it first.

    For one piece of work, in a thread, while the event loop that made this runs.
    """

    def __init__(self, catalog: Catalog, holder: str) -> None:
        super().__init__(catalog.files.folder, keep_free_bytes=catalog.files.keep_free_bytes)
        self._keep = keeper(catalog, holder)
        self.was_there: set[Cid] = set()

    def publish(self, cid: Cid, unnamed: Unnamed, *, payload: bool, replace: bool = False) -> bool:
        """As ``ObjectFiles.publish``; ``was_there`` notes what was stored before."""
        self._keep(cid)
        if self.outboard_path(cid).exists() and (not payload or self.payload_path(cid).exists()):
            self.was_there.add(cid)
        return super().publish(cid, unnamed, payload=payload, replace=replace)


def keeper(catalog: Catalog, holder: str) -> Callable[[Cid], None]:
    """A function that leases an object to ``holder``, to be called in a thread while this event loop runs."""
    loop = asyncio.get_running_loop()

    def keep(cid: Cid) -> None:
        asyncio.run_coroutine_threadsafe(catalog.lease([cid], Lease(holder, LEASE_S)), loop).result(_ANSWER_S)

    return keep
