"""The servers under a node: those that are configured, or embedded ones that are started, watched and stopped."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from prsm.core.cancellation import end_tasks
from prsm.core.config import Settings
from prsm.core.embedded.home import NodeHome
from prsm.core.embedded.postgres import EmbeddedPostgres
from prsm.core.embedded.server import EmbeddedServer
from prsm.core.embedded.valkey import EmbeddedValkey
from prsm.core.errors import Unavailable
from prsm.node.background import repeat

_PAUSE_S = 0.5
"""Between two starts of a server that dies again and again."""
_LOOK_S = 30.0
"""How often a server's log is looked at."""
_log: Any = structlog.get_logger("node")


@asynccontextmanager
async def servers(settings: Settings) -> AsyncGenerator[tuple[str, str], None]:
    """The addresses of PostgreSQL and Valkey: those configured, or embedded ones that are started, watched, stopped."""
    with NodeHome.claim(settings.home) as home:
        embedded: list[EmbeddedServer] = []
        postgres_url, valkey_url = settings.database_url, settings.redis_url
        async with contextlib.AsyncExitStack() as stack:
            if not (postgres_url and valkey_url):
                site = await asyncio.to_thread(home.server_site)
                if not postgres_url:
                    postgres = EmbeddedPostgres(site)
                    stack.push_async_callback(postgres.stop)
                    embedded.append(postgres)
                if not valkey_url:
                    valkey = EmbeddedValkey(site)
                    stack.push_async_callback(valkey.stop)
                    embedded.append(valkey)
            urls = dict(zip([s.name for s in embedded], await asyncio.gather(*map(_start, embedded)), strict=True))
            watchers = [asyncio.create_task(_watch(server)) for server in embedded]
            stack.push_async_callback(end_tasks, watchers)
            yield urls.get("postgres", postgres_url), urls.get("valkey", valkey_url)


async def _start(server: EmbeddedServer) -> str:
    """Start a server; the node goes on without Valkey, and the watch keeps trying to start it."""
    try:
        return await server.start()
    except Unavailable as error:
        if server.name != EmbeddedValkey.name:
            raise
        _log.warning("starting without valkey", reason=error.message)
        return server.url


async def _watch(server: EmbeddedServer) -> None:
    """Start ``server`` again when it has died, soon enough to lose no request that waits, and keep its log bounded."""

    async def stand_by() -> None:
        await server.ended(within_s=_LOOK_S)
        await server.ensure_running()

    await repeat(_PAUSE_S, stand_by)
