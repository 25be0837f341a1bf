"""Idempotency keys: a retry is answered with the first answer, or told to wait, and never charged twice."""

import asyncio
import hashlib
from collections.abc import Awaitable
from uuid import UUID

import pytest
import pytest_asyncio
from tests.support.ledger import World, outcomes, pay

from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.tokenomics.idempotency import MAX_KEY_CHARS, IdempotencyKeys, Stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = hashlib.sha256(b"body").digest()
OTHER_BODY = hashlib.sha256(b"other").digest()


class Caller:
    """One API key and its idempotency keys."""

    def __init__(self, world: World, key_id: UUID) -> None:
        self.world = world
        self.keys = IdempotencyKeys(world.db.pool)
        self.key_id = key_id

    async def claim(self, key: str = "k", request_id: UUID | None = None, digest: bytes = BODY) -> Stored | None:
        return await self.keys.claim(self.key_id, key, request_id or uuid7(), digest)

    async def answered(self, key: str = "k") -> UUID:
        """A request with this key that was charged."""
        request_id = uuid7()
        assert await self.claim(key, request_id) is None
        await self.world.hold(10, key=self.key_id, hold_id=request_id)
        await self.world.ledger.capture(request_id, pay(5), answer=b"answer")
        return request_id

    async def grow_old(self, seconds: int) -> None:
        await self.world.db.pool.execute(
            "UPDATE idempotency_keys SET created_at = created_at - make_interval(secs => $2) WHERE api_key_id = $1",
            self.key_id,
            seconds,
        )


@pytest_asyncio.fixture(loop_scope="module")
async def caller(world: World) -> Caller:
    await world.db.pool.execute("DELETE FROM idempotency_keys")
    return Caller(world, await world.key(None))


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def test_a_retry_gets_the_first_answer_and_the_id_of_the_first_request(caller: Caller) -> None:
    request_id = await caller.answered()
    for _ in range(2):
        assert await caller.claim() == Stored(request_id, b"answer")


async def test_another_body_is_refused_whether_answered_or_not(caller: Caller) -> None:
    await caller.answered("done")
    await caller.claim("open")
    for key in ("done", "open"):
        error = await refused(caller.claim(key, digest=OTHER_BODY))
        assert (error.kind, error.code) == (Kind.UNPROCESSABLE, "idempotency_key_reused")


async def test_while_the_first_is_being_answered_a_retry_is_told_to_wait(caller: Caller) -> None:
    assert await caller.claim() is None
    error = await refused(caller.claim())
    assert (error.kind, error.code) == (Kind.CONFLICT, "request_in_progress")
    assert error.retry_after_s


async def test_of_many_at_once_exactly_one_may_go_ahead(caller: Caller) -> None:
    results = await outcomes(caller.claim() for _ in range(20))
    assert sorted(results) == [""] + ["request_in_progress"] * 19


async def test_keys_of_different_callers_do_not_meet(caller: Caller) -> None:
    other = Caller(caller.world, await caller.world.key(None))
    assert await caller.claim() is None
    assert await other.claim() is None


@pytest.mark.parametrize("key", ["", "a" * (MAX_KEY_CHARS + 1), "a\nb", "a\0", "é", "\x7f"])
async def test_a_malformed_key_is_refused(caller: Caller, key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        await caller.claim(key)


async def test_the_longest_key_is_taken(caller: Caller) -> None:
    assert await caller.claim("~" * MAX_KEY_CHARS) is None


async def test_a_claim_without_a_hold_is_given_up_at_once(caller: Caller) -> None:
    request_id = uuid7()
    await caller.claim("k", request_id)
    await caller.keys.free(request_id)
    assert await caller.claim() is None


async def test_a_claim_with_a_hold_is_freed_by_its_release_and_by_nothing_before(caller: Caller) -> None:
    request_id = uuid7()
    await caller.claim("k", request_id)
    await caller.world.hold(10, key=caller.key_id, hold_id=request_id)
    await caller.keys.free(request_id)
    assert (await refused(caller.claim())).code == "request_in_progress"
    await caller.world.ledger.release(request_id)
    assert await caller.claim() is None


async def test_an_answer_is_not_given_up(caller: Caller) -> None:
    request_id = await caller.answered()
    await caller.keys.free(request_id)
    assert await caller.keys.free_all() == 0
    assert await caller.claim() == Stored(request_id, b"answer")


async def test_a_crash_between_claim_and_hold_is_forgotten_after_two_minutes(caller: Caller) -> None:
    await caller.claim()
    await caller.grow_old(100)
    assert await caller.keys.forget_old(86_400) == 0
    await caller.grow_old(30)
    assert await caller.keys.forget_old(86_400) == 1
    assert await caller.claim() is None


async def test_a_node_that_has_the_database_to_itself_gives_up_what_a_crash_left(caller: Caller) -> None:
    await caller.claim("a")
    await caller.claim("b")
    assert await caller.keys.free_all() == 2
    assert await caller.claim("a") is None


async def test_answers_are_forgotten_when_their_time_is_over(caller: Caller) -> None:
    request_id = await caller.answered()
    assert await caller.keys.forget_old(60) == 0
    await caller.grow_old(61)
    assert await caller.keys.forget_old(60) == 1
    # The key is free again; the request's own id is not.
    assert await caller.claim() is None
    assert await caller.world.ledger.budgets([caller.key_id])
    assert request_id


async def test_a_request_that_takes_longer_than_answers_are_kept_keeps_its_key(caller: Caller) -> None:
    request_id = uuid7()
    await caller.claim("k", request_id)
    await caller.world.hold(10, key=caller.key_id, hold_id=request_id)
    await caller.grow_old(600)
    assert await caller.keys.forget_old(60) == 0
    assert (await refused(caller.claim())).code == "request_in_progress"
    await caller.world.ledger.capture(request_id, pay(5), answer=b"late")
    assert await caller.claim() == Stored(request_id, b"late")


async def test_a_hold_that_expires_frees_its_key(caller: Caller) -> None:
    request_id = uuid7()
    await caller.claim("k", request_id)
    await caller.world.hold(10, key=caller.key_id, hold_id=request_id)
    async with caller.world.db.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")  # the one way past append-only
        await connection.execute("UPDATE ledger_holds SET expires_at = clock_timestamp() WHERE id = $1", request_id)
    assert await caller.world.ledger.expire_due() == 1
    assert await caller.claim() is None


async def test_what_could_not_be_given_up_in_an_outage_is_given_up_after_it(caller: Caller) -> None:
    request_id = uuid7()
    await caller.claim("k", request_id)
    await caller.keys.free_owed()
    pool = caller.world.db.pool
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM idempotency_keys WHERE request_id = $1 FOR UPDATE", request_id)
        freeing = asyncio.create_task(caller.keys.free(request_id))
        waits = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while (pid := await pool.fetchval(waits)) is None:
            await asyncio.sleep(0.005)
        await pool.execute("SELECT pg_terminate_backend($1)", pid)
        await freeing
    assert (await refused(caller.claim())).code == "request_in_progress"
    await caller.keys.free_owed()
    assert await caller.claim() is None
