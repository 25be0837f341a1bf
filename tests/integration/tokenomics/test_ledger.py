"""The ledger against a real PostgreSQL: what it moves, what it refuses, and what a lost connection cannot do to it."""

import asyncio
from collections.abc import Awaitable
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.ledger import PAYER, OpenWorld, World, outcomes, pay

from prsm.core.clock import uuid7
from prsm.core.database import Connection
from prsm.core.errors import InvalidRequest, PrsmError, Unavailable
from prsm.core.identity import Identities
from prsm.tokenomics.enrolment import Enrolment, account_of
from prsm.tokenomics.ftns_service import Ledger, LedgerLimits
from prsm.tokenomics.orders import Balance, HoldOrder
from prsm.tokenomics.splits import Leg, Share, split
from prsm.tokenomics.verify import verify

START = 1_000_000


async def assert_sound(world: World) -> None:
    async with world.db.pool.acquire() as connection:
        found = await verify(connection)
    assert found.violations == ()
    assert found.head > 0


async def test_capture_charges_the_hold_pays_the_legs_and_frees_the_rest(world: World) -> None:
    hold_id = await world.hold(1000)
    assert await world.ledger.balance(PAYER) == Balance(START, 1000)
    assert await world.spent_and_held() == (0, 1000)

    shares = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))
    await world.ledger.capture(hold_id, split(777, shares), receipt=b"signed", answer=None)

    assert await world.ledger.balance(PAYER) == Balance(START - 777, 0)
    assert await world.spent_and_held() == (777, 0)
    assert [await world.ledger.balance(share.account) for share in shares] == [
        Balance(545, 0),
        Balance(155, 0),
        Balance(77, 0),
    ]
    assert await world.db.pool.fetchval("SELECT body FROM receipts WHERE id = $1", hold_id) == b"signed"


async def test_release_frees_all_and_is_repeatable(world: World) -> None:
    hold_id = await world.hold(1000)
    await world.ledger.release(hold_id)
    await world.ledger.release(hold_id)
    await world.ledger.release(uuid4())
    assert await world.ledger.balance(PAYER) == Balance(START, 0)
    assert await world.spent_and_held() == (0, 0)
    await assert_sound(world)


async def test_free_capture_has_no_legs(world: World) -> None:
    hold_id = await world.hold(0)
    await world.ledger.capture(hold_id, ())
    assert await world.ledger.balance(PAYER) == Balance(START, 0)
    await assert_sound(world)


async def test_retries_are_answered_alike_whether_in_one_batch_or_in_two(world: World) -> None:
    hold_id = uuid7()
    assert await outcomes(world.hold(500, hold_id=hold_id) for _ in range(3)) == ["", "", ""]
    await world.hold(500, hold_id=hold_id)
    assert await world.ledger.balance(PAYER) == Balance(START, 500)

    assert await outcomes(world.ledger.capture(hold_id, pay(300)) for _ in range(3)) == ["", "", ""]
    await world.ledger.capture(hold_id, pay(300))
    assert await world.ledger.balance(PAYER) == Balance(START - 300, 0)
    assert await world.ledger.balance("treasury") == Balance(300, 0)
    await assert_sound(world)


async def test_an_id_names_one_hold_for_ever(world: World) -> None:
    hold_id, other_key = await world.hold(500), await world.key(None)
    assert await outcomes([world.hold(501, hold_id=hold_id)]) == ["duplicate_request"]
    assert await outcomes([world.hold(500, hold_id=hold_id, key=other_key)]) == ["duplicate_request"]
    await world.ledger.release(hold_id)
    # Held before and let go: saying "held" would let a request run without money.
    assert await outcomes([world.hold(500, hold_id=hold_id)]) == ["duplicate_request"]

    twice = uuid7()
    assert await outcomes(world.hold(amount, hold_id=twice) for amount in (1, 2, 1)) == ["", "duplicate_request", ""]
    await assert_sound(world)


async def test_a_hold_ends_once(world: World) -> None:
    ledger = world.ledger
    released, captured, small = await world.hold(500), await world.hold(500), await world.hold(10)
    await ledger.release(released)
    await ledger.capture(captured, pay(100))
    calls = [
        ledger.capture(released, pay(1)),
        ledger.capture(captured, pay(99)),
        ledger.capture(uuid4(), pay(1)),
        ledger.capture(small, pay(11)),
        ledger.capture(small, pay(10)),
    ]
    assert await outcomes(calls) == [
        "hold_already_resolved",
        "hold_already_resolved",
        "unknown_hold",
        "capture_exceeds_hold",
        "",
    ]
    await ledger.release(captured)
    assert await ledger.balance(PAYER) == Balance(START - 110, 0)
    await assert_sound(world)


async def test_a_capture_too_large_does_not_hide_the_release_beside_it(world: World) -> None:
    hold_id = await world.hold(10)
    assert await outcomes([world.ledger.capture(hold_id, pay(11)), world.ledger.release(hold_id)]) == [
        "capture_exceeds_hold",
        "",
    ]
    assert await world.ledger.balance(PAYER) == Balance(START, 0)


async def test_no_more_is_held_than_there_is(world: World) -> None:
    await world.hold(START - 1)
    assert await outcomes([world.hold(2), world.hold(1), world.hold(1)]) == [
        "insufficient_funds",
        "",
        "insufficient_funds",
    ]
    assert (await world.ledger.balance(PAYER)).available_micro == 0
    assert await outcomes([world.ledger.hold(HoldOrder(uuid7(), 10**9, None, 1))]) == ["unknown_account"]
    await assert_sound(world)


async def test_500_callers_cannot_overspend_a_keys_last_budget(world: World) -> None:
    key = await world.key(100 * 7)
    results = await outcomes(world.hold(7, key=key) for _ in range(500))
    assert results.count("") == 100
    assert set(results) == {"", "key_cap_exceeded"}
    assert await world.spent_and_held(key) == (0, 700)
    assert await world.ledger.balance(PAYER) == Balance(START, 700)
    await assert_sound(world)


async def test_500_callers_of_several_sequencers_cannot_overspend_either(world: World, fresh_database: str) -> None:
    """Two nodes on one database: the lock on the head makes them one sequencer."""
    other = Ledger(world.connect, world.db.pool)
    other.start()
    key = await world.key(1000)
    orders = [HoldOrder(uuid7(), world.account_id, key, 7) for _ in range(500)]
    results = await outcomes((world.ledger, other)[place % 2].hold(order) for place, order in enumerate(orders))
    await other.close()
    assert results.count("") == 1000 // 7
    assert await world.spent_and_held(key) == (0, 7 * (1000 // 7))
    await assert_sound(world)


async def test_a_hot_account_with_256_callers_loses_nothing(world: World) -> None:
    shares = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))

    async def caller() -> None:
        for _ in range(4):
            await world.ledger.capture(await world.hold(50), split(31, shares), receipt=None)

    await asyncio.gather(*[caller() for _ in range(256)])
    assert await world.ledger.balance(PAYER) == Balance(START - 1024 * 31, 0)
    assert await world.spent_and_held() == (1024 * 31, 0)
    assert world.ledger.committed_orders / world.ledger.committed_batches > 2
    await assert_sound(world)


async def test_no_batch_reads_a_whole_table(world: World) -> None:
    """A plan made while the tables were empty must not scan them when they are not: nothing has analysed them yet."""
    for _ in range(8):
        holds = await asyncio.gather(*[world.hold(1) for _ in range(250)])
        await asyncio.gather(*[world.ledger.capture(hold_id, pay(1)) for hold_id in holds])
    await world.ledger.close()
    query = """SELECT count(*) FROM pg_stat_activity
               WHERE application_name = 'prsm-ledger' AND datname = current_database()"""
    while await world.db.pool.fetchval(query):  # its statistics are written when the connection has ended
        await asyncio.sleep(0.01)
    rows = await world.db.pool.fetch(
        """SELECT relname, seq_tup_read FROM pg_stat_user_tables
           WHERE relname IN ('ledger_holds', 'ledger_resolutions', 'ledger_transfers', 'receipts')"""
    )
    assert {row["relname"]: row["seq_tup_read"] for row in rows if row["seq_tup_read"]} == {}


async def test_key_revoked_expired_or_unknown_is_refused(world: World) -> None:
    revoked, expired = await world.key(None), await world.key(None)
    await world.db.pool.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", revoked)
    await world.db.pool.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", expired)
    calls = [world.hold(1, key=key) for key in (revoked, expired, uuid4(), world.key_id)]
    assert await outcomes(calls) == ["invalid_api_key", "invalid_api_key", "invalid_api_key", ""]
    assert await world.ledger.balance(PAYER) == Balance(START, 1)


async def test_a_lowered_cap_refuses_and_a_raised_one_admits(world: World) -> None:
    await world.hold(500)
    await world.ledger.set_cap(world.key_id, 400)
    assert await outcomes([world.hold(1)]) == ["key_cap_exceeded"]
    await world.ledger.set_cap(world.key_id, 501)
    assert await outcomes([world.hold(1), world.hold(1)]) == ["", "key_cap_exceeded"]


# -- callers that leave -----------------------------------------------------------------------------------------


async def test_caller_cancelled_in_the_queue_is_never_sent(world: World) -> None:
    async with world.sequencer_held():
        first = asyncio.create_task(world.hold(1))
        await world.until_batch_waits()
        queued_id = uuid7()
        queued = asyncio.create_task(world.hold(2, hold_id=queued_id))
        await asyncio.sleep(0)
        assert world.ledger.waiting == 1
        queued.cancel()
    await first
    await world.barrier()
    assert await world.db.pool.fetchval("SELECT count(*) FROM ledger_holds WHERE id = $1", queued_id) == 0


async def test_caller_cancelled_in_flight_leaves_no_hold(world: World) -> None:
    async with world.sequencer_held():
        waiting = asyncio.create_task(world.hold(5))
        await world.until_batch_waits()
        waiting.cancel()
    assert await outcomes([world.hold(1)]) == [""]
    await world.barrier()
    assert await world.db.pool.fetchval("SELECT count(*) FROM ledger_holds") == 2
    assert await world.ledger.balance(PAYER) == Balance(START, 1)
    await assert_sound(world)


async def test_caller_cancelled_after_the_answer_and_before_waking_leaves_no_hold(world: World) -> None:
    second: list[asyncio.Task[UUID]] = []

    async def first() -> None:
        await world.hold(1)
        second[0].cancel()

    # Both are answered by one batch; the first wakes first and cancels the second, whose hold stands already.
    one = asyncio.create_task(first())
    second.append(asyncio.create_task(world.hold(5)))
    await one
    with pytest.raises(asyncio.CancelledError):
        await second[0]
    await world.barrier()
    assert await world.ledger.balance(PAYER) == Balance(START, 1)


async def test_many_cancelled_at_random_leave_no_hold(world: World) -> None:
    tasks = [asyncio.create_task(world.hold(1)) for _ in range(300)]
    for place, task in enumerate(tasks):
        if place % 7 == 0:
            await asyncio.sleep(0.002)
        if place % 2:
            task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await world.barrier()
    kept = sum(isinstance(result, UUID) for result in done)
    assert await world.ledger.balance(PAYER) == Balance(START, kept)
    await assert_sound(world)


# -- failures ---------------------------------------------------------------------------------------------------


async def test_killed_connections_lose_and_double_nothing(world: World) -> None:
    kill = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name = 'prsm-ledger' AND datname = current_database()"""
    captured: list[UUID] = []

    async def caller() -> None:
        for _ in range(12):
            hold_id = await world.hold(10)
            await world.ledger.capture(hold_id, pay(3))
            captured.append(hold_id)

    async def killer() -> int:
        killed = 0
        while killed < 8:
            killed += await world.db.pool.fetchval(kill)
            await asyncio.sleep(0.03)
        return killed

    await asyncio.gather(killer(), *[caller() for _ in range(100)])
    assert len(captured) == 1200
    rows = await world.db.pool.fetch("SELECT hold_id FROM ledger_resolutions WHERE kind = 1")
    assert sorted(row["hold_id"] for row in rows) == sorted(captured)
    assert await world.ledger.balance(PAYER) == Balance(START - 3600, 0)
    await assert_sound(world)


async def test_a_batch_committed_behind_a_killed_connection_is_not_done_twice(world: World) -> None:
    """The server commits, the answer is lost: the batch is sent again and answers as the first time."""
    async with world.sequencer_held():
        hold = asyncio.create_task(world.hold(10))
        await world.until_batch_waits()
        # Only this end of the connection dies; the server's end still waits for the lock, then commits.
        connection = world.ledger._connection
        assert connection is not None
        connection.terminate()
    hold_id = await hold
    assert await world.db.pool.fetchval("SELECT count(*) FROM ledger_holds WHERE id = $1", hold_id) == 1
    await assert_sound(world)


async def test_poison_orders_fail_alone(world: World) -> None:
    good = [world.hold(1) for _ in range(50)]
    poison = [world.hold(-1), world.hold(2**70)]
    results = await asyncio.gather(*good[:25], *poison, *good[25:], return_exceptions=True)
    assert sum(isinstance(result, UUID) for result in results) == 50
    assert all(isinstance(result, PrsmError) for result in results[25:27])

    holds = [result for result in results if isinstance(result, UUID)]
    captures = [world.ledger.capture(hold_id, pay(1)) for hold_id in holds[:10]]
    captures.append(world.ledger.capture(holds[10], (Leg("treasury", "nul\0", 1),)))
    captures.append(world.ledger.capture(holds[11], (Leg("treasury", "a", 2), Leg("node", "b", -1))))
    assert await outcomes(captures) == [""] * 10 + ["internal_error"] * 2
    assert await world.ledger.balance(PAYER) == Balance(START - 10, 40)
    await assert_sound(world)


async def test_a_leg_to_no_account_undoes_the_capture(world: World) -> None:
    hold_id = await world.hold(10)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await world.db.pool.fetchrow(
            "SELECT * FROM ledger_apply($1, '{1}', '{10}', '{null}', null, '{1}', '{987654}', '{10}', '{owner}',"
            " '{}', '{}', '{}', '{}', 900)",
            [hold_id],
        )
    await world.ledger.release(hold_id)
    await assert_sound(world)


async def test_the_queue_is_bounded(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(queue_max=3)) as world:
        results = await outcomes(world.hold(1) for _ in range(5))
        assert results == ["", "", "", "ledger_busy", "ledger_busy"]


async def test_orders_that_wait_too_long_are_refused_and_hold_nothing(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(timeout_s=0.5)) as world:
        async with world.sequencer_held():
            assert await outcomes([world.hold(1)]) == ["ledger_unavailable"]
        for _ in range(3):
            await world.barrier()
        held = (await world.ledger.balance(PAYER)).held_micro
        # The given-up transaction may still commit on the server after the release found nothing: it then expires.
        assert held in (0, 1)
        await assert_sound(world)


async def test_every_order_of_an_outage_is_refused_in_time_and_what_it_held_is_let_go(open_limited: OpenWorld) -> None:
    limits = LedgerLimits(timeout_s=0.5, queue_max=10)
    async with open_limited(limits) as world:
        away, held = True, [await world.hold(10) for _ in range(3)]

        async def connect() -> Connection:
            if away:
                raise OSError("The database is away.")
            return await world.connect()

        def hold() -> Awaitable[None]:
            return cut_off.hold(HoldOrder(uuid7(), world.account_id, world.key_id, 1))

        cut_off = Ledger(connect, world.db.pool, limits)
        cut_off.start()
        try:
            async with asyncio.timeout(10):
                for hold_id in held:  # together more holds than may be queued: what was refused makes room
                    calls = [*[hold() for _ in range(5)], cut_off.capture(hold_id, pay(5)), cut_off.release(uuid4())]
                    assert await outcomes(calls) == ["ledger_unavailable"] * 7
                away = False
                while (await world.ledger.balance(PAYER)).held_micro or cut_off.waiting:
                    await asyncio.sleep(0.02)
        finally:
            await cut_off.close()
        assert await world.ledger.balance(PAYER) == Balance(START, 0)
        assert await world.spent_and_held() == (0, 0)
        await assert_sound(world)


async def test_nobody_waits_for_a_ledger_that_stopped(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(timeout_s=0.5)) as world:
        async with world.sequencer_held():
            calls = [asyncio.create_task(world.hold(1)) for _ in range(3)]
            await world.until_batch_waits()
            calls.append(asyncio.create_task(world.hold(1)))
            await asyncio.sleep(0)
            await world.ledger.close()
            assert await outcomes(calls) == ["ledger_unavailable"] * 4
        with pytest.raises(Unavailable):
            await world.hold(1)


# -- transfers, expiry, guards ----------------------------------------------------------------------------------


async def test_transfers_are_done_once(world: World) -> None:
    move, ledger = uuid4(), world.ledger
    results = await asyncio.gather(*[ledger.transfer(move, PAYER, "treasury", 5, "payout") for _ in range(4)])
    assert sorted(results) == [False, False, False, True]
    assert await ledger.balance("treasury") == Balance(5, 0)
    refused = [
        ledger.transfer(move, PAYER, "treasury", 6, "payout"),
        ledger.transfer(uuid4(), PAYER, "nobody", 5, "payout"),
        ledger.transfer(uuid4(), "treasury", PAYER, 6, "payout"),
    ]
    assert await outcomes(refused) == ["duplicate_transfer", "unknown_account", "insufficient_funds"]
    await assert_sound(world)


@pytest.mark.parametrize(("credit", "amount"), [("treasury", 0), ("treasury", -1), ("treasury", 2**63), (PAYER, 1)])
async def test_senseless_transfers_are_refused(world: World, credit: str, amount: int) -> None:
    with pytest.raises(InvalidRequest):
        await world.ledger.transfer(uuid4(), PAYER, credit, amount, "payout")


async def test_held_money_cannot_be_sent(world: World) -> None:
    await world.hold(START - 10)
    assert await outcomes([world.ledger.transfer(uuid4(), PAYER, "treasury", 11, "payout")]) == ["insufficient_funds"]
    assert await world.ledger.transfer(uuid4(), PAYER, "treasury", 10, "payout")


async def test_the_welcome_grant_is_given_once(world: World) -> None:
    enrolment = Enrolment(
        Identities(world.db.pool, b"k" * 32, world.subject_keys),
        world.ledger,
        welcome_grant_micro=2_000_000,
    )
    principal_id = uuid7()
    await asyncio.gather(*[enrolment.welcome(principal_id) for _ in range(5)])
    await enrolment.welcome(principal_id)
    assert await world.ledger.balance(account_of(principal_id)) == Balance(2_000_000, 0)


async def test_the_sweep_ends_what_is_due_in_steps(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(hold_ttl_s=0)) as world:
        for _ in range(3):
            await outcomes(world.hold(1) for _ in range(10))
        captured = await world.hold(1)
        await world.ledger.capture(captured, pay(1))
        assert await world.ledger.expire_due(step=4) == 30
        assert await world.ledger.expire_due() == 0
        assert await world.ledger.balance(PAYER) == Balance(START - 1, 0)
        assert await world.spent_and_held() == (1, 0)
        expired = await world.db.pool.fetchval("SELECT hold_id FROM ledger_resolutions WHERE kind = 3 LIMIT 1")
        assert await outcomes([world.ledger.capture(expired, pay(1))]) == ["hold_already_resolved"]
        await assert_sound(world)


async def test_holds_that_are_not_due_stay(world: World) -> None:
    await world.hold(1)
    assert await world.ledger.expire_due() == 0
    assert (await world.ledger.balance(PAYER)).held_micro == 1


async def test_a_clock_set_back_leaves_no_hold_behind_the_sweep(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(hold_ttl_s=1)) as world:
        # As after a sweep by a clock that was three seconds fast and has been set right since.
        await world.db.pool.execute("UPDATE ledger_head SET swept_until = now() + interval '3 seconds'")
        hold_id = await world.hold(1)
        query = "SELECT expires_at > swept_until FROM ledger_holds, ledger_head WHERE ledger_holds.id = $1"
        assert await world.db.pool.fetchval(query, hold_id)


@pytest.mark.parametrize("table", ["ledger_holds", "ledger_resolutions", "ledger_transfers", "receipts"])
async def test_what_is_written_stays_written(world: World, table: str) -> None:
    hold_id = await world.hold(10)
    await world.ledger.capture(hold_id, pay(5), receipt=b"x")
    column = {"receipts": "body", "ledger_resolutions": "kind"}.get(table, "amount_micro")
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await world.db.pool.execute(statement)


async def test_an_answer_is_kept_with_its_capture_and_a_release_frees_the_claim(world: World) -> None:
    claim = "INSERT INTO idempotency_keys VALUES ($1, $2, $3, 'd', null, now())"
    kept, freed = await world.hold(10), await world.hold(10)
    await world.db.pool.execute(claim, world.key_id, "kept", kept)
    await world.db.pool.execute(claim, world.key_id, "freed", freed)
    await world.ledger.capture(kept, pay(1), answer=b"the answer")
    await world.ledger.release(freed)
    rows = await world.db.pool.fetch("SELECT key, answer FROM idempotency_keys")
    assert [tuple(row) for row in rows] == [("kept", b"the answer")]
