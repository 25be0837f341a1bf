"""What the market's routes take and answer. Money is micro-FTNS; prices are micro-FTNS per million tokens."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from prsm.core.money import MAX_AMOUNT_MICRO
from prsm.tokenomics.market.account_books import Earnings, Statement
from prsm.tokenomics.market.offer_book import Move, Revision
from prsm.tokenomics.market.offers import MAX_CAPACITY, MAX_PRICE_MICRO, MAX_TERMS_CHARS, Listed, Offer, Terms
from prsm.tokenomics.market.pricing import Band
from prsm.tokenomics.market.quoting import MAX_TOKENS
from prsm.tokenomics.market.refund_book import Refund
from prsm.tokenomics.market.refunds import MAX_NOTE_CHARS, REASONS
from prsm.tokenomics.quotes import Price

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
_PriceMicro = Annotated[int, Field(ge=0, le=MAX_PRICE_MICRO)]
_Name = Annotated[str, Field(min_length=1, max_length=300, pattern=_PLAIN)]
_Note = Annotated[str, Field(max_length=MAX_NOTE_CHARS, pattern=r"^[^\x00]*$")]


class BandShown(BaseModel):
    """A price to start from and the bounds that it stays within; equal ones make a fixed price."""

    model_config = ConfigDict(extra="forbid", strict=True)

    base_micro: _PriceMicro
    floor_micro: _PriceMicro
    ceiling_micro: _PriceMicro

    def band(self) -> Band:
        """As the market has it."""
        return Band(self.base_micro, self.floor_micro, self.ceiling_micro)


class TermsShown(BaseModel):
    """What a seller says of an offer; without ``cached_input`` a cached input token costs as any."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: BandShown
    output: BandShown
    cached_input: BandShown | None = None
    capacity_tokens_per_minute: int = Field(ge=1, le=MAX_CAPACITY)
    text: str = Field(default="", max_length=MAX_TERMS_CHARS, pattern=r"^[^\x00]*$")

    def terms(self) -> Terms:
        """As the market has them."""
        cached = self.cached_input.band() if self.cached_input else None
        return Terms(self.input.band(), self.output.band(), self.capacity_tokens_per_minute, cached, self.text)


class NewOffer(TermsShown):
    """An offer for an instance, named in full: ``provider/model``."""

    instance: _Name
    stake_micro: int = Field(default=0, ge=0, le=MAX_AMOUNT_MICRO, description="What the seller has at stake for it.")


class OfferChange(BaseModel):
    """A change of an offer; what is not given stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: Literal["open", "paused"] | None = None
    terms: TermsShown | None = None


class NewQuote(BaseModel):
    """A wish for prices that bind; ``question`` lets ``auto`` choose as it would for the request, and is not kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: _Name
    input_tokens: int = Field(ge=1, le=MAX_TOKENS)
    output_tokens: int = Field(ge=0, le=MAX_TOKENS, description="0: embeddings.")
    ttl_s: int = Field(default=60, ge=1, le=86_400)
    question: str = Field(default="", max_length=10_000)


class NewRefund(BaseModel):
    """An ask for money back; without an amount, for all of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[UUID, Field(strict=False)]
    reason: str = Field(max_length=40, json_schema_extra={"enum": [*REASONS]})
    amount_micro: int | None = Field(default=None, ge=1, le=MAX_AMOUNT_MICRO)
    note: _Note = ""


class NewDecision(BaseModel):
    """A decision of a refund; an amount of 0 refuses it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_micro: int = Field(ge=0, le=MAX_AMOUNT_MICRO)
    note: _Note = ""


class PriceShown(BaseModel):
    """Prices as they apply; that of cached input is that of input where there is no other."""

    input_micro: int
    output_micro: int
    cached_input_micro: int


class OfferShown(BaseModel):
    """An offer with the prices posted now, and what the registry says of its instance."""

    id: UUID
    instance: str
    model: str
    capabilities: list[str]
    licence: str
    owner_account: str
    state: str
    revision: int
    posted: PriceShown
    terms: TermsShown
    stake: str = Field(description="What is known of the seller's stake.")
    created_at: datetime


class RevisionShown(BaseModel):
    """An offer as it was left at one time."""

    revision: int
    state: str
    terms: TermsShown
    by_account: str
    created_at: datetime


class MoveShown(BaseModel):
    """A move of the posted prices, and the tokens of the epoch that made it."""

    epoch: int
    used_tokens: int
    posted: PriceShown
    created_at: datetime


class OfferHistory(BaseModel):
    """An offer with its past, newest first."""

    offer: OfferShown
    revisions: list[RevisionShown]
    moves: list[MoveShown]


class LineShown(BaseModel):
    """All postings of one kind in a month."""

    kind: str
    received_micro: int
    paid_micro: int


class StatementShown(BaseModel):
    """One month of an account (UTC): opening + received - paid = closing."""

    account: str
    month: str
    opening_micro: int
    lines: list[LineShown]
    closing_micro: int


class EarningsShown(BaseModel):
    """What an account has earned by requests, by kind, what of it went back, and the net by month."""

    account: str
    earned_micro: dict[str, int]
    refunded_micro: int
    net_micro: int
    net_by_month: dict[str, int]


class DecisionShown(BaseModel):
    """A decision: what each account gives back, nothing for a refusal."""

    amount_micro: int
    parts: dict[str, int]
    by_account: str
    note: str
    created_at: datetime


class RefundShown(BaseModel):
    """A refund: asked, refused, waiting (granted; somebody has too little to give back now) or paid."""

    id: UUID
    request_id: UUID
    state: Annotated[str, Field(json_schema_extra={"enum": ["asked", "refused", "waiting", "paid"]})]
    payer_account: str
    seller_account: str
    asked_micro: int
    granted_micro: int
    paid_micro: int
    reason: str
    note: str
    created_at: datetime
    decisions: list[DecisionShown]


def shown_offer(offer: Offer, listed: Listed) -> OfferShown:
    """An offer as it is answered."""
    return OfferShown(
        id=offer.id,
        instance=offer.instance,
        model=listed.model,
        capabilities=sorted(listed.capabilities),
        licence=listed.licence,
        owner_account=offer.owner_account,
        state=offer.state,
        revision=offer.revision,
        posted=_price(offer.posted),
        terms=_terms(offer.terms),
        stake="none: this node keeps no stakes",
        created_at=offer.created_at,
    )


def shown_history(offer: OfferShown, revisions: list[Revision], moves: list[Move]) -> OfferHistory:
    """An offer with its past as it is answered."""
    return OfferHistory(
        offer=offer,
        revisions=[
            RevisionShown(
                revision=one.revision,
                state=one.state,
                terms=_terms(one.terms),
                by_account=one.by_account,
                created_at=one.created_at,
            )
            for one in revisions
        ],
        moves=[
            MoveShown(
                epoch=one.epoch, used_tokens=one.used_tokens, posted=_price(one.posted), created_at=one.created_at
            )
            for one in moves
        ],
    )


def shown_statement(made: Statement) -> StatementShown:
    """A statement as it is answered."""
    return StatementShown(
        account=made.account,
        month=made.month.strftime("%Y-%m"),
        opening_micro=made.opening_micro,
        lines=[
            LineShown(kind=line.kind, received_micro=line.received_micro, paid_micro=line.paid_micro)
            for line in made.lines
        ],
        closing_micro=made.closing_micro,
    )


def shown_earnings(made: Earnings) -> EarningsShown:
    """Earnings as they are answered."""
    return EarningsShown(
        account=made.account,
        earned_micro=made.earned_micro,
        refunded_micro=made.refunded_micro,
        net_micro=made.net_micro,
        net_by_month=made.by_month,
    )


def shown_refund(refund: Refund) -> RefundShown:
    """A refund as it is answered."""
    return RefundShown(
        id=refund.id,
        request_id=refund.request_id,
        state=refund.state,
        payer_account=refund.payer_account,
        seller_account=refund.seller_account,
        asked_micro=refund.asked_micro,
        granted_micro=refund.granted_micro,
        paid_micro=refund.paid_micro,
        reason=refund.reason,
        note=refund.note,
        created_at=refund.created_at,
        decisions=[
            DecisionShown(
                amount_micro=one.amount_micro,
                parts=one.parts,
                by_account=one.by_account,
                note=one.note,
                created_at=one.created_at,
            )
            for one in refund.decisions
        ],
    )


def _price(price: Price) -> PriceShown:
    cached = price.input_micro if price.cached_input_micro is None else price.cached_input_micro
    return PriceShown(input_micro=price.input_micro, output_micro=price.output_micro, cached_input_micro=cached)


def _terms(terms: Terms) -> TermsShown:
    return TermsShown(
        input=_band(terms.input),
        output=_band(terms.output),
        cached_input=_band(terms.cached_input) if terms.cached_input else None,
        capacity_tokens_per_minute=terms.capacity_tokens_per_minute,
        text=terms.text,
    )


def _band(band: Band) -> BandShown:
    return BandShown(base_micro=band.base_micro, floor_micro=band.floor_micro, ceiling_micro=band.ceiling_micro)
