"""Reads the whole ledger in the order of its positions and hands it to the replay; changes nothing.

All is read in one read-only snapshot, by cursors that hold a few hundred rows at a time, so that a live ledger can be
verified while it grows and memory stays that of the open holds, the accounts and the keys.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from prsm.core.database import Connection
from prsm.tokenomics.receipts import money_of
from prsm.tokenomics.replay import (
    Event,
    HoldEvent,
    ReceiptAmounts,
    RefundedCapture,
    Replay,
    Replayer,
    ResolutionEvent,
    Stored,
    StoredAccount,
    StoredBudget,
    TransferEvent,
)

PREFETCH_ROWS = 500
PROGRESS_EVERY = 10_000
FETCH_TIMEOUT_S = 60

_IMMUTABLE = (
    *("ledger_holds", "ledger_resolutions", "ledger_transfers", "receipts"),
    *("market_offer_revisions", "market_prices", "market_refunds", "market_refund_decisions"),
)
_HOLDS = "SELECT position, id, account_id, api_key_id, amount_micro FROM ledger_holds ORDER BY position"
_RESOLUTIONS = """
    SELECT r.position, r.hold_id, r.kind, r.captured_micro, c.account_id, c.body
    FROM ledger_resolutions r LEFT JOIN receipts c ON c.id = r.hold_id ORDER BY r.position
"""
_TRANSFERS = """
    SELECT t.position, t.hold_id, t.debit_account_id, t.credit_account_id, t.amount_micro, t.kind, t.refund_of,
        r.position AS captured_at, h.account_id AS payer, r.captured_micro, c.account_id, c.body
    FROM ledger_transfers t LEFT JOIN ledger_resolutions r ON r.hold_id = t.refund_of AND r.kind = 1
        LEFT JOIN ledger_holds h ON h.id = r.hold_id LEFT JOIN receipts c ON c.id = r.hold_id ORDER BY t.position
"""
_ORPHANS = """
    SELECT c.id FROM receipts c LEFT JOIN ledger_resolutions r ON r.hold_id = c.id
    WHERE r.hold_id IS NULL ORDER BY c.id
"""
_UNGUARDED = """
    SELECT name FROM unnest($1::text[]) AS name WHERE NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = name::regclass AND tgname = 'append_only' AND tgenabled IN ('O', 'A'))
"""


async def verify(connection: Connection, progress: Callable[[int, int], None] | None = None) -> Replay:
    """Replay the ledger as it stands now.

    ``progress`` is called with (events read, events there are) now and then. Only reads, in one REPEATABLE READ
    transaction; PostgreSQL keeps the dead versions of hot rows while it runs, so verify a busy ledger in a quiet hour.
    """
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # By index in the order of positions: a sort of the whole history would need the disk.
        await connection.execute(
            f"SET LOCAL enable_sort = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; "
            f"SET LOCAL jit = off; SET LOCAL statement_timeout = '{FETCH_TIMEOUT_S}s'"
        )
        stored = await _stored(connection)
        replayer = Replayer(stored)
        async for event in _events(connection):
            replayer.apply(event)
            if progress is not None and replayer.events % PROGRESS_EVERY == 0:
                progress(replayer.events, max(stored.head, replayer.events))
        await _look_beside(connection, replayer)
        if progress is not None:
            progress(replayer.events, max(stored.head, replayer.events))
    return replayer.finish()


async def _stored(connection: Connection) -> Stored:
    accounts = await connection.fetch(
        "SELECT id, name, allow_negative, balance_micro, held_micro FROM ledger_accounts ORDER BY id"
    )
    budgets = await connection.fetch("SELECT api_key_id, spent_micro, held_micro FROM ledger_budgets")
    head: int = await connection.fetchval("SELECT position FROM ledger_head WHERE id = 1")
    return Stored(
        head, tuple(StoredAccount(*account) for account in accounts), tuple(StoredBudget(*budget) for budget in budgets)
    )


async def _events(connection: Connection) -> AsyncIterator[Event]:
    """The rows of the three tables, merged by position."""
    sources = [aiter(connection.cursor(query, prefetch=PREFETCH_ROWS)) for query in (_HOLDS, _RESOLUTIONS, _TRANSFERS)]
    readers: tuple[Callable[[Any], Event], ...] = (_hold, _resolution, _transfer)
    heads: dict[int, Any] = {}
    for place, source in enumerate(sources):
        if (row := await anext(source, None)) is not None:
            heads[place] = row
    while heads:
        first = min(heads, key=lambda place: _position(heads[place]))
        yield readers[first](heads[first])
        row = await anext(sources[first], None)
        if row is None:
            del heads[first]
        else:
            heads[first] = row


async def _look_beside(connection: Connection, replayer: Replayer) -> None:
    """What no event shows: receipts of nothing, and tables that have lost their guard."""
    async for row in connection.cursor(_ORPHANS, prefetch=PREFETCH_ROWS):
        replayer.violate(f"The receipt {row['id']} is of no hold that has ended.")
    for row in await connection.fetch(_UNGUARDED, list(_IMMUTABLE)):
        replayer.violate(f"The table {row['name']} has lost the trigger that keeps its rows from being changed.")


def _position(row: Any) -> int:
    return row["position"]


def _hold(row: Any) -> HoldEvent:
    return HoldEvent(*row)


def _transfer(row: Any) -> TransferEvent:
    position, hold_id, debit, credit, amount, kind, refund_of, captured_at, payer, captured, account_id, body = row
    refunded = None
    if captured_at is not None:
        receipt = None if body is None else _receipt(account_id, body)
        refunded = RefundedCapture(captured_at, payer, captured, receipt)
    return TransferEvent(position, hold_id, debit, credit, amount, kind, refund_of, refunded)


def _resolution(row: Any) -> ResolutionEvent:
    position, hold_id, kind, captured, account_id, body = row
    return ResolutionEvent(position, hold_id, kind, captured, None if body is None else _receipt(account_id, body))


def _receipt(account_id: int, body: bytes) -> ReceiptAmounts | str:
    try:
        receipt = money_of(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    return ReceiptAmounts(
        account_id=account_id,
        id=str(receipt.id),
        account=receipt.account,
        held_micro=receipt.amounts.held_micro,
        captured_micro=receipt.amounts.captured_micro,
        splits=receipt.splits,
    )
