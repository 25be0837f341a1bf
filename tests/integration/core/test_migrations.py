"""The migrations against a real PostgreSQL: up, down, up again, and two nodes that start at once."""

import asyncio

from prsm.core import database, schema
from prsm.core.database import Database


async def opened(url: str) -> Database:
    return await database.connect(url, pool_size=2, timeout_ms=20_000)


async def leftovers(db: Database) -> list[str]:
    """Everything in the public schema that no extension brought: tables, indexes, sequences, functions, types."""
    rows = await db.pool.fetch(
        """
        WITH things AS (
            SELECT c.oid, c.relname AS name, 'pg_class'::regclass AS class FROM pg_class c
            WHERE relnamespace = 'public'::regnamespace
            UNION ALL
            SELECT p.oid, p.proname, 'pg_proc'::regclass FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
        )
        SELECT name FROM things WHERE NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = things.class AND d.objid = things.oid AND d.deptype = 'e')
        ORDER BY name
        """
    )
    return [row["name"] for row in rows]


async def test_up_down_and_up_again(empty_database: str) -> None:
    db = await opened(empty_database)
    try:
        await database.migrate(db)
        assert await schema.drift(db.url) == ""
        first = await leftovers(db)
        assert "ledger_apply" in first
        await database.migrate(db)
        await schema.downgrade(db.url, "base")
        assert await leftovers(db) == ["alembic_version", "alembic_version_pkc"]
        await database.migrate(db)
        assert await schema.drift(db.url) == ""
        assert await leftovers(db) == first
    finally:
        await db.close()


async def test_the_ledgers_functions_go_back_to_what_they_were(empty_database: str) -> None:
    db = await opened(empty_database)

    async def functions() -> list[str]:
        named = "SELECT prosrc FROM pg_proc WHERE proname IN ('ledger_hold', 'ledger_settle') ORDER BY proname"
        return [row["prosrc"] for row in await db.pool.fetch(named)]

    try:
        await schema.upgrade(db.url, "0003")
        before = await functions()
        await database.migrate(db)
        after = await functions()
        assert len(before) == len(after) == 2
        assert before[0] != after[0]
        assert before[1] != after[1]
        await schema.downgrade(db.url, "0003")
        assert await functions() == before
    finally:
        await db.close()


async def test_drift_names_what_differs(empty_database: str) -> None:
    db = await opened(empty_database)
    try:
        await database.migrate(db)
        await db.pool.execute("ALTER TABLE ledger_accounts ADD COLUMN surprise integer")
        assert "surprise" in await schema.drift(db.url)
    finally:
        await db.close()


async def test_two_nodes_that_start_at_once_migrate_once(empty_database: str) -> None:
    first, second = await opened(empty_database), await opened(empty_database)
    try:
        await asyncio.gather(database.migrate(first), database.migrate(second))
        assert await first.pool.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await first.pool.fetchval("SELECT count(*) FROM ledger_head") == 1
    finally:
        await first.close()
        await second.close()
