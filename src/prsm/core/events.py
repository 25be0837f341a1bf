"""The transactional outbox: an event is written with the change that caused it and published afterwards.

Delivery is at least once and in the order of the events' numbers, whichever node publishes; who listens must bear a
repeat. The ledger is its own ordered log and does not pass through here.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from prsm.core.database import Connection, Pool

Publish = Callable[[str, bytes], Awaitable[Any]]

_log: Any = structlog.get_logger("outbox")


async def emit(connection: Connection | Pool, topic: str, payload: dict[str, Any]) -> None:
    """Write an event; give the connection whose transaction makes the change."""
    await connection.execute(
        "INSERT INTO outbox (topic, payload) VALUES ($1, $2::text::jsonb)", topic, msgspec.json.encode(payload).decode()
    )


class OutboxPublisher:
    """Moves events to ``publish``; of several nodes on one database one publishes at a time, so that order is kept."""

    def __init__(self, pool: Pool, publish: Publish, *, poll_s: float = 0.5, batch: int = 200) -> None:
        self._pool = pool
        self._publish = publish
        self._poll_s = poll_s
        self._batch = batch
        self._wake = asyncio.Event()

    def hint(self) -> None:
        """There is something new: do not wait for the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Publish until cancelled; an outage of either side, logged once, only delays."""
        failing = False
        while True:
            moved = 0
            try:
                moved = await self.publish_once()
                failing = False
            except Exception as error:  # noqa: BLE001 - or nobody would publish any more until the next start
                if not failing:
                    _log.warning("events wait", reason=type(error).__name__)
                failing = True
            if moved < self._batch:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s):
                        await self._wake.wait()

    async def publish_once(self) -> int:
        """Publish one batch; answers how many. Rows are marked only when their events are out."""
        if not await self._pool.fetchval("SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)"):
            return 0
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock(7013)"):
                return 0
            rows = await connection.fetch(
                "SELECT id, topic, payload::text AS payload FROM outbox WHERE published_at IS NULL "
                "ORDER BY id LIMIT $1",
                self._batch,
            )
            for row in rows:
                await self._publish(row["topic"], row["payload"].encode())
            if rows:
                await connection.execute(
                    "UPDATE outbox SET published_at = now() WHERE id = ANY($1)", [row["id"] for row in rows]
                )
        return len(rows)

    async def forget_published(self, older_s: int) -> int:
        """Delete events that were published ``older_s`` ago; answers how many."""
        tag = await self._pool.execute(
            "DELETE FROM outbox WHERE published_at < now() - make_interval(secs => $1)", older_s
        )
        return int(tag.split()[-1])

    async def backlog(self) -> int:
        """Events not yet published."""
        count: int = await self._pool.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        return count
