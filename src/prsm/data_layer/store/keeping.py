"""How an object is kept from collectors while somebody works with it: a lease in the catalog, renewed until he ends.

What is one file need not even that: while it is held open it stays. A worker that dies lets go by itself: the system
closes its files, and its leases run out.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import structlog

from prsm.core.clock import uuid7
from prsm.core.database import UNREACHABLE
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.catalog import Catalog, Lease
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.unnamed import Unnamed

LEASE_S = 60.0
_ANSWER_S = 60.0
_log: Any = structlog.get_logger("storage")


@asynccontextmanager
async def kept(catalog: Catalog, *cids: Cid, why: str, afterwards: bool = False) -> AsyncGenerator[str]:
    """Keep objects, stored or not yet, for the time of the context; gives the holder's name, to lease more under.

    ``afterwards`` keeps them for another ``LEASE_S`` after work that ended well, so that who asked for it can go on.
    """
    holder = f"{why}:{uuid7()}"
    if cids:
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
            await catalog.renew(cids, Lease(holder, LEASE_S))
        except UNREACHABLE as error:
            _log.warning("a lease was not renewed", holder=holder, error=type(error).__name__)


class KeptFiles(ObjectFiles):
    """The folder of ``files``, in which nothing becomes visible before ``holder`` keeps it: no collector gets it first.

    For one piece of work, in a thread, while the event loop that made this runs.
    """

    def __init__(self, catalog: Catalog, holder: str) -> None:
        files = catalog.files
        super().__init__(files.folder, keep_free_bytes=files.keep_free_bytes, folders=files.folders)
        self._keep = keeper(catalog, holder)

    def publish(self, cid: Cid, unnamed: Unnamed, *, payload: bool, replace: bool = False) -> bool:
        """As ``ObjectFiles.publish``."""
        self._keep(cid)
        return super().publish(cid, unnamed, payload=payload, replace=replace)


class HeldFiles(ObjectFiles):
    """The folder of ``files``, in which each file that is published stays open until the end of this context.

    No collector takes such a file meanwhile, without a word to the catalog; for one that is put in the place of
    another (``replace``), or is new, and for few of them.
    """

    def __init__(self, files: ObjectFiles) -> None:
        super().__init__(files.folder, keep_free_bytes=files.keep_free_bytes, folders=files.folders)
        self._lock = threading.Lock()
        self._held: list[int] | None = []

    def publish(self, cid: Cid, unnamed: Unnamed, *, payload: bool, replace: bool = False) -> bool:
        """As ``ObjectFiles.publish``."""
        with self._lock:
            if self._held is not None:  # else nobody waits for this any more
                self._held.append(os.dup(unnamed.fd))  # with the lock that it has by then
        return super().publish(cid, unnamed, payload=payload, replace=replace)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            held, self._held = self._held or [], None
        for fd in held:
            os.close(fd)


def keeper(catalog: Catalog, holder: str) -> Callable[[Cid], None]:
    """A function that leases an object to ``holder``, to be called in a thread while this event loop runs."""
    loop = asyncio.get_running_loop()

    def keep(cid: Cid) -> None:
        asyncio.run_coroutine_threadsafe(catalog.lease([cid], Lease(holder, LEASE_S)), loop).result(_ANSWER_S)

    return keep
