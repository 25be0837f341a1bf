"""The queue of uploads, drained: what waits goes out as soon as its node answers, one upload at a time for each node.

The queue is in PostgreSQL and shared by all workers; an upload that a killed worker had begun is begun again when its
claim has run out, and what the node has by then is not sent twice. A node that does not answer is left alone until it
does, and then what waits for it is due at once.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from prsm.core.database import UNREACHABLE
from prsm.core.errors import PrsmError
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.uploads import Upload, UploadQueue
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.progress import Progress
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic
from prsm.data_layer.transfer.upload import Outlet, upload
from prsm.data_layer.transfer.upload_queue import Outcome, outcome_of, pause_s

_PROBE_S = 5.0
_ENDED_KEPT_S = 7 * 86_400.0
_GONE_AFTER_S = 86_400.0
_NODES = 64
_log: Any = structlog.get_logger("storage")


class Uploads:
    """The uploads of one process. ``claim_s``: how long after a worker died another one takes up what it had begun."""

    def __init__(
        self,
        queue: UploadQueue,
        files: ObjectFiles,
        neighbours: Neighbours,
        bandwidth: Bandwidth,
        *,
        claim_s: float = 120.0,
    ) -> None:
        self.queue = queue
        self._files = files
        self._neighbours = neighbours
        self._bandwidth = bandwidth
        self._claim_s = claim_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._met: set[str] = set()
        self._away: set[str] = set()
        self._closing = Cancellation()
        self._counting = threading.Lock()
        self.sent_bytes = 0
        """What own nodes have taken from this process."""
        self._turn = asyncio.Lock()
        self._threads = ThreadPoolExecutor(_NODES, "storage-upload")

    @property
    def running(self) -> int:
        """Uploads under way in this process."""
        return len(self._running)

    async def drain(self) -> None:
        """Begin what is due for nodes that are not busy and not away."""
        async with self._turn:
            for name in self._neighbours.nodes:
                if name in self._running or name in self._away or self._closing.is_set():
                    continue
                # One by one: nothing is claimed that cannot begin now.
                for claimed in await self.queue.claim([name], seconds=self._claim_s):
                    self._running[name] = asyncio.create_task(self._send(claimed))

    async def welcome_back(self) -> None:
        """Ask nodes that were away, or are new, whether they answer; what waits for those that do is due at once."""
        nodes = self._neighbours.nodes
        self._met &= nodes.keys()
        self._away &= nodes.keys()
        asked = [node for name, node in nodes.items() if name in self._away or name not in self._met]
        answers = await asyncio.gather(*(self._answers(node) for node in asked))
        for node, answer in zip(asked, answers, strict=True):
            if answer:
                await self.queue.hasten(node.name)
                self._met.add(node.name)
                self._away.discard(node.name)
            else:
                self._away.add(node.name)

    async def tidy(self) -> None:
        """Forget uploads that ended long ago, and give up those for nodes that are long gone from the settings."""
        await self.queue.forget_ended(_ENDED_KEPT_S)
        await self.queue.give_up_others(list(self._neighbours.nodes), older_s=_GONE_AFTER_S)

    async def aclose(self) -> None:
        """End all uploads; they go on from where they were at the next start."""
        await asyncio.to_thread(self._stop)
        async with self._turn:  # nothing begins after this
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def _stop(self) -> None:
        self._closing.set()
        for node in self._neighbours.nodes.values():
            node.close()  # it may take minutes to answer, over a pin for example

    async def _send(self, claimed: Upload) -> None:
        cancelled = Cancellation(self._closing)
        renewing = asyncio.create_task(self._renew(claimed, cancelled))
        try:
            await self._in_thread(partial(self._upload, claimed, cancelled))
            await self.queue.done(claimed)
        except PrsmError as error:
            await self._failed(claimed, error)
        except Exception as error:  # noqa: BLE001 - the claim runs out; then it is begun again
            _log.warning("an upload broke off", cid=str(claimed.cid), error=type(error).__name__)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            self._running.pop(claimed.node, None)

    def _upload(self, claimed: Upload, cancelled: Cancellation) -> None:
        node = self._neighbours.nodes.get(claimed.node)
        if node is None:
            raise StorageFault(f"{claimed.node} is no node of one's own any more.", fault=Fault.RETRY)
        counted = 0

        def count(progress: Progress) -> None:
            nonlocal counted
            with self._counting:
                self.sent_bytes += progress.moved_bytes - counted
            counted = progress.moved_bytes

        upload(claimed.cid, self._files, Outlet(node, self._bandwidth, Traffic.BULK, cancelled), tell=count)

    async def _renew(self, claimed: Upload, cancelled: Cancellation) -> None:
        until_s = time.monotonic() + self._claim_s
        while time.monotonic() < until_s:
            await asyncio.sleep(self._claim_s / 3)
            try:
                if not await self.queue.renew(claimed, seconds=self._claim_s):
                    break
                until_s = time.monotonic() + self._claim_s
            except UNREACHABLE as error:
                _log.warning("an upload's claim was not renewed", cid=str(claimed.cid), error=type(error).__name__)
        await asyncio.to_thread(cancelled.set)  # another worker has it, or soon will

    async def _failed(self, claimed: Upload, error: PrsmError) -> None:
        outcome = Outcome.KEPT if self._closing.is_set() else outcome_of(error)
        try:
            if outcome is Outcome.FAILED:
                await self.queue.give_up(claimed, error.message)
                _log.warning("upload given up", cid=str(claimed.cid), node=claimed.node, reason=error.message)
            elif outcome is Outcome.KEPT:
                await self.queue.put_back(claimed)
            else:
                node = self._neighbours.nodes.get(claimed.node)
                if node is not None and not await self._answers(node):
                    self._away.add(claimed.node)
                seconds = pause_s(claimed.attempts, random.random())  # noqa: S311 - jitter
                await self.queue.postpone(claimed, error.message, seconds=seconds)
        except UNREACHABLE as away:
            _log.warning("an upload's end was not noted", cid=str(claimed.cid), error=type(away).__name__)

    async def _answers(self, node: KuboNode) -> bool:
        try:
            await self._in_thread(lambda: node.probe(time.monotonic() + _PROBE_S))
        except StorageFault:
            return False
        return True

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work)
