"""What a killed node leaves, and what must stand or fall with a capture: conversations and Idempotency-Keys."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.ledger import World, outcomes, pay

from prsm.agents.conversations import Conversations, turn
from prsm.core import database
from prsm.core.clock import uuid7
from prsm.core.errors import PrsmError
from prsm.core.subject_keys import SubjectKey
from prsm.tokenomics.ftns_service import Ledger, LedgerLimits
from prsm.tokenomics.idempotency import IdempotencyKeys, Stored

DIGEST = b"d" * 32
ASKED = [{"role": "user", "content": "a\x00b"}]


async def owner(world: World) -> UUID:
    return await world.db.pool.fetchval("SELECT principal_id FROM api_keys WHERE id = $1", world.key_id)


async def key_of(world: World, principal: UUID) -> SubjectKey:
    return await world.subject_keys.key(principal)


async def test_a_turn_is_kept_with_its_capture_and_once(world: World) -> None:
    principal, conversation, request = await owner(world), uuid4(), await world.hold(10)
    for _ in range(2):
        await world.ledger.capture(
            request, pay(4), along=turn(conversation, principal, request, ASKED, await key_of(world, principal))
        )
    conversations = Conversations(world.db.pool, None, world.subject_keys, max_messages=10)
    assert await conversations.history(conversation, principal) == ASKED
    assert await conversations.until(request, principal) == (conversation, ASKED)


async def test_a_capture_that_is_refused_keeps_no_turn(world: World) -> None:
    principal, conversation, request = await owner(world), uuid4(), await world.hold(10)
    await world.ledger.release(request)
    with pytest.raises(PrsmError, match="ended already"):
        await world.ledger.capture(
            request, pay(4), along=turn(conversation, principal, request, ASKED, await key_of(world, principal))
        )
    conversations = Conversations(world.db.pool, None, world.subject_keys, max_messages=10)
    assert await conversations.history(conversation, principal) == []


async def test_a_statement_that_fails_takes_its_capture_with_it_and_no_other(world: World) -> None:
    bad, good = await world.hold(10), await world.hold(10)
    with pytest.raises(PrsmError, match="could not carry out"):
        await world.ledger.capture(bad, pay(4), along=("INSERT INTO nowhere VALUES ($1)", (1,)))
    await world.ledger.capture(good, pay(4))
    assert await world.spent_and_held() == (4, 10)
    assert (await world.ledger.balance("treasury")).balance_micro == 4


async def test_answers_of_one_batch_extend_one_conversation(world: World) -> None:
    principal, conversation = await owner(world), uuid4()
    requests = [await world.hold(10) for _ in range(5)]
    key = await key_of(world, principal)
    captures = (
        world.ledger.capture(request, pay(1), along=turn(conversation, principal, request, ASKED, key))
        for request in requests
    )
    assert await outcomes(captures) == [""] * 5
    rows = await world.db.pool.fetch("SELECT seq FROM conversation_turns WHERE conversation_id = $1", conversation)
    assert sorted(row["seq"] for row in rows) == [1, 2, 3, 4, 5]


async def test_open_holds_of_a_killed_node_are_let_go(world: World) -> None:
    holds = [await world.hold(10) for _ in range(7)]
    await world.ledger.capture(holds[0], pay(3))
    assert await world.ledger.release_open(step=2) == 6
    assert await world.spent_and_held() == (3, 0)
    assert await world.ledger.release_open() == 0


async def test_a_claim_with_an_open_hold_is_freed_by_the_release_alone(world: World) -> None:
    """Freed before, a capture still on its way would charge, and the caller's retry under the key would pay again."""
    keys, request = IdempotencyKeys(world.db.pool), uuid7()
    assert await keys.claim(world.key_id, "k", request, DIGEST) is None
    await world.hold(10, hold_id=request)
    await keys.free(request)
    with pytest.raises(PrsmError, match="still being answered"):
        await keys.claim(world.key_id, "k", uuid7(), DIGEST)
    await world.ledger.capture(request, pay(4), answer=b"{}")
    assert await keys.claim(world.key_id, "k", uuid7(), DIGEST) == Stored(request, b"{}")


async def test_a_claim_without_hold_is_freed_at_once_or_when_the_database_is_back(world: World) -> None:
    keys, request = IdempotencyKeys(world.db.pool), uuid7()
    assert await keys.claim(world.key_id, "k", request, DIGEST) is None
    await keys.free(request)
    again = uuid7()
    assert await keys.claim(world.key_id, "k", again, DIGEST) is None

    # A database that answers nothing in time, then does.
    async with world.db.pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE idempotency_keys")
        short = await database.connect(world.db.url, pool_size=1, timeout_ms=100)
        impatient = IdempotencyKeys(short.pool)
        await impatient.free(again)  # noted; no error hides the one that ended the request
    await impatient.free_owed()
    await short.close()
    assert await keys.claim(world.key_id, "k", uuid7(), DIGEST) is None
    assert await keys.free_all() == 1


class LosesTheAnswer:
    """A pool whose connection breaks right after each commit: what was done stands, and nobody is told."""

    def __init__(self, pool: database.Pool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    @asynccontextmanager
    async def acquire(self) -> AsyncGenerator[database.Connection]:
        async with self._pool.acquire() as connection:
            yield connection
        raise ConnectionError("the answer is lost")


async def test_a_claim_whose_commit_was_not_answered_does_not_stand_for_good(world: World) -> None:
    pool: Any = LosesTheAnswer(world.db.pool)
    keys, sound = IdempotencyKeys(pool), IdempotencyKeys(world.db.pool)
    with pytest.raises(ConnectionError):
        await keys.claim(world.key_id, "k", uuid7(), DIGEST)
    with pytest.raises(PrsmError, match="still being answered"):
        await sound.claim(world.key_id, "k", uuid7(), DIGEST)
    await keys.free_owed()
    assert await sound.claim(world.key_id, "k", uuid7(), DIGEST) is None


async def test_a_release_is_kept_however_long_the_database_is_away(world: World) -> None:
    async def connect() -> database.Connection:
        if away:
            raise ConnectionRefusedError
        return await world.connect()

    away = True
    hold = await world.hold(10)
    late = Ledger(connect, world.db.pool, LedgerLimits(timeout_s=0.1))
    late.start()
    late.release_later(hold)
    await asyncio.sleep(0.4)
    assert await world.spent_and_held() == (0, 10)
    away = False
    async with asyncio.timeout(10):
        while await world.spent_and_held() != (0, 0):
            await asyncio.sleep(0.05)
    await late.close()
