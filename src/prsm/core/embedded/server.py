"""The life of an embedded server: adopt what an earlier node left, else clear up and start, end in good order.

What differs between servers (arguments, data, how to ask whether one can work) is theirs; this file knows none of it.
"""

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import structlog

from prsm.core.embedded.endpoint import Endpoint, choose_endpoint, renew_port
from prsm.core.embedded.home import Site
from prsm.core.embedded.process import Answer, Plan, ServerProcess, bound_log, is_long
from prsm.core.errors import ConfigError, Unavailable

_ADOPT_PATIENCE_S = 5.0
_START_PATIENCE_S = 30.0

_log = structlog.stdlib.get_logger(__name__)


class EmbeddedServer(ABC):
    """One server of a site. Start-up work such as recovery may take ``start_timeout_s``."""

    name: ClassVar[str]
    socket_name: ClassVar[str]
    default_port: ClassVar[int]
    start_timeout_s: ClassVar[float]
    stop_timeout_s: ClassVar[float]

    def __init__(self, site: Site, *, loopback: bool) -> None:
        self.data_dir: Path = site.root / self.name / "data"
        self.log_path: Path = site.root / self.name / "server.log"
        self._site = site
        self._loopback = loopback
        self._process: ServerProcess | None = None
        self._endpoint: Endpoint | None = None
        self._changing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The server's process id while it lives."""
        return self._process.pid if self._process else None

    @property
    def url(self) -> str:
        """The address with the password, known after the first ``start()`` and the same ever after; never log it."""
        if self._endpoint is None:
            raise Unavailable(f"The embedded {self.name} server was not started yet.")
        return self._url(self._endpoint)

    async def start(self) -> str:
        """Adopt a healthy server or start one; returns ``url``. Does nothing while the server lives.

        Raises ConfigError (it cannot run here) and Unavailable (it did not come up; the message has its log's end).
        """
        async with self._changing:
            if self._process is None or not self._process.alive():
                try:
                    self._endpoint = await asyncio.to_thread(self._choose_endpoint)
                    self._process = await self._adopt(self._endpoint) or await self._spawn(self._endpoint)
                except OSError as error:
                    raise ConfigError(
                        f"The embedded {self.name} server cannot use its folder {self.data_dir.parent}: {error}.",
                        remedy="Free space or mend its permissions, then start again.",
                    ) from error
            return self.url

    async def stop(self) -> None:
        """Shut down in good order, by force after the time-out; returns when no process of it is left."""
        async with self._changing:
            if self._process is not None:
                await asyncio.to_thread(self._process.end, self.stop_timeout_s)
                self._process = None

    async def ended(self, within_s: float) -> None:
        """Return when the server does not run any more, after ``within_s`` in any case."""
        if self._process is not None:
            await self._process.ended(within_s)

    async def ensure_running(self) -> str:
        """Start it again if it died; to be called from time to time, which also keeps its log bounded."""
        if is_long(self.log_path):
            await asyncio.to_thread(bound_log, self.log_path)
        return await self.start()

    async def _adopt(self, endpoint: Endpoint) -> ServerProcess | None:
        process = ServerProcess(await asyncio.to_thread(self._plan, endpoint))
        if not await asyncio.to_thread(process.adopt):
            return None
        try:
            await process.wait_ready(self._ask, patience_s=_ADOPT_PATIENCE_S, limit_s=self.start_timeout_s)
        except Unavailable as error:
            _log.warning("embedded_server_broken", server=self.name, reason=error.message)
            await asyncio.to_thread(process.end, _ADOPT_PATIENCE_S)
            return None
        _log.info("embedded_server_adopted", server=self.name, pid=process.pid)
        return process

    async def _spawn(self, endpoint: Endpoint) -> ServerProcess:
        endpoint = await asyncio.to_thread(renew_port, self._site, self.name, endpoint)
        self._endpoint = endpoint
        process = ServerProcess(await asyncio.to_thread(self._plan, endpoint))
        await asyncio.to_thread(self._clear_ground, endpoint)
        await asyncio.to_thread(process.spawn)
        try:
            await process.wait_ready(self._ask, patience_s=_START_PATIENCE_S, limit_s=self.start_timeout_s)
        except BaseException:
            # Also when cancelled: nothing half-started stays behind.
            await asyncio.shield(asyncio.to_thread(process.end, self.stop_timeout_s))
            raise
        _log.info("embedded_server_started", server=self.name, pid=process.pid)
        return process

    def _choose_endpoint(self) -> Endpoint:
        self._site.folder(self.name)
        return choose_endpoint(
            self._site, self.name, self.socket_name, default_port=self.default_port, loopback=self._loopback
        )

    @abstractmethod
    def _url(self, endpoint: Endpoint) -> str: ...

    @abstractmethod
    def _plan(self, endpoint: Endpoint) -> Plan: ...

    @abstractmethod
    def _clear_ground(self, endpoint: Endpoint) -> None:
        """Make the data folder where missing and remove what a dead server left; no server of ours runs now."""

    @abstractmethod
    async def _ask(self) -> Answer: ...
