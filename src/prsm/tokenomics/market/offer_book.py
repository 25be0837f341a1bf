"""Offers in PostgreSQL: made, changed, withdrawn and repriced there, each change an event that other workers hear.

Every revision and every move of a price is kept; the row of an offer is only its newest state. An epoch moves an
offer's prices once, whichever worker gets to it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from prsm.core.clock import uuid7
from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.tokenomics.market.offers import Offer, State, Terms, check_terms, repriced, revised
from prsm.tokenomics.quotes import Price

CHANGED = "market.changed"
HISTORY_ROWS = 1000
"""Revisions, and moves of the price, that are shown of one offer: the newest."""
_AT_ONCE = 200
"""Offers that are read, or moved, in one go: requests wait while it lasts."""

_SELECT = """
SELECT o.id, instance, owner_account, state, revision, terms::text AS terms,
    input_price_micro, output_price_micro, cached_input_price_micro, created_at FROM market_offers o
"""
_INSERT = """
INSERT INTO market_offers (id, instance, owner_account, state, revision, terms,
    input_price_micro, output_price_micro, cached_input_price_micro, epoch)
VALUES ($1, $2, $3, 'open', 1, $4::text::jsonb, $5, $6, $7, floor(extract(epoch FROM clock_timestamp()))::bigint / $8)
RETURNING created_at
"""
_REVISE = """
UPDATE market_offers SET state = $2, revision = $3, terms = $4::text::jsonb,
    input_price_micro = $5, output_price_micro = $6, cached_input_price_micro = $7 WHERE id = $1
"""
_REVISION = """
INSERT INTO market_offer_revisions (offer_id, revision, state, terms, by_account)
VALUES ($1, $2, $3, $4::text::jsonb, $5)
"""
_NOTE_USAGE = """
INSERT INTO market_usage (instance, epoch, tokens)
SELECT t.instance, floor(extract(epoch FROM clock_timestamp()))::bigint / $3, t.tokens
FROM unnest($1::text[], $2::bigint[]) AS t(instance, tokens) ORDER BY t.instance
ON CONFLICT (instance, epoch) DO UPDATE SET tokens = market_usage.tokens + excluded.tokens
"""
# Rows that another worker is at are left to it. The order is that of ids, as for every writer of several offers.
_DUE = """
SELECT o.id, instance, owner_account, state, revision, terms::text AS terms,
    input_price_micro, output_price_micro, cached_input_price_micro, created_at,
    (SELECT tokens FROM market_usage u WHERE u.instance = o.instance AND u.epoch = $1) AS used
FROM market_offers o WHERE state = 'open' AND epoch < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
"""
# Where somebody was at the offer, a quote say, its price moves at the next look, which must find what was used.
_FORGET_USAGE = """
DELETE FROM market_usage u WHERE epoch <= $1 AND NOT EXISTS (
    SELECT FROM market_offers o WHERE o.instance = u.instance AND o.state = 'open' AND o.epoch < $1)
"""
_REPRICE = """
UPDATE market_offers SET epoch = $2, input_price_micro = $3, output_price_micro = $4, cached_input_price_micro = $5
WHERE id = $1
"""
_MOVED = """
INSERT INTO market_prices
    (offer_id, epoch, used_tokens, input_price_micro, output_price_micro, cached_input_price_micro)
VALUES ($1, $2, $3, $4, $5, $6)
"""


class Revision(Struct, frozen=True):
    """What a seller, or an admin, made of an offer at one time."""

    revision: int
    state: State
    terms: Terms
    by_account: str
    created_at: datetime


class Move(Struct, frozen=True):
    """The prices from ``created_at`` on, and the tokens of the epoch that moved them there."""

    epoch: int
    used_tokens: int
    posted: Price
    created_at: datetime


class OfferBook:
    """Offers over a pool; ``epoch_s`` is the length of an epoch in seconds."""

    def __init__(self, pool: Pool, epoch_s: int) -> None:
        self._pool = pool
        self._epoch_s = epoch_s

    async def live(self) -> list[Offer]:
        """All offers that are open or paused. One that changes meanwhile may be read as it was; its event follows."""
        found: list[Offer] = []
        after, more = UUID(int=0), True
        while more:
            rows = await self._pool.fetch(
                f"{_SELECT} WHERE state <> 'withdrawn' AND id > $1 ORDER BY id LIMIT $2", after, _AT_ONCE
            )
            found += [_offer(row) for row in rows]
            more = len(rows) == _AT_ONCE
            after = rows[-1]["id"] if rows else after
        return found

    async def offer(self, offer_id: UUID) -> Offer:
        """One offer, withdrawn or not. Raises NOT_FOUND."""
        return _found(await self._pool.fetchrow(f"{_SELECT} WHERE id = $1", offer_id))

    async def open(self, instance: str, owner_account: str, terms: Terms, by_account: str) -> Offer:
        """Make an offer for an instance. Raises INVALID, and CONFLICT where it has one."""
        check_terms(terms)
        offer = Offer(uuid7(), instance, owner_account, State.OPEN, 1, terms, terms.base, datetime.min)
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                at = await connection.fetchval(
                    _INSERT, offer.id, instance, owner_account, _json(terms), *_prices(offer.posted), self._epoch_s
                )
                await self._keep(connection, offer, by_account)
        except asyncpg.UniqueViolationError:
            raise PrsmError(
                f"There is an offer for {instance} already.",
                kind=Kind.CONFLICT,
                code="offer_exists",
                remedy="Change that one, or withdraw it.",
            ) from None
        return msgspec.structs.replace(offer, created_at=at)

    async def revise(self, offer_id: UUID, terms: Terms | None, state: State | None, by_account: str) -> Offer:
        """Change an offer; what is None stays. Raises NOT_FOUND, INVALID, CONFLICT."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(f"{_SELECT} WHERE id = $1 FOR UPDATE", offer_id)
            before = _found(row)
            after = revised(before, terms or before.terms, state or before.state)
            await connection.execute(
                _REVISE, offer_id, after.state, after.revision, _json(after.terms), *_prices(after.posted)
            )
            await self._keep(connection, after, by_account)
        return after

    async def history(self, offer_id: UUID) -> tuple[list[Revision], list[Move]]:
        """What was changed, and how the prices moved, newest first; at most HISTORY_ROWS each."""
        revisions = await self._pool.fetch(
            "SELECT revision, state, terms::text AS terms, by_account, created_at FROM market_offer_revisions "
            "WHERE offer_id = $1 ORDER BY revision DESC LIMIT $2",
            offer_id,
            HISTORY_ROWS,
        )
        moves = await self._pool.fetch(
            "SELECT * FROM market_prices WHERE offer_id = $1 ORDER BY epoch DESC LIMIT $2", offer_id, HISTORY_ROWS
        )
        return (
            [
                Revision(r["revision"], State(r["state"]), _terms(r["terms"]), r["by_account"], r["created_at"])
                for r in revisions
            ],
            [Move(m["epoch"], m["used_tokens"], price_of(m), m["created_at"]) for m in moves],
        )

    async def note_usage(self, tokens: Mapping[str, int]) -> None:
        """Add metered tokens by instance to the epoch that is now."""
        if tokens:
            await self._pool.execute(_NOTE_USAGE, list(tokens), list(tokens.values()), self._epoch_s)

    async def epoch(self, *, back_s: float = 0) -> int:
        """The number of the epoch that was ``back_s`` seconds ago, by the database's clock."""
        return await self._pool.fetchval(
            "SELECT floor((extract(epoch FROM clock_timestamp()) - $1::float8) / $2)::bigint", back_s, self._epoch_s
        )

    async def close_epoch(self, epoch: int) -> int:
        """Move the prices of all open offers by what was used in ``epoch``; answers how many moved.

        Offers that were moved by it already, or by a later one, stay as they are.
        """
        looked_at, moved = await self._reprice(epoch)
        while looked_at:
            looked_at, more = await self._reprice(epoch)
            moved += more
        await self._pool.execute(_FORGET_USAGE, epoch)
        return moved

    async def _reprice(self, epoch: int) -> tuple[int, int]:
        """A bounded step of it: how many offers were looked at, and how many moved."""
        async with self._pool.acquire() as connection, connection.transaction():
            due = [(_offer(row), row["used"] or 0) for row in await connection.fetch(_DUE, epoch, _AT_ONCE)]
            after = [(offer, used, repriced(offer, used, self._epoch_s)) for offer, used in due]
            await connection.executemany(_REPRICE, [(offer.id, epoch, *_prices(price)) for offer, _, price in after])
            moves = [(offer.id, epoch, used, *_prices(price)) for offer, used, price in after if price != offer.posted]
            await connection.executemany(_MOVED, moves)
            if moves:
                await emit(connection, CHANGED, {"epoch": epoch, "moved": len(moves)})
        return len(due), len(moves)

    async def _keep(self, connection: Connection, offer: Offer, by_account: str) -> None:
        await connection.execute(_REVISION, offer.id, offer.revision, offer.state, _json(offer.terms), by_account)
        await emit(connection, CHANGED, {"offer": str(offer.id)})


def price_of(row: Any) -> Price:
    """The three prices of a row."""
    return Price(row["input_price_micro"], row["output_price_micro"], row["cached_input_price_micro"])


def _found(row: Any) -> Offer:
    if row is None:
        raise PrsmError("There is no such offer.", kind=Kind.NOT_FOUND, code="unknown_offer")
    return _offer(row)


def _offer(row: Any) -> Offer:
    return Offer(
        row["id"],
        row["instance"],
        row["owner_account"],
        State(row["state"]),
        row["revision"],
        _terms(row["terms"]),
        price_of(row),
        row["created_at"],
    )


def _prices(price: Price) -> Sequence[int | None]:
    return price.input_micro, price.output_micro, price.cached_input_micro


def _terms(text: str) -> Terms:
    return msgspec.json.decode(text, type=Terms)


def _json(terms: Terms) -> str:
    return msgspec.json.encode(terms).decode()
