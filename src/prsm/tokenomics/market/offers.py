"""What an offer is and who may change it: pure rules. An offer says at what prices an instance is sold, and how much.

Its prices move between their bounds with demand; all else is the seller's. While it is open or paused it decides the
instance's prices; without one, the registry's apply. Paused, its prices stand still and nothing is quoted anew.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Protocol
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.tokenomics.market.pricing import Band, next_price
from prsm.tokenomics.quotes import Price

MAX_PRICE_MICRO = 10**12
MAX_CAPACITY = 10**12
"""Tokens per minute that an offer may declare, at most."""
MAX_TERMS_CHARS = 4000
_S_PER_MINUTE = 60


class State(StrEnum):
    """Where an offer stands; withdrawn is final."""

    OPEN = "open"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"


class Terms(Struct, frozen=True):
    """What a seller says. ``cached_input`` None: a cached input token costs as any. ``text`` is for people to read."""

    input: Band
    output: Band
    capacity_tokens_per_minute: int
    cached_input: Band | None = None
    text: str = ""

    @property
    def base(self) -> Price:
        """The prices that an offer starts from."""
        cached = self.cached_input.base_micro if self.cached_input else None
        return Price(self.input.base_micro, self.output.base_micro, cached)


class Offer(Struct, frozen=True):
    """An offer as it is now. ``posted`` are the prices of this epoch; ``revision`` counts what the seller changed."""

    id: UUID
    instance: str
    owner_account: str
    state: State
    revision: int
    terms: Terms
    posted: Price
    created_at: datetime


class Listed(Struct, frozen=True):
    """What a listing is searched by beyond the offer itself: what the registry knows of the instance."""

    model: str
    capabilities: frozenset[str]
    licence: str


class Wanted(Struct, frozen=True):
    """What a searcher asks for; None or empty: anything. Prices are of a million tokens, as posted now."""

    model: str = ""
    capability: str = ""
    licence: str = ""
    owner_account: str = ""
    max_input_micro: int | None = None
    max_output_micro: int | None = None


class Stakes(Protocol):
    """What sellers have put at stake for their offers. Nothing of this node keeps stakes yet: it runs without one."""

    async def staked_micro(self, owner_account: str) -> int:
        """Micro-FTNS that ``owner_account`` stands to lose."""
        ...


def check_terms(terms: Terms) -> None:
    """Raise InvalidRequest, naming the field and its limit, unless the terms can be kept."""
    for name, band in (("input", terms.input), ("output", terms.output), ("cached_input", terms.cached_input)):
        if band is not None and not 0 <= band.floor_micro <= band.base_micro <= band.ceiling_micro <= MAX_PRICE_MICRO:
            raise InvalidRequest(
                f"{name}: floor, base and ceiling are whole micro-FTNS in that order, from 0 to {MAX_PRICE_MICRO}.",
                param=name,
            )
    cached, fresh = terms.cached_input, terms.input
    if cached and (
        cached.base_micro > fresh.base_micro
        or cached.floor_micro > fresh.floor_micro
        or cached.ceiling_micro > fresh.ceiling_micro
    ):
        # So ordered, both follow demand by one rule and the cached price stays the lower one in every epoch.
        raise InvalidRequest(
            "Base, floor and ceiling of cached_input are at most those of input.", param="cached_input"
        )
    if not 1 <= terms.capacity_tokens_per_minute <= MAX_CAPACITY:
        raise InvalidRequest(
            f"capacity_tokens_per_minute is from 1 to {MAX_CAPACITY}.", param="capacity_tokens_per_minute"
        )
    if len(terms.text) > MAX_TERMS_CHARS or "\0" in terms.text:
        raise InvalidRequest(f"The terms' text has at most {MAX_TERMS_CHARS} characters and no NUL.", param="text")


def check_seller(owner_account: str, account: str, *, is_admin: bool) -> None:
    """Raise FORBIDDEN unless the caller is who earns by the instance, or an admin."""
    if not is_admin and owner_account != account:
        raise PrsmError(
            "Only the owner of an instance, or an admin, makes and changes its offer.",
            kind=Kind.FORBIDDEN,
            code="not_the_owner",
            remedy="Ask an admin to enter your account as the owner.",
        )


def revised(offer: Offer, terms: Terms, state: State) -> Offer:
    """The offer with what the seller changed; posted prices stay, inside the new bounds. Raises CONFLICT, INVALID."""
    check_terms(terms)
    if offer.state is State.WITHDRAWN:
        raise PrsmError("The offer was withdrawn, for good.", kind=Kind.CONFLICT, code="offer_withdrawn")
    posted = terms.base if _rebased(offer.terms, terms) else _within(terms, offer.posted)
    return replace(offer, terms=terms, state=state, posted=posted, revision=offer.revision + 1)


def repriced(offer: Offer, used_tokens: int, epoch_s: int) -> Price:
    """The posted prices after an epoch of ``epoch_s`` seconds in which ``used_tokens`` were metered."""
    terms, posted = offer.terms, offer.posted
    # Both times 60: a capacity that is no whole number of tokens an epoch counts exactly.
    used, capacity = used_tokens * _S_PER_MINUTE, terms.capacity_tokens_per_minute * epoch_s

    def step(price_micro: int, band: Band) -> int:
        return next_price(price_micro, used, capacity, band)

    cached = terms.cached_input and step(_cached(posted), terms.cached_input)
    return Price(step(posted.input_micro, terms.input), step(posted.output_micro, terms.output), cached)


def find(
    offers: Iterable[tuple[Offer, Listed]], wanted: Wanted, *, after: UUID | None = None, limit: int = 100
) -> list[tuple[Offer, Listed]]:
    """A page of what is for sale and fits, by the offers' ids from the one behind ``after`` on."""
    fitting = (pair for pair in offers if pair[0].state is State.OPEN and _fits(*pair, wanted))
    rest = (pair for pair in sorted(fitting, key=lambda pair: pair[0].id) if after is None or pair[0].id > after)
    return list(islice(rest, limit))


def _fits(offer: Offer, listed: Listed, wanted: Wanted) -> bool:
    return (
        wanted.model in ("", listed.model, offer.instance)
        and wanted.licence in ("", listed.licence)
        and wanted.owner_account in ("", offer.owner_account)
        and (not wanted.capability or wanted.capability in listed.capabilities)
        and (wanted.max_input_micro is None or offer.posted.input_micro <= wanted.max_input_micro)
        and (wanted.max_output_micro is None or offer.posted.output_micro <= wanted.max_output_micro)
    )


def _rebased(before: Terms, after: Terms) -> bool:
    """Whether the seller named other base prices, or a cached price where there was none: a fresh start."""
    return before.base != after.base


def _within(terms: Terms, posted: Price) -> Price:
    cached = terms.cached_input and terms.cached_input.clamp(_cached(posted))
    return Price(terms.input.clamp(posted.input_micro), terms.output.clamp(posted.output_micro), cached)


def _cached(posted: Price) -> int:
    return posted.input_micro if posted.cached_input_micro is None else posted.cached_input_micro
