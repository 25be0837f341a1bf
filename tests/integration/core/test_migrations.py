"""The migrations against a real PostgreSQL: up, down, up again, and two nodes that start at once."""

import asyncio

from prsm.core import database
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


async def test_up_down_and_up_again(fresh_database: str) -> None:
    db = await opened(fresh_database)
    try:
        await database.migrate(db.engine)
        assert await database.drift(db.engine) == ""
        first = await leftovers(db)
        assert "ledger_apply" in first
        await database.migrate(db.engine)
        await database.downgrade(db.engine, "base")
        assert await leftovers(db) == ["alembic_version", "alembic_version_pkc"]
        await database.migrate(db.engine)
        assert await database.drift(db.engine) == ""
        assert await leftovers(db) == first
    finally:
        await db.close()


async def test_the_ledgers_functions_go_back_to_what_they_were(fresh_database: str) -> None:
    db = await opened(fresh_database)

    async def functions() -> list[str]:
        named = "SELECT prosrc FROM pg_proc WHERE proname IN ('ledger_hold', 'ledger_settle') ORDER BY proname"
        return [row["prosrc"] for row in await db.pool.fetch(named)]

    try:
        await database.migrate(db.engine, "0003")
        before = await functions()
        await database.migrate(db.engine)
        after = await functions()
        assert len(before) == len(after) == 2
        assert before[0] != after[0]
        assert before[1] != after[1]
        await database.downgrade(db.engine, "0003")
        assert await functions() == before
    finally:
        await db.close()


async def test_drift_names_what_differs(fresh_database: str) -> None:
    db = await opened(fresh_database)
    try:
        await database.migrate(db.engine)
        await db.pool.execute("ALTER TABLE ledger_accounts ADD COLUMN surprise integer")
        assert "surprise" in await database.drift(db.engine)
    finally:
        await db.close()


async def test_two_nodes_that_start_at_once_migrate_once(fresh_database: str) -> None:
    first, second = await opened(fresh_database), await opened(fresh_database)
    try:
        await asyncio.gather(database.migrate(first.engine), database.migrate(second.engine))
        assert await first.pool.fetchval("SELECT count(*) FROM alembic_version") == 1
        assert await first.pool.fetchval("SELECT count(*) FROM ledger_head") == 1
    finally:
        await first.close()
        await second.close()
