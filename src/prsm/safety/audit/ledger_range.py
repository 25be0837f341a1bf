"""The digest of a range of the ledger's positions: SHA-256 over its rows in their order, each in fixed binary form.

The statement is this package's own, so that a function changed in the database cannot vouch for itself. Integers are
big-endian of 8 bytes (4 for lengths), times are microseconds since 2000, a missing id is 16 zero bytes:

    hold        "h" position id account key amount expires created
    resolution  "r" position hold kind captured created receipt-digest (SHA-256 of its bytes, or nothing)
    posting     "t" position id hold debit credit amount created refund-of length kind
"""

from datetime import datetime
from typing import Any, Final

from prsm.core.database import Connection
from prsm.safety.audit.entries import LEDGER, LedgerRange, write_entry

MAX_POSITIONS: Final = 20_000
_DIGEST: Final = """
SELECT encode(sha256(coalesce(string_agg(row, ''::bytea ORDER BY position), '')), 'hex') AS digest, count(*) AS rows
FROM (
    SELECT position, 'h'::bytea || int8send(position) || uuid_send(id) || int8send(account_id)
        || uuid_send(coalesce(api_key_id, $3)) || int8send(amount_micro) || timestamptz_send(expires_at)
        || timestamptz_send(created_at) AS row
    FROM ledger_holds WHERE position BETWEEN $1 AND $2
    UNION ALL
    SELECT r.position, 'r'::bytea || int8send(r.position) || uuid_send(r.hold_id) || int8send(r.kind)
        || int8send(r.captured_micro) || timestamptz_send(r.created_at) || coalesce(sha256(c.body), '')
    FROM ledger_resolutions r LEFT JOIN receipts c ON c.id = r.hold_id WHERE r.position BETWEEN $1 AND $2
    UNION ALL
    SELECT position, 't'::bytea || int8send(position) || uuid_send(coalesce(id, $3))
        || uuid_send(coalesce(hold_id, $3)) || int8send(debit_account_id) || int8send(credit_account_id)
        || int8send(amount_micro) || timestamptz_send(created_at) || uuid_send(coalesce(refund_of, $3))
        || int4send(octet_length(kind)) || convert_to(kind, 'UTF8')
    FROM ledger_transfers WHERE position BETWEEN $1 AND $2
) AS rows_in_order
"""
_NO_ID: Final = "00000000-0000-0000-0000-000000000000"


async def digest_of(connection: Connection, first: int, last: int) -> tuple[str, int]:
    """The digest of the rows at positions ``first`` to ``last``, and how many there are."""
    row: Any = await connection.fetchrow(_DIGEST, first, last, _NO_ID)
    return row["digest"], row["rows"]


async def next_range(connection: Connection, audited: int, at: datetime) -> tuple[bytes, int] | None:
    """The entry of the positions after ``audited``, and its last one; None where there is nothing new."""
    head: int = await connection.fetchval("SELECT position FROM ledger_head WHERE id = 1")
    if head <= audited:
        return None
    last = min(head, audited + MAX_POSITIONS)
    digest, _ = await digest_of(connection, audited + 1, last)
    return range_entry(LedgerRange(str(audited + 1), str(last), digest), at), last


def range_entry(part: LedgerRange, at: datetime) -> bytes:
    """The bytes of a range's entry."""
    return write_entry(at, "system", "", LEDGER, "range", [{f: getattr(part, f) for f in part.__struct_fields__}])
