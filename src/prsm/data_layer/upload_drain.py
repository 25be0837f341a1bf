"""The queue of uploads, drained: what waits goes out as soon as its node answers, one upload at a time for each node.

The queue is in PostgreSQL and shared by all workers; an upload that a killed worker had begun is begun again when its
claim has run out, and what the node has by then is not sent twice.
"""

import asyncio
import random
from functools import partial
from typing import Any

import structlog

from prsm.core.errors import PrsmError
from prsm.data_layer.cancellation import Cancellation
from prsm.data_layer.catalog import Upload, UploadQueue
from prsm.data_layer.neighbours import Neighbours
from prsm.data_layer.object_files import ObjectFiles
from prsm.data_layer.throttle import Bandwidth, Traffic
from prsm.data_layer.upload import Outlet, upload
from prsm.data_layer.upload_queue import Outcome, outcome_of, pause_s

_CLAIM_S = 120.0
_RENEW_S = 40.0
_DONE_KEPT_S = 7 * 86_400.0
_log: Any = structlog.get_logger("storage")


class Uploads:
    """The uploads of one process."""

    def __init__(self, queue: UploadQueue, files: ObjectFiles, neighbours: Neighbours, bandwidth: Bandwidth) -> None:
        self.queue = queue
        self._files = files
        self._neighbours = neighbours
        self._bandwidth = bandwidth
        self._running: dict[str, asyncio.Task[None]] = {}
        self._away: set[str] = set()
        self._closing = Cancellation()

    @property
    def running(self) -> int:
        """Uploads under way in this process."""
        return len(self._running)

    async def drain(self) -> None:
        """Begin what is due for nodes that are not busy."""
        idle = [name for name in self._neighbours.nodes if name not in self._running]
        if not idle:
            return
        for claimed in await self.queue.claim(idle, seconds=_CLAIM_S, limit=len(idle)):
            if claimed.node in self._running:  # a second one for the same node: it comes again when that has ended
                await self.queue.postpone(claimed, claimed.last_error, seconds=1)
                continue
            self._running[claimed.node] = asyncio.create_task(self._send(claimed))

    async def welcome_back(self) -> None:
        """Send at once what waits for nodes that were away and answer again."""
        sick = {view.name for view in self._neighbours.endpoints.snapshot() if not view.healthy}
        for name in self._away - sick:
            await self.queue.hasten(name)
        self._away = sick & self._neighbours.nodes.keys()

    async def tidy(self) -> None:
        """Forget uploads that ended well long ago."""
        await self.queue.forget_done(_DONE_KEPT_S)

    async def aclose(self) -> None:
        """End all uploads; they go on from where they were at the next start."""
        self._closing.set()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _send(self, claimed: Upload) -> None:
        cancelled = Cancellation(self._closing)
        renewing = asyncio.create_task(self._renew(claimed, cancelled))
        try:
            node = self._neighbours.nodes[claimed.node]
            outlet = Outlet(node, self._bandwidth, Traffic.BULK, cancelled)
            await asyncio.to_thread(partial(upload, claimed.cid, self._files, outlet))
        except PrsmError as error:
            await self._failed(claimed, error)
        else:
            await self.queue.done(claimed)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            self._running.pop(claimed.node, None)

    async def _renew(self, claimed: Upload, cancelled: Cancellation) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            if not await self.queue.renew(claimed, seconds=_CLAIM_S):
                cancelled.set()

    async def _failed(self, claimed: Upload, error: PrsmError) -> None:
        outcome = outcome_of(error)
        if outcome is Outcome.FAILED:
            await self.queue.give_up(claimed, error.message)
            _log.warning("upload given up", cid=str(claimed.cid), node=claimed.node, reason=error.message)
            return
        seconds = 0.0 if outcome is Outcome.KEPT else pause_s(claimed.attempts - 1, random.random())  # noqa: S311 - jitter
        await self.queue.postpone(claimed, error.message, seconds=seconds)
