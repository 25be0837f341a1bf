"""The ledger's batches of all callers wait for no erasure that takes long."""

import asyncio

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.ledger import open_world, pay

from prsm.agents.conversations import turn
from prsm.core.clock import now, uuid7
from prsm.core.keys import NodeKey
from prsm.safety.privacy.erasure import CertificateSigner, erase
from prsm.tokenomics.enrolment import account_of


async def test_a_capture_with_a_conversation_and_a_key_passes_an_erasure(fresh_database: str) -> None:
    async with open_world(fresh_database) as world:
        pool, hold_id, session = world.db.pool, await world.hold(500), uuid7()
        subject = await pool.fetchval("SELECT principal_id FROM api_keys WHERE id = $1", world.key_id)
        await pool.execute(
            "INSERT INTO idempotency_keys (api_key_id, key, request_id, request_digest, created_at) "
            "VALUES ($1, 'k', $2, '', now())",
            *(world.key_id, hold_id),
        )
        await pool.execute("INSERT INTO conversations (id, principal_id) VALUES ($1, $2)", session, subject)
        await pool.execute(
            "INSERT INTO safety_threats (account, score, at, suspensions, reason) VALUES ($1, 0, now(), 0, '')",
            account_of(subject),
        )
        key = NodeKey(Ed25519PrivateKey.generate())
        signer = CertificateSigner(key.node_id, key.public_key_hex, key.sign)
        said = turn(session, subject, hold_id, [], await world.subject_keys.key(subject))
        async with pool.acquire() as connection:
            async with pool.acquire() as slow, slow.transaction():
                await slow.execute("SELECT FROM safety_threats FOR UPDATE")  # as many rows would hold it up
                erasing = asyncio.create_task(erase(connection, subject, signer, now()))
                await asyncio.sleep(0.5)
                async with asyncio.timeout(5):
                    await world.ledger.capture(hold_id, pay(300), receipt=b"signed", answer=b"sealed", along=said)
            await erasing
        for table in ("conversations", "conversation_turns", "idempotency_keys"):
            assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0, table
