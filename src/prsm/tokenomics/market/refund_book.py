"""Refunds in PostgreSQL: asked for by who paid, decided by the seller or an admin, paid back by the ledger.

What was asked and decided is only ever inserted. A grant is committed first and paid then; a node that dies between the
two, or an account that has too little, leaves it owed, and the owed is paid as soon as it can be.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from prsm.core.clock import Clock, uuid7
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import format_ftns
from prsm.core.subject_keys import Erased, SubjectKeys, Unreadable, erased_among, is_sealed
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.market.refunds import (
    MAX_NOTE_CHARS,
    Parts,
    check_asked,
    check_in_time,
    divide,
    left_of,
    paid_parts,
    reach,
)
from prsm.tokenomics.receipts import money_of

_OWED_AT_ONCE = 100
_SELECT = """
SELECT r.*, coalesce((SELECT sum(amount_micro) FROM ledger_transfers t WHERE t.refund_of = r.request_id), 0)::bigint
    AS paid_micro FROM market_refunds r
"""
_DECISIONS = """
SELECT refund_id, amount_micro, parts::text AS parts, by_account, note, created_at FROM market_refund_decisions
WHERE refund_id = ANY($1) ORDER BY refund_id, number
"""


class Decision(Struct, frozen=True):
    """What was decided once: ``parts`` is what each account gives back, nothing for a refusal."""

    amount_micro: int
    parts: Parts
    by_account: str
    note: str
    created_at: datetime


class Refund(Struct, frozen=True):
    """An ask for money back, with what was decided of it and how much of that has been paid."""

    id: UUID
    request_id: UUID
    payer_account: str
    seller_account: str
    asked_micro: int
    reason: str
    note: str
    created_at: datetime
    paid_micro: int
    decisions: tuple[Decision, ...]

    @property
    def granted_micro(self) -> int:
        """What all decisions together give back."""
        return sum(decision.amount_micro for decision in self.decisions)

    @property
    def state(self) -> str:
        """asked, refused, waiting (granted and not paid in full) or paid."""
        if not self.decisions:
            return "asked"
        if not self.granted_micro:
            return "refused"
        return "paid" if self.paid_micro == self.granted_micro else "waiting"


class RefundBook:
    """Refunds over a pool and a ledger; they are asked for within ``window_s`` seconds of the answer."""

    def __init__(self, pool: Pool, ledger: Ledger, window_s: int, clock: Clock, keys: SubjectKeys) -> None:
        self._pool = pool
        self._keys = keys
        self._ledger = ledger
        self._window_s = window_s
        self._clock = clock

    async def ask(
        self, request_id: UUID, account: str, reason: str, *, amount_micro: int | None = None, note: str = ""
    ) -> Refund:
        """Ask for money back; ``amount_micro`` None: all of it. Raises NOT_FOUND, INVALID, CONFLICT."""
        captured_at, seller, parts = await self._capture(request_id, account)
        asked = check_asked(reason, note, amount_micro, sum(parts.values()))
        check_in_time(captured_at, self._clock(), self._window_s)
        refund_id = uuid7()
        try:
            await self._insert(
                refund_id, request_id, account, seller, asked, reason, await self._sealed(account, refund_id, note)
            )
        except asyncpg.UniqueViolationError:
            raise PrsmError(
                "A refund of this request was asked for already.", kind=Kind.CONFLICT, code="refund_asked"
            ) from None
        return await self.refund(refund_id)

    async def refund(self, refund_id: UUID, account: str | None = None) -> Refund:
        """One refund; of one that ``account`` neither paid nor sold, NOT_FOUND is raised. None is an admin."""
        rows = await self._pool.fetch(
            f"{_SELECT} WHERE r.id = $1 AND ($2::text IS NULL OR $2 IN (r.payer_account, r.seller_account))",
            refund_id,
            account,
        )
        if not rows:
            raise PrsmError(f"There is no refund {refund_id}.", kind=Kind.NOT_FOUND, code="unknown_refund")
        return (await self._read(rows))[0]

    async def refunds(self, account: str | None, *, limit: int, before: UUID | None = None) -> list[Refund]:
        """The newest refunds that ``account`` asked for or has to decide (None: all); page by the last id seen."""
        rows = await self._pool.fetch(
            f"{_SELECT} WHERE ($1::text IS NULL OR r.payer_account = $1 OR r.seller_account = $1) "
            "AND ($2::uuid IS NULL OR r.id < $2) ORDER BY r.id DESC LIMIT $3",
            *(account, before, limit),
        )
        return await self._read(rows)

    async def decide(
        self, refund_id: UUID, account: str, *, is_admin: bool, amount_micro: int, note: str = ""
    ) -> Refund:
        """Give back ``amount_micro`` (0: refuse), in proportion from those whom the decider may bind, and pay it.

        An admin may give more after a seller's decision, or after one of its own; nothing given is taken back. Raises
        NOT_FOUND, FORBIDDEN, INVALID, CONFLICT.
        """
        if len(note) > MAX_NOTE_CHARS or "\0" in note:
            raise InvalidRequest(f"A note has at most {MAX_NOTE_CHARS} characters and no NUL.", param="note")
        seen = await self.refund(refund_id, None if is_admin else account)
        _, seller, parts = await self._capture(seen.request_id, seen.payer_account)
        sealed = await self._sealed(account, refund_id, note)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetchrow("SELECT id FROM market_refunds WHERE id = $1 FOR UPDATE", refund_id)
            decided = await connection.fetch(_DECISIONS, [refund_id])
            given = [msgspec.json.decode(row["parts"], type=dict[str, int]) for row in decided]
            if given and not is_admin:
                raise PrsmError("The refund was decided already.", kind=Kind.CONFLICT, code="refund_decided")
            left = reach(left_of(parts, given), seller, account, is_admin=is_admin)
            back = _within(amount_micro, left)
            await connection.execute(
                "INSERT INTO market_refund_decisions (refund_id, number, amount_micro, parts, by_account, note) "
                "VALUES ($1, $2, $3, $4::text::jsonb, $5, $6)",
                *(refund_id, len(given) + 1, amount_micro, msgspec.json.encode(back).decode(), account, sealed),
            )
            if back:
                await connection.execute(
                    "INSERT INTO market_refunds_owed (refund_id) VALUES ($1) ON CONFLICT DO NOTHING", refund_id
                )
        if amount_micro:
            await self.pay(refund_id)
        return await self.refund(refund_id)

    async def pay(self, refund_id: UUID) -> int:
        """Pay what is granted and not paid, as far as those who owe have it; answers what has to wait."""
        refund = await self.refund(refund_id)
        owed: Parts = {}
        for decision in refund.decisions:
            for account, amount in decision.parts.items():
                owed[account] = owed.get(account, 0) + amount
        left_micro = await self._ledger.refund(refund.request_id, owed)
        if not left_micro:
            # Unless more was granted meanwhile: that decision pays by itself, or is still owed.
            await self._pool.execute(
                "DELETE FROM market_refunds_owed o WHERE refund_id = $1 AND "
                "$2 = (SELECT count(*) FROM market_refund_decisions d WHERE d.refund_id = o.refund_id)",
                refund_id,
                len(refund.decisions),
            )
        return left_micro

    async def pay_owed(self) -> int:
        """Try again what had to wait, and what a node that died had granted; answers how many were paid in full."""
        rows = await self._pool.fetch(
            "SELECT refund_id FROM market_refunds_owed ORDER BY random() LIMIT $1", _OWED_AT_ONCE
        )
        return sum([await self.pay(row["refund_id"]) == 0 for row in rows])

    async def _capture(self, request_id: UUID, payer: str) -> tuple[datetime, str, Parts]:
        """When a request was charged, who sold it, and what each account but the payer got. Raises NOT_FOUND."""
        row = await self._pool.fetchrow("SELECT body, created_at FROM receipts WHERE id = $1", request_id)
        money = money_of(row["body"]) if row else None
        if money is None or money.account != payer:
            raise PrsmError(f"There is no receipt {request_id}.", kind=Kind.NOT_FOUND, code="unknown_receipt")
        seller = next((leg.account for leg in money.splits if leg.kind == "owner"), "")
        return row["created_at"], seller, paid_parts(money.splits, payer)

    async def _insert(self, refund_id: UUID, request_id: UUID, account: str, *values: Any) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            if await erased_among(connection, [account]):  # the log would salt the note anew
                raise Erased("The owner of this data was erased.")
            await connection.execute(
                "INSERT INTO market_refunds (id, request_id, payer_account, seller_account, asked_micro, reason, note) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7)",
                *(refund_id, request_id, account, *values),
            )

    async def _read(self, rows: Sequence[Any]) -> list[Refund]:
        async with self._pool.acquire() as connection:
            decided = await connection.fetch(_DECISIONS, [row["id"] for row in rows])
        decisions: dict[UUID, list[Decision]] = {}
        for row in decided:
            parts = msgspec.json.decode(row["parts"], type=dict[str, int])
            note = await self._opened(row["by_account"], row["refund_id"], row["note"])
            decision = Decision(row["amount_micro"], parts, row["by_account"], note, row["created_at"])
            decisions.setdefault(row["refund_id"], []).append(decision)
        names = [name for name in Refund.__struct_fields__ if name != "decisions"]
        stored: list[dict[str, Any]] = [{name: row[name] for name in names} for row in rows]
        for one in stored:
            one["note"] = await self._opened(one["payer_account"], one["id"], one["note"])
        return [Refund(**one, decisions=tuple(decisions.get(one["id"], ()))) for one in stored]

    async def _sealed(self, account: str, refund_id: UUID, note: str) -> str:
        return (await self._keys.of_account(account)).seal(note, note_place(refund_id)) if note else ""

    async def _opened(self, account: str, refund_id: UUID, note: str) -> str:
        """A note as it was written; of a writer who was erased nothing is left."""
        try:
            return (await self._keys.of_account(account)).open(note, note_place(refund_id)) if is_sealed(note) else note
        except (Erased, Unreadable):
            return ""


def note_place(refund_id: UUID) -> str:
    """Where the notes on a refund are sealed for."""
    return f"note:{refund_id}"


def _within(amount_micro: int, left: Parts) -> Parts:
    most = sum(left.values())
    if not 0 <= amount_micro <= most:
        raise InvalidRequest(
            f"{format_ftns(most)} FTNS can be given back by this decision at most.", param="amount_micro"
        )
    return divide(amount_micro, left)
