"""Offers, posted prices, quotes, refunds, and the sums that statements are made of.

What was said (revisions, prices, refunds, decisions) is only ever inserted; a trigger refuses anything else.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Date, ForeignKey, Index, Integer, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class MarketOfferRow(Base):
    """An offer as it is now, with the prices posted for this epoch; ``epoch`` is the last one that moved them."""

    __tablename__ = "market_offers"
    __table_args__ = (
        CheckConstraint("state in ('open', 'paused', 'withdrawn')", name="market_offers_state"),
        CheckConstraint("input_price_micro >= 0 and output_price_micro >= 0", name="market_offers_prices"),
        CheckConstraint("cached_input_price_micro between 0 and input_price_micro", name="market_offers_cached_price"),
        Index("market_offers_live", "instance", unique=True, postgresql_where=text("state <> 'withdrawn'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    instance: Mapped[str]
    owner_account: Mapped[str]
    state: Mapped[str]
    revision: Mapped[int] = mapped_column(Integer)
    terms: Mapped[dict[str, Any]]
    input_price_micro: Mapped[int] = mapped_column(BigInteger)
    output_price_micro: Mapped[int] = mapped_column(BigInteger)
    cached_input_price_micro: Mapped[int | None] = mapped_column(BigInteger)
    epoch: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = inserted_at()


class MarketOfferRevisionRow(Base):
    """An offer as its seller, or an admin, left it at one time."""

    __tablename__ = "market_offer_revisions"

    offer_id: Mapped[UUID] = mapped_column(ForeignKey("market_offers.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str]
    terms: Mapped[dict[str, Any]]
    by_account: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()


class MarketPriceRow(Base):
    """A move of an offer's prices: those from after ``epoch`` on, and the tokens metered in it."""

    __tablename__ = "market_prices"

    offer_id: Mapped[UUID] = mapped_column(ForeignKey("market_offers.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    used_tokens: Mapped[int] = mapped_column(BigInteger)
    input_price_micro: Mapped[int] = mapped_column(BigInteger)
    output_price_micro: Mapped[int] = mapped_column(BigInteger)
    cached_input_price_micro: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = inserted_at()


class MarketUsageRow(Base):
    """Tokens metered of an instance in one epoch, by all workers; forgotten once the epoch has moved the prices."""

    __tablename__ = "market_usage"

    instance: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger)


class MarketQuoteRow(Base):
    """A signed quote, byte for byte; ``request_id`` is the request that took it last."""

    __tablename__ = "market_quotes"
    __table_args__ = (
        Index("market_quotes_account", "account", "valid_until"),
        Index("market_quotes_instance", "instance", "valid_until"),
        Index("market_quotes_old", "valid_until"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account: Mapped[str]
    asked: Mapped[str]
    instance: Mapped[str]
    input_price_micro: Mapped[int] = mapped_column(BigInteger)
    output_price_micro: Mapped[int] = mapped_column(BigInteger)
    cached_input_price_micro: Mapped[int | None] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes]
    request_id: Mapped[UUID | None]
    made_at: Mapped[datetime]
    valid_until: Mapped[datetime]


class MarketRefundRow(Base):
    """A payer's ask for money back; one for each request."""

    __tablename__ = "market_refunds"
    __table_args__ = (
        CheckConstraint("asked_micro > 0", name="market_refunds_amount"),
        Index("market_refunds_payer", "payer_account", "id"),
        Index("market_refunds_seller", "seller_account", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(unique=True)
    payer_account: Mapped[str]
    seller_account: Mapped[str]
    asked_micro: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    note: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()


class MarketRefundDecisionRow(Base):
    """What was decided of a refund; ``parts`` is micro-FTNS by account that gives it back, empty for a refusal."""

    __tablename__ = "market_refund_decisions"
    __table_args__ = (CheckConstraint("amount_micro >= 0", name="market_refund_decisions_amount"),)

    refund_id: Mapped[UUID] = mapped_column(ForeignKey("market_refunds.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    parts: Mapped[dict[str, int]] = mapped_column(JSONB)
    by_account: Mapped[str]
    note: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()


class MarketRefundOwedRow(Base):
    """A refund whose grants are not paid in full yet."""

    __tablename__ = "market_refunds_owed"

    refund_id: Mapped[UUID] = mapped_column(ForeignKey("market_refunds.id"), primary_key=True)


class MarketSumHeadRow(Base):
    """One row: up to which position of the ledger the postings are in the sums."""

    __tablename__ = "market_sum_head"
    __table_args__ = (CheckConstraint("id = 1", name="market_sum_head_single"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger)


class MarketSumRow(Base):
    """What an account received and paid in a month (UTC), by the kind of the postings; derived from the ledger."""

    __tablename__ = "market_sums"

    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    month: Mapped[date] = mapped_column(Date, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    received_micro: Mapped[int] = mapped_column(BigInteger)
    paid_micro: Mapped[int] = mapped_column(BigInteger)
