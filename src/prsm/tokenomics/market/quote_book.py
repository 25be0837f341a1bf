"""Quotes in PostgreSQL: made, found, and taken by one request each. They survive a restart and end by their time.

A quote is taken once its request's hold stands, so that the ledger alone says whether it was used: if the hold ended
in no capture, by whatever way, the next request may take it. Nothing has to be given back after a crash.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from prsm.core.clock import Clock, uuid7
from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.tokenomics.market.offer_book import price_of
from prsm.tokenomics.market.offers import State
from prsm.tokenomics.market.quoting import BoundQuote, check_quote, quote_gone, sign_quote
from prsm.tokenomics.quotes import Price
from prsm.tokenomics.receipts import NodeSigner

KEPT_S = 86_400
"""How long a quote can still be looked up after its end."""

# A quote is free while no request has taken it, and again when the hold of the one that did ended in no capture.
_TAKE = """
UPDATE market_quotes q SET request_id = $2 WHERE q.id = $1 AND q.valid_until > $3 AND (q.request_id IS NULL
    OR EXISTS (SELECT FROM ledger_resolutions r WHERE r.hold_id = q.request_id AND r.kind <> 1)) RETURNING q.id
"""
_INSERT = """
INSERT INTO market_quotes (id, account, asked, instance, input_price_micro, output_price_micro,
    cached_input_price_micro, input_tokens, output_tokens, body, made_at, valid_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""
_PROMISED = """
SELECT count(*) FILTER (WHERE account = $1) AS quotes,
    coalesce(sum(input_tokens + output_tokens) FILTER (WHERE instance = $2), 0)::bigint AS tokens
FROM market_quotes q WHERE (account = $1 OR instance = $2) AND valid_until > $3 AND (q.request_id IS NULL
    OR EXISTS (SELECT FROM ledger_resolutions r WHERE r.hold_id = q.request_id AND r.kind <> 1))
"""


@dataclass(frozen=True, slots=True)
class QuoteLimits:
    """Bounds: the longest life of a quote in seconds, and the open quotes of one account."""

    ttl_s: int = 600
    open_per_account: int = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller wants a quote for: the model as it names it, and the most tokens of its request."""

    account: str
    asked: str
    input_tokens: int
    output_tokens: int
    ttl_s: int


class QuoteBook:
    """Quotes over a pool, signed by one node."""

    def __init__(self, pool: Pool, signer: NodeSigner, limits: QuoteLimits, clock: Clock) -> None:
        self._pool = pool
        self._signer = signer
        self._limits = limits
        self._clock = clock

    def check(self, wish: Wish) -> None:
        """Raise INVALID unless such a quote can be made at all."""
        check_quote(wish.input_tokens, wish.output_tokens, wish.ttl_s, self._limits.ttl_s)

    async def make(self, wish: Wish, instance: str, price: Price) -> bytes:
        """A signed quote for ``instance`` at ``price``; at the posted prices where it has an offer.

        Raises CONFLICT when the offer is paused, the account has too many quotes open, or the offer's capacity is
        promised: open quotes take no more tokens than it declares to serve while the longest of them live.
        """
        self.check(wish)
        made_at = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            # One at a time for an account, and for an offer, so that both bounds hold.
            await connection.execute("SELECT pg_advisory_xact_lock(7017, hashtext($1))", wish.account)
            offer = await connection.fetchrow(
                "SELECT state, (terms->>'capacity_tokens_per_minute')::bigint AS capacity, input_price_micro, "
                "output_price_micro, cached_input_price_micro FROM market_offers "
                "WHERE instance = $1 AND state <> 'withdrawn' FOR UPDATE",
                instance,
            )
            await self._check_room(connection, wish, instance, offer, made_at)
            quote = BoundQuote(
                id=uuid7(),
                account=wish.account,
                asked=wish.asked,
                instance=instance,
                price=price_of(offer) if offer else price,
                input_tokens=wish.input_tokens,
                output_tokens=wish.output_tokens,
                made_at=made_at,
                valid_until=made_at + timedelta(seconds=wish.ttl_s),
            )
            body = sign_quote(quote, self._signer)
            await connection.execute(_INSERT, *_values(quote, body))
        return body

    async def body(self, quote_id: UUID, account: str) -> bytes:
        """An account's quote, byte for byte as it was signed. Raises NOT_FOUND, also for another's."""
        return (await self._row(quote_id, account))["body"]

    async def quote(self, quote_id: UUID, account: str) -> BoundQuote:
        """An account's quote. Raises NOT_FOUND, also for another's."""
        row = await self._row(quote_id, account)
        stored: dict[str, Any] = {name: row[name] for name in BoundQuote.__struct_fields__ if name != "price"}
        return BoundQuote(**stored, price=price_of(row))

    async def take(self, quote_id: UUID, request_id: UUID) -> None:
        """Take a quote for a request whose hold stands. Raises CONFLICT when it is taken, used or over."""
        if await self._pool.fetchval(_TAKE, quote_id, request_id, self._clock()) is None:
            raise quote_gone("The quote is in use, was used, or has expired.", "quote_used")

    async def forget_old(self) -> int:
        """Delete quotes that ended a day ago; answers how many."""
        before = self._clock() - timedelta(seconds=KEPT_S)
        return int((await self._pool.execute("DELETE FROM market_quotes WHERE valid_until < $1", before)).split()[-1])

    async def _row(self, quote_id: UUID, account: str) -> Any:
        row = await self._pool.fetchrow("SELECT * FROM market_quotes WHERE id = $1 AND account = $2", quote_id, account)
        if row is None:
            raise PrsmError(
                f"There is no quote {quote_id}.", kind=Kind.NOT_FOUND, code="unknown_quote", param="prsm.quote_id"
            )
        return row

    async def _check_room(self, connection: Connection, wish: Wish, instance: str, offer: Any, now: datetime) -> None:
        promised = await connection.fetchrow(_PROMISED, wish.account, instance, now)
        if promised["quotes"] >= self._limits.open_per_account:
            raise _no_room(f"This account has {self._limits.open_per_account} quotes open, the most it may have.")
        if offer is None:
            return
        if offer["state"] != State.OPEN:
            raise PrsmError(f"The offer for {instance} is paused.", kind=Kind.CONFLICT, code="offer_paused")
        most = -(-offer["capacity"] * self._limits.ttl_s // 60)
        tokens: int = promised["tokens"]
        if tokens + wish.input_tokens + wish.output_tokens > most:
            raise _no_room(f"The offer for {instance} has promised {tokens} of {most} tokens already.")


def _values(quote: BoundQuote, body: bytes) -> tuple[Any, ...]:
    price = quote.price
    return (
        *(quote.id, quote.account, quote.asked, quote.instance),
        *(price.input_micro, price.output_micro, price.cached_input_micro),
        *(quote.input_tokens, quote.output_tokens, body, quote.made_at, quote.valid_until),
    )


def _no_room(message: str) -> PrsmError:
    return PrsmError(message, kind=Kind.CONFLICT, code="too_many_quotes", remedy="Use one, or let one expire.")
