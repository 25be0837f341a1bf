"""Statements and earnings: what an account received and paid, month by month, equal to the ledger to the micro-FTNS.

The ledger's postings are summed up by month as they come, in the order of their positions; what is not summed up yet is
read beside the sums in the same statement, so that an answer is exact at every moment.
"""

from collections.abc import Iterable
from datetime import date

from msgspec import Struct

from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest
from prsm.tokenomics.replay import REFUND

EARNINGS = ("owner", "executor", "royalty", "treasury")
"""The kinds of posting that a capture is made of."""
STEP_POSTINGS = 20_000
"""Postings that one step sums up, at most."""

_STEP = """
WITH head AS (SELECT position FROM market_sum_head WHERE id = 1), come AS (
    SELECT t.*, date_trunc('month', t.created_at AT TIME ZONE 'UTC')::date AS month FROM ledger_transfers t
    WHERE t.position > (SELECT position FROM head) ORDER BY t.position LIMIT $1
), summed AS (
    INSERT INTO market_sums (account_id, month, kind, received_micro, paid_micro)
    SELECT account_id, month, kind, sum(received)::bigint, sum(paid)::bigint FROM (
        SELECT credit_account_id AS account_id, month, kind, amount_micro AS received, 0 AS paid FROM come
        UNION ALL SELECT debit_account_id, month, kind, 0, amount_micro FROM come
    ) AS sides GROUP BY account_id, month, kind ORDER BY account_id, month, kind
    ON CONFLICT (account_id, month, kind) DO UPDATE SET
        received_micro = market_sums.received_micro + excluded.received_micro,
        paid_micro = market_sums.paid_micro + excluded.paid_micro
), moved AS (
    UPDATE market_sum_head SET position = greatest(position, coalesce((SELECT max(position) FROM come), 0))
)
SELECT count(*) FROM come
"""
_SUMS = """
SELECT month, kind, sum(received)::bigint AS received_micro, sum(paid)::bigint AS paid_micro FROM (
    SELECT s.month, s.kind, s.received_micro AS received, s.paid_micro AS paid
    FROM market_sums s JOIN ledger_accounts a ON a.id = s.account_id WHERE a.name = $1
    UNION ALL
    SELECT date_trunc('month', t.created_at AT TIME ZONE 'UTC')::date, t.kind,
        CASE WHEN t.credit_account_id = a.id THEN t.amount_micro ELSE 0 END,
        CASE WHEN t.debit_account_id = a.id THEN t.amount_micro ELSE 0 END
    FROM ledger_accounts a JOIN ledger_transfers t
        ON t.position > (SELECT position FROM market_sum_head WHERE id = 1)
        AND a.id IN (t.credit_account_id, t.debit_account_id)
    WHERE a.name = $1
) AS lines GROUP BY month, kind ORDER BY month, kind
"""


class Line(Struct, frozen=True):
    """All postings of one kind in one month, to the account and from it."""

    month: date
    kind: str
    received_micro: int
    paid_micro: int


class Statement(Struct, frozen=True):
    """One month of an account: ``opening + received - paid = closing``."""

    account: str
    month: date
    opening_micro: int
    closing_micro: int
    lines: tuple[Line, ...]


class Earnings(Struct, frozen=True):
    """What an account earned by requests, by kind, less what of it went back, in all its time and month by month."""

    account: str
    earned_micro: dict[str, int]
    refunded_micro: int
    by_month: dict[str, int]

    @property
    def net_micro(self) -> int:
        """Earned less refunded."""
        return sum(self.earned_micro.values()) - self.refunded_micro


class AccountBooks:
    """Statements of all accounts over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def sum_up(self) -> int:
        """Add the next postings to the sums; answers how many. One worker does it, others do nothing meanwhile."""
        async with self._pool.acquire() as connection, connection.transaction():
            mine = await connection.fetchrow("SELECT id FROM market_sum_head WHERE id = 1 FOR UPDATE SKIP LOCKED")
            return 0 if mine is None else await connection.fetchval(_STEP, STEP_POSTINGS)

    async def statement(self, account: str, month: str) -> Statement:
        """The statement of a month written ``2026-01`` (UTC). Raises InvalidRequest."""
        return statement(account, read_month(month), await self._lines(account))

    async def earnings(self, account: str) -> Earnings:
        """What an account has earned."""
        return earnings(account, await self._lines(account))

    async def _lines(self, account: str) -> list[Line]:
        return [Line(*row) for row in await self._pool.fetch(_SUMS, account)]


def read_month(text: str) -> date:
    """``2026-01`` as its first day. Raises InvalidRequest."""
    try:
        if len(text) == len("2026-01"):
            return date.fromisoformat(f"{text}-01")
    except ValueError:
        pass
    raise InvalidRequest("A month is written like 2026-01.", param="month")


def statement(account: str, month: date, lines: Iterable[Line]) -> Statement:
    """The statement of ``month`` from all lines of an account."""
    known = list(lines)
    opening = sum(line.received_micro - line.paid_micro for line in known if line.month < month)
    now = tuple(line for line in known if line.month == month)
    closing = opening + sum(line.received_micro - line.paid_micro for line in now)
    return Statement(account, month, opening, closing, now)


def earnings(account: str, lines: Iterable[Line]) -> Earnings:
    """The earnings from all lines of an account."""
    earned: dict[str, int] = dict.fromkeys(EARNINGS, 0)
    by_month: dict[str, int] = {}
    refunded = 0
    for line in lines:
        gained = line.received_micro if line.kind in EARNINGS else -line.paid_micro if line.kind == REFUND else 0
        if line.kind in EARNINGS:
            earned[line.kind] += line.received_micro
        elif line.kind == REFUND:
            refunded += line.paid_micro
        if gained:
            month = line.month.strftime("%Y-%m")
            by_month[month] = by_month.get(month, 0) + gained
    return Earnings(account, earned, refunded, by_month)
