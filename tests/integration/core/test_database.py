"""The database's edge: what cannot be reached or is of another version says so in a sentence, and pings do not lie."""

import contextlib

import asyncpg
import pytest

from prsm.core import database
from prsm.core.errors import ConfigError, Unavailable


@pytest.mark.parametrize(
    "url", ["", "mysql://u:p@h/x", "postgresql://u:p@h/", "postgresql://u:p@h:port/x", "postgresql://u:p@[h/x"]
)
async def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        await database.connect(url, pool_size=1, timeout_ms=1000)
    assert "PRSM_DATABASE_URL" in raised.value.message
    assert ":p@" not in str(raised.value)


async def test_a_database_that_is_not_there_or_does_not_let_in_says_which_setting(postgres_url: str) -> None:
    wrong_password = postgres_url.replace("://prsm:", "://prsm:x")
    assert wrong_password != postgres_url
    for url in (
        postgres_url.replace("/prsm?", "/nowhere?"),
        wrong_password,
        "postgresql://u:p@127.0.0.1:1/x",
    ):
        with pytest.raises(Unavailable) as raised:
            await database.connect(url, pool_size=1, timeout_ms=20_000)
        assert "PRSM_DATABASE_URL" in raised.value.remedy


async def test_tables_of_a_newer_version_are_left_alone(fresh_database: str) -> None:
    db = await database.connect(fresh_database, pool_size=2, timeout_ms=20_000)
    try:
        await database.migrate(db)
        await db.pool.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(ConfigError) as raised:
            await database.migrate(db)
        assert "9999" in raised.value.message
        assert await db.pool.fetchval("SELECT version_num FROM alembic_version") == "9999"
    finally:
        await db.close()


async def test_a_pool_whose_connections_the_server_ended_recovers(fresh_database: str) -> None:
    size = 3
    db = await database.connect(fresh_database, pool_size=size, timeout_ms=20_000)
    try:
        pids = await every_backend(db, size)
        killer = await asyncpg.connect(fresh_database)
        assert await killer.fetchval("SELECT bool_and(pg_terminate_backend(p, 10000)) FROM unnest($1::int[]) p", pids)
        await killer.close()
        failed = 0
        while failed <= size:  # each connection may tell once that it is gone, and none twice
            try:
                await db.ping()
                break
            except Unavailable:
                failed += 1
        assert failed <= size
        assert not pids & await every_backend(db, size)
    finally:
        await db.close()


async def every_backend(db: database.Database, size: int) -> set[int]:
    """The server's processes behind all connections of the pool, which this opens."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(db.pool.acquire()) for _ in range(size)]
        found = {await connection.fetchval("SELECT pg_backend_pid()") for connection in connections}
    assert len(found) == size
    return found


async def test_a_connection_goes_back_without_a_transaction_and_without_a_round_trip(fresh_database: str) -> None:
    db = await database.connect(fresh_database, pool_size=1, timeout_ms=20_000)
    try:
        await db.pool.execute("CREATE TABLE counted (n int)")
        async with db.pool.acquire() as connection:
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO counted VALUES (1)")
        assert await db.pool.fetchval("SELECT count(*) FROM counted") == 0
        statements = "SELECT query NOT LIKE '%RESET%' FROM pg_stat_activity WHERE pid = $1"
        pid = await db.pool.fetchval("SELECT pg_backend_pid()")
        watcher = await asyncpg.connect(fresh_database)
        assert await watcher.fetchval(statements, pid)
        await watcher.close()
    finally:
        await db.close()
