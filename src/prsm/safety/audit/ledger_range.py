"""The digest of a range of the ledger's positions: SHA-256 over its holds, its resolutions with their receipts, and its
postings, each in their order, as PostgreSQL's COPY writes them in binary.

The statements are this package's own, so that a function changed in the database cannot vouch for itself. The rows come
here to be hashed: PostgreSQL's own SHA-256 takes several times as long for the receipts.
"""

import hashlib
from datetime import datetime
from typing import Final

from prsm.core.database import Connection
from prsm.safety.audit.entries import LEDGER, LedgerRange, write_entry

MAX_POSITIONS: Final = 20_000
_ROWS: Final = (
    "SELECT position, id, account_id, api_key_id, amount_micro, expires_at, created_at FROM ledger_holds h",
    "SELECT position, hold_id, kind, captured_micro, h.created_at, body FROM ledger_resolutions h "
    "LEFT JOIN receipts c ON c.id = h.hold_id",
    "SELECT position, id, hold_id, debit_account_id, credit_account_id, amount_micro, kind, created_at, refund_of "
    "FROM ledger_transfers h",
)


async def digest_of(connection: Connection, first: int, last: int) -> tuple[str, int]:
    """The digest of the rows at positions ``first`` to ``last``, and how many there are."""
    digest, rows = hashlib.sha256(), 0

    async def take(data: bytes) -> None:
        digest.update(data)

    for query in _ROWS:
        # The numbers stand in the statement itself: given apart, the driver would ask for their types each time.
        bounded = f"{query} WHERE h.position BETWEEN {int(first)} AND {int(last)} ORDER BY h.position"
        tag = await connection.copy_from_query(bounded, output=take, format="binary")
        rows += int(tag.split()[-1])
    return digest.hexdigest(), rows


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
