"""A migrated database whose changes go into an audit log, with the ledger and the key that signs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.ledger import World, open_world, pay

from prsm.core import clock
from prsm.core.keys import NodeKey
from prsm.core.merkle.notes import VerifierKey
from prsm.safety.audit.checking import Witnessed
from prsm.safety.audit.log_book import LogBook
from prsm.safety.audit.sequencer import LogSigner, Sequencer
from prsm.safety.audit.verify import Verdict, verify_log

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([7] * 32)))
LOG_KEY = VerifierKey("prsm.audit/test", KEY.public_key_hex)
SIGNER = LogSigner(LOG_KEY, KEY.sign)


@dataclass
class Audited:
    """The ledger's world, and the log over it."""

    world: World
    sequencer: Sequencer
    book: LogBook

    async def act(self, times: int = 1) -> None:
        """Captures, grants and a new key, and all of it in the log."""
        for _ in range(times):
            hold = await self.world.hold(10)
            await self.world.ledger.capture(hold, pay(10))
            await self.world.fund("principal:00000000-0000-7000-8000-000000000001", 5)
            await self.world.key(77)
            await self.sequencer.drain()

    async def verify(self, *witnessed: Witnessed, log_key: VerifierKey = LOG_KEY) -> Verdict:
        async with self.world.db.pool.acquire() as connection:
            return await verify_log(connection, log_key, witnessed)

    async def by_hand(self, *statements: str) -> None:
        """As somebody who owns the database, with its triggers silenced."""
        async with self.world.db.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement)


@asynccontextmanager
async def open_audited(url: str) -> AsyncIterator[Audited]:
    async with open_world(url) as world:
        pool = world.db.pool
        yield Audited(world, Sequencer(pool, SIGNER, clock.now), LogBook(pool))
