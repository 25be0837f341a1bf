"""The outbox: events leave in order, at least once, whatever dies meanwhile, and by one publisher at a time."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.servers import server_site

from prsm.core import database
from prsm.core.cache import Cache, CacheLimits
from prsm.core.cancellation import end_tasks
from prsm.core.database import Database
from prsm.core.embedded import EmbeddedValkey
from prsm.core.errors import Unavailable
from prsm.core.events import OutboxPublisher, emit


class Listener:
    """Takes what is published; refuses while ``away``."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []
        self.away = False
        self.gate: asyncio.Event | None = None

    async def __call__(self, topic: str, payload: bytes) -> None:
        if self.gate:
            await self.gate.wait()
        if self.away:
            raise Unavailable("away")
        self.got.append((topic, msgspec.json.decode(payload)["n"]))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.got) < count:
                await asyncio.sleep(0.005)

    async def until_last(self, number: int) -> None:
        async with asyncio.timeout(30):
            while self.got[-1] != ("t", number):
                await asyncio.sleep(0.005)


@pytest.fixture
async def db(fresh_database: str) -> AsyncIterator[Database]:
    opened = await database.connect(fresh_database, pool_size=4, timeout_ms=20_000)
    try:
        yield opened
    finally:
        await opened.close()


async def write(db: Database, *numbers: int) -> None:
    for number in numbers:
        await emit(db.pool, "t", {"n": number})


def numbered(*numbers: int) -> list[tuple[str, int]]:
    return [("t", number) for number in numbers]


async def test_events_leave_in_order_and_once(db: Database) -> None:
    listener = Listener()
    outbox = OutboxPublisher(db.pool, listener, batch=4)
    await write(db, *range(10))
    assert await outbox.backlog() == 10
    assert [await outbox.publish_once() for _ in range(4)] == [4, 4, 2, 0]
    assert listener.got == numbered(*range(10))
    assert await outbox.backlog() == 0


async def test_an_event_stands_or_falls_with_its_change(db: Database) -> None:
    listener = Listener()
    outbox = OutboxPublisher(db.pool, listener)
    async with db.pool.acquire() as connection:
        undone: Any = connection.transaction()
        await undone.start()
        await emit(connection, "t", {"n": 1})
        await undone.rollback()
    async with db.pool.acquire() as connection, connection.transaction():
        await emit(connection, "t", {"n": 2})
        assert await outbox.publish_once() == 0
    await outbox.publish_once()
    assert listener.got == numbered(2)


async def test_what_was_not_delivered_is_delivered_again(db: Database) -> None:
    listener = Listener()
    outbox = OutboxPublisher(db.pool, listener)
    await write(db, 1, 2)
    listener.away = True
    with pytest.raises(Unavailable):
        await outbox.publish_once()
    assert await outbox.backlog() == 2
    listener.away = False
    await outbox.publish_once()
    assert listener.got == numbered(1, 2)


async def test_a_publisher_that_dies_after_publishing_repeats_and_loses_nothing(db: Database) -> None:
    listener = Listener()
    calls = itertools.count(1)

    async def dies_at_the_third(topic: str, payload: bytes) -> None:
        await listener(topic, payload)
        if next(calls) == 3:
            raise asyncio.CancelledError

    await write(db, 1, 2, 3, 4)
    with pytest.raises(asyncio.CancelledError):
        await OutboxPublisher(db.pool, dies_at_the_third).publish_once()
    await OutboxPublisher(db.pool, listener).publish_once()
    assert listener.got == numbered(1, 2, 3, 1, 2, 3, 4)


async def test_while_both_live_two_publishers_neither_double_nor_disorder(db: Database) -> None:
    listener = Listener()
    listener.gate = asyncio.Event()
    one, two = (OutboxPublisher(db.pool, listener, batch=5) for _ in range(2))
    await write(db, *range(20))
    first = asyncio.create_task(one.publish_once())
    while not await db.pool.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7013"):
        await asyncio.sleep(0.005)
    assert await two.publish_once() == 0
    listener.gate.set()
    assert await first == 5
    tasks = [asyncio.create_task(publisher.run()) for publisher in (one, two)]
    await listener.until(20)
    for number in range(20, 60):
        await write(db, number)
        one.hint()
        two.hint()
    await listener.until(60)
    await end_tasks(tasks)
    assert listener.got == numbered(*range(60))


async def test_a_running_publisher_survives_the_loss_of_its_connections(db: Database) -> None:
    listener = Listener()
    outbox = OutboxPublisher(db.pool, listener, poll_s=0.01)
    running = asyncio.create_task(outbox.run())
    await write(db, 1)
    await listener.until(1)
    killer = await database.connect_one(db.url, timeout_s=20)
    try:
        for number in range(2, 5):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await emit(killer, "t", {"n": number})
            await listener.until_last(number)
    finally:
        killer.terminate()
    assert not running.done()
    await end_tasks([running])
    firsts = list(dict.fromkeys(listener.got))  # a connection lost after publishing repeats the event
    assert firsts == numbered(1, 2, 3, 4)


async def test_a_publisher_can_be_ended_although_a_cancelled_query_may_end_in_another_error(db: Database) -> None:
    waits = asyncio.Event()
    swallowed = 0

    async def publish(topic: str, payload: bytes) -> None:
        nonlocal swallowed
        waits.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed += 1
            raise ConnectionResetError("as asyncpg does") from None

    running = asyncio.create_task(OutboxPublisher(db.pool, publish, poll_s=0.01).run())
    await write(db, 1)
    await waits.wait()
    await end_tasks([running])
    assert (running.cancelled(), swallowed) == (True, 1)


async def test_events_wait_for_a_valkey_that_is_away_and_reach_who_listens_after(db: Database, tmp_path: Path) -> None:
    with server_site(tmp_path) as site:
        server = EmbeddedValkey(site)
        cache = Cache(await server.start(), limits=CacheLimits(call_timeout_s=30))
        listener = Listener()

        async def gap() -> None:
            """Nothing is kept that a lost message would have changed."""

        subscription = cache.subscribe("t", listener, on_gap=gap)
        outbox = OutboxPublisher(db.pool, cache.publish, poll_s=0.02)
        running = asyncio.create_task(outbox.run())
        try:
            await subscription.listening.wait()
            await write(db, 1)
            await listener.until(1)
            await server.stop()
            await write(db, 2, 3)
            await asyncio.sleep(0.1)
            assert await outbox.backlog() == 2
            await server.start()
            async with asyncio.timeout(30):
                while await outbox.backlog():
                    await asyncio.sleep(0.02)
            await subscription.listening.wait()
            await write(db, 4)
            await listener.until_last(4)
        finally:
            await end_tasks([running])
            await cache.aclose()
            await server.stop()


async def test_published_events_are_not_kept_for_ever(db: Database) -> None:
    outbox = OutboxPublisher(db.pool, Listener())
    await write(db, 1, 2)
    await outbox.publish_once()
    await write(db, 3)
    await db.pool.execute("UPDATE outbox SET published_at = published_at - interval '1 hour' WHERE id = 1")
    assert await outbox.forget_published(1800) == 1
    assert await outbox.forget_published(0) == 1
    assert await outbox.backlog() == 1
