"""A migrated database with a started ledger, an account with money and a key that may spend it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from prsm.core import database
from prsm.core.clock import uuid7
from prsm.core.database import Connection, Database
from prsm.core.errors import PrsmError
from prsm.core.subject_keys import SubjectKeys
from prsm.tokenomics.ftns_service import Ledger, LedgerLimits
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.splits import Leg

PAYER = "principal:payer"


@dataclass
class World:
    """What a ledger test works with."""

    db: Database
    ledger: Ledger
    account_id: int
    key_id: UUID

    @property
    def subject_keys(self) -> SubjectKeys:
        """Keys that seal what these tests say."""
        return SubjectKeys(self.db.pool, b"s" * 32)

    async def connect(self) -> Connection:
        return await database.connect_one(self.db.url, timeout_s=10)

    async def fund(self, account: str, amount_micro: int) -> int:
        account_id = await self.ledger.account_id(account)
        await self.ledger.transfer(uuid4(), "issuance", account, amount_micro, "grant")
        return account_id

    async def key(self, cap_micro: int | None) -> UUID:
        principal_id, key_id = uuid4(), uuid4()
        await self.db.pool.execute("INSERT INTO principals (id, name, role) VALUES ($1, 'x', 'user')", principal_id)
        await self.db.pool.execute(
            "INSERT INTO api_keys (id, principal_id, prefix, key_hash, name, scopes) "
            "VALUES ($1, $2, $3, '', 'x', '{}')",
            key_id,
            principal_id,
            str(key_id),
        )
        await self.ledger.set_cap(key_id, cap_micro)
        return key_id

    async def hold(self, amount_micro: int, *, key: UUID | None = None, hold_id: UUID | None = None) -> UUID:
        order = HoldOrder(hold_id or uuid7(), self.account_id, key or self.key_id, amount_micro)
        await self.ledger.hold(order)
        return order.id

    async def spent_and_held(self, key: UUID | None = None) -> tuple[int, int]:
        row = await self.db.pool.fetchrow(
            "SELECT spent_micro, held_micro FROM ledger_budgets WHERE api_key_id = $1", key or self.key_id
        )
        return row["spent_micro"], row["held_micro"]

    async def barrier(self) -> None:
        """Return when every settlement queued before is committed."""
        await self.ledger.release(uuid4())

    @asynccontextmanager
    async def sequencer_held(self) -> AsyncIterator[None]:
        """Keep the ledger's batches waiting in PostgreSQL."""
        async with self.db.pool.acquire() as connection, connection.transaction():
            await connection.fetchval("SELECT position FROM ledger_head WHERE id = 1 FOR UPDATE")
            yield

    async def until_batch_waits(self) -> None:
        """Return when a batch of the ledger waits for the sequencer's lock."""
        query = """SELECT count(*) FROM pg_stat_activity WHERE application_name = 'prsm-ledger'
                   AND datname = current_database() AND wait_event_type = 'Lock'"""
        while not await self.db.pool.fetchval(query):
            await asyncio.sleep(0.01)


def pay(amount_micro: int, account: str = "treasury") -> tuple[Leg, ...]:
    return (Leg(account, "treasury", amount_micro),) if amount_micro else ()


OpenWorld = Callable[[LedgerLimits], AbstractAsyncContextManager[World]]


async def outcomes(calls: Iterable[Awaitable[object]]) -> list[str]:
    """The error code of each call, in order; "" where it went well."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    unexpected = [r for r in results if isinstance(r, BaseException) and not isinstance(r, PrsmError)]
    assert not unexpected, unexpected
    return [result.code if isinstance(result, PrsmError) else "" for result in results]


@asynccontextmanager
async def open_world(url: str, limits: LedgerLimits | None = None) -> AsyncIterator[World]:
    db = await database.connect(url, pool_size=4, timeout_ms=20_000)
    try:
        ledger = Ledger(lambda: database.connect_one(url, timeout_s=10), db.pool, limits)
        ledger.start()
        try:
            world = World(db, ledger, 0, uuid4())
            world.account_id = await world.fund(PAYER, 1_000_000)
            world.key_id = await world.key(None)
            # Its id is known from now on, so that a capture that pays it takes its place in the queue at once.
            await ledger.account_id("treasury")
            yield world
        finally:
            await ledger.close()
    finally:
        await db.close()
