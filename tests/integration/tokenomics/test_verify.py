"""``verify`` against a real ledger whose rows were changed behind its back: each change is found and named."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.support.ledger import PAYER, OpenWorld, World, pay

from prsm.core.database import Connection
from prsm.core.keys import NodeKey
from prsm.tokenomics.ftns_service import LedgerLimits
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, sign_receipt
from prsm.tokenomics.replay import Replay
from prsm.tokenomics.splits import Share, split
from prsm.tokenomics.verify import verify

SHARES = (Share("owner", "owner", 7000), Share("node", "executor", 2000), Share("treasury", "treasury", 1000))
IMMUTABLE = ("ledger_holds", "ledger_resolutions", "ledger_transfers", "receipts")


async def run_verify(world: World, progress: Callable[[int, int], None] | None = None) -> Replay:
    async with world.db.pool.acquire() as connection:
        return await verify(connection, progress)


def receipt(request_id: UUID, signer: NodeSigner, held: int, captured: int) -> bytes:
    facts = ReceiptFacts(
        request_id=request_id,
        account=PAYER,
        operation="chat",
        request_digest="0" * 64,
        output_digest="0" * 64,
        model="m",
        model_version="1",
        model_cid="",
        provider="p",
        input_tokens=captured,
        output_tokens=0,
        cached_input_tokens=0,
        metered_by="upstream",
        input_price_micro=1_000_000,
        output_price_micro=0,
        held_micro=held,
        captured_micro=captured,
        completed=True,
        screened_by=(),
        at=datetime.now(UTC),
    )
    return sign_receipt(facts, split(captured, SHARES), signer)


@pytest.fixture
async def history(world: World, tmp_path) -> World:
    """Holds, captures with receipts, releases, transfers, and one hold still open."""
    key = NodeKey.load_or_create(tmp_path / "node.key")
    signer = NodeSigner(key.node_id, key.public_key_hex, key.sign)
    for captured in (777, 1, 1000, 0):
        hold_id = await world.hold(1000)
        body = receipt(hold_id, signer, 1000, captured)
        await world.ledger.capture(hold_id, split(captured, SHARES), receipt=body)
    await world.ledger.release(await world.hold(5))
    await world.ledger.transfer(uuid4(), PAYER, "treasury", 9, "payout")
    await world.hold(33)
    return world


async def test_an_untouched_history_is_sound(history: World) -> None:
    seen: list[tuple[int, int]] = []
    found = await run_verify(history, lambda done, total: seen.append((done, total)))
    assert found.violations == ()
    assert (found.holds, found.captures, found.releases, found.expiries, found.open_holds) == (6, 4, 1, 0, 1)
    assert found.captures_without_receipt == 0
    assert found.head == found.events == seen[-1][0] == seen[-1][1]
    assert await history.db.pool.fetchval("SELECT position FROM ledger_head") == found.head


async def test_expired_holds_are_part_of_a_sound_history(open_limited: OpenWorld) -> None:
    async with open_limited(LedgerLimits(hold_ttl_s=0)) as world:
        await world.hold(5)
        await world.ledger.expire_due()
        found = await run_verify(world)
        assert (found.violations, found.expiries) == ((), 1)


async def test_a_history_longer_than_a_fetch(world: World) -> None:
    legs = pay(1)
    holds = await asyncio.gather(*[world.hold(1) for _ in range(700)])
    await asyncio.gather(*[world.ledger.capture(hold_id, legs) for hold_id in holds])
    found = await run_verify(world)
    assert found.violations == ()
    assert (found.holds, found.captures, found.transfers) == (700, 700, 701)
    assert found.captures_without_receipt == 700


THIRD_HOLD = "(SELECT id FROM ledger_holds ORDER BY position OFFSET 2 LIMIT 1)"
RELEASED = "(SELECT hold_id FROM ledger_resolutions WHERE kind = 2)"
A_LEG = "(SELECT min(position) FROM ledger_transfers WHERE hold_id IS NOT NULL)"
PAYOUT = "kind = 'payout'"
TREASURY = "(SELECT id FROM ledger_accounts WHERE name = 'treasury')"

TAMPERED = {
    "hold deleted": (f"DELETE FROM ledger_holds WHERE id = {THIRD_HOLD}", "is missing."),
    "hold raised": (
        f"UPDATE ledger_holds SET amount_micro = 9999 WHERE id = {THIRD_HOLD}",
        "receipt whose held amount",
    ),
    "hold lowered": (f"UPDATE ledger_holds SET amount_micro = 10 WHERE id = {THIRD_HOLD}", "captures 1000 of 10 held"),
    "hold moved": (f"UPDATE ledger_holds SET account_id = {TREASURY} WHERE id = {THIRD_HOLD}", "takes from account"),
    "hold under another key": (f"UPDATE ledger_holds SET api_key_id = null WHERE id = {THIRD_HOLD}", "spent amount"),
    "hold under an unknown key": (
        f"UPDATE ledger_holds SET api_key_id = gen_random_uuid() WHERE id = {THIRD_HOLD}",
        "has no budget row",
    ),
    "resolution deleted": (f"DELETE FROM ledger_resolutions WHERE hold_id = {RELEASED}", "is missing."),
    "capture called a release": (
        f"UPDATE ledger_resolutions SET kind = 2, captured_micro = 0 WHERE hold_id = {THIRD_HOLD}",
        "whose capture does not stand",
    ),
    "capture lowered": (
        f"UPDATE ledger_resolutions SET captured_micro = 999 WHERE hold_id = {THIRD_HOLD}",
        "its legs pay 1000",
    ),
    "resolution of another hold": (
        f"UPDATE ledger_resolutions SET hold_id = gen_random_uuid() WHERE hold_id = {RELEASED}",
        "names no open hold",
    ),
    "resolution before its hold": (
        "UPDATE ledger_resolutions SET position = 2 WHERE position = 3; "
        "UPDATE ledger_holds SET position = 3 WHERE position = 2",
        "names no open hold",
    ),
    "leg deleted": (f"DELETE FROM ledger_transfers WHERE position = {A_LEG}", "is missing."),
    "leg raised": (f"UPDATE ledger_transfers SET amount_micro = 700 WHERE position = {A_LEG}", "its legs pay"),
    "leg redirected": (
        f"UPDATE ledger_transfers SET credit_account_id = {TREASURY} WHERE position = {A_LEG}",
        "splits are not its legs",
    ),
    "leg to nobody": (
        f"UPDATE ledger_transfers SET credit_account_id = 999 WHERE position = {A_LEG}",
        "does not exist",
    ),
    "leg of no hold": (f"UPDATE ledger_transfers SET hold_id = null WHERE position = {A_LEG}", "its legs pay"),
    "leg called otherwise": (f"UPDATE ledger_transfers SET kind = 'gift' WHERE position = {A_LEG}", "not its legs"),
    "transfer raised": (f"UPDATE ledger_transfers SET amount_micro = 10 WHERE {PAYOUT}", "its events give"),
    "transfer moved past the end": (
        f"UPDATE ledger_transfers SET position = 1000 WHERE {PAYOUT}",
        "to 999 are missing",
    ),
    "transfer added": (
        f"INSERT INTO ledger_transfers SELECT 1000, null, null, 1, {TREASURY}, 5, 'grant', now()",
        "The head says position",
    ),
    "position used twice": (
        "UPDATE ledger_holds SET position = (SELECT min(position) FROM ledger_transfers) WHERE position = 2",
        "is used more than once",
    ),
    "balance raised": (
        "UPDATE ledger_accounts SET balance_micro = balance_micro + 1 WHERE name = 'owner'",
        "to 1, not",
    ),
    "money moved between balances": (
        "UPDATE ledger_accounts SET balance_micro = balance_micro + CASE name WHEN 'owner' THEN 5 ELSE -5 END "
        "WHERE name IN ('owner', 'node')",
        "(owner) has a balance of",
    ),
    "held amount lowered": (
        f"UPDATE ledger_accounts SET held_micro = 0 WHERE name = '{PAYER}'",
        "has a held amount of 0",
    ),
    "spending forgotten": ("UPDATE ledger_budgets SET spent_micro = 0", "has a spent amount of 0"),
    "key's held amount lowered": ("UPDATE ledger_budgets SET held_micro = 0", "has a held amount of 0"),
    "head set back": ("UPDATE ledger_head SET position = position - 1", "The head says position"),
    "receipt changed": (
        "UPDATE receipts SET body = convert_to(replace(convert_from(body, 'UTF8'), '777', '776'), 'UTF8')",
        "receipt whose captured amount is 776",
    ),
    "receipt of another account": ("UPDATE receipts SET account_id = 1", "receipt whose stored account is 1"),
    "receipt unreadable": ("UPDATE receipts SET body = '{'", "receipt that cannot be read"),
    "receipt of nothing": (
        f"UPDATE receipts SET id = gen_random_uuid() WHERE id = {THIRD_HOLD}",
        "is of no hold that has ended",
    ),
}


LEDGER = ("ledger_head", "ledger_accounts", "ledger_budgets", *IMMUTABLE)


async def test_every_changed_row_is_found(history: World) -> None:
    missed: dict[str, tuple[str, ...]] = {}
    async with history.db.pool.acquire() as connection:
        # As a superuser may: no trigger, no foreign key.
        await connection.execute("SET session_replication_role = replica")
        for table in LEDGER:
            await connection.execute(f"CREATE TEMP TABLE kept_{table} AS TABLE {table}")
        for name, (change, sentence) in TAMPERED.items():
            await connection.execute(change)
            found = await verify(connection)
            if not any(sentence in violation for violation in found.violations):
                missed[name] = found.violations
            for table in LEDGER:
                await connection.execute(
                    f"TRUNCATE {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE kept_{table}"
                )
        assert (await verify(connection)).violations == ()
    assert missed == {}


async def test_an_append_only_row_can_be_changed_only_with_its_trigger_off(history: World) -> None:
    change = "UPDATE ledger_holds SET amount_micro = amount_micro + 1"
    async with history.db.pool.acquire() as connection:
        with pytest.raises(asyncpg.RestrictViolationError):
            await connection.execute(change)
        await connection.execute("ALTER TABLE ledger_holds DISABLE TRIGGER append_only")
        await connection.execute(change)
        await connection.execute("ALTER TABLE ledger_holds ENABLE TRIGGER append_only")
    assert (await run_verify(history)).violation_count > 0


@pytest.mark.parametrize("table", IMMUTABLE)
async def test_a_lost_guard_is_found(history: World, table: str) -> None:
    await history.db.pool.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
    found = await run_verify(history)
    assert found.violations == (f"The table {table} has lost the trigger that keeps its rows from being changed.",)


class Meanwhile:
    """A connection beside which an order commits as soon as the head was read."""

    def __init__(self, connection: Connection, world: World) -> None:
        self._connection = connection
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def fetchval(self, query: str, *args: Any) -> Any:
        value = await self._connection.fetchval(query, *args)
        await self._world.hold(1)
        return value


async def test_orders_that_commit_meanwhile_are_not_judged(history: World) -> None:
    before = await history.db.pool.fetchval("SELECT position FROM ledger_head")
    async with history.db.pool.acquire() as connection:
        found = await verify(cast("Connection", Meanwhile(connection, history)))
    assert (found.violations, found.head) == ((), before)
    assert await history.db.pool.fetchval("SELECT position FROM ledger_head") == before + 1
