"""Sources of models, and what they list: a fact that a source does not state is NULL, never a default."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class ListingSourceRow(Base):
    """A place that lists models, how its last reading went, and who reads it now.

    ``query`` is what of it is listed, in its own terms; ``mark`` is what it gave for the next reading. ``claim``
    fences: who writes holds it, in the same transaction. A source that is ``removing`` goes when its listings have gone
    from the index.
    """

    __tablename__ = "listing_sources"
    __table_args__ = (
        CheckConstraint("every_s > 0 and failures >= 0 and left_out >= 0", name="listing_sources_counts"),
        CheckConstraint("(claim is null) = (claimed_until is null)", name="listing_sources_claim"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    address: Mapped[str]
    query: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    sealed_secret: Mapped[str] = mapped_column(server_default=text("''"))
    every_s: Mapped[int] = mapped_column(Integer)
    mark: Mapped[str] = mapped_column(server_default=text("''"))
    last_read_at: Mapped[datetime | None]
    last_failed_at: Mapped[datetime | None]
    last_error: Mapped[str] = mapped_column(server_default=text("''"))
    last_error_code: Mapped[str] = mapped_column(server_default=text("''"))
    next_read_at: Mapped[datetime] = inserted_at()
    left_out: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    claim: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    removing: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = inserted_at()


class ListingRow(Base):
    """A model as one source lists it, or listed it until ``removed_at``.

    Prices are billionths of ``price_currency`` per million tokens, as ``price_source`` said at ``price_as_of``.
    ``digest`` is that of all that is listed. ``name_key`` and ``short_key`` are the name and its last part as they are
    compared, ``words`` is what is found by words. ``stamp`` is the digest of what belongs into the vector index;
    ``pending``: it must still be told; ``indexed_by`` is the encoder whose vector is there.
    """

    __tablename__ = "listings"
    __table_args__ = (
        Index("listings_name_key", "name_key"),
        Index("listings_short_key", "short_key", postgresql_ops={"short_key": "text_pattern_ops"}),
        Index("listings_words", "words", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
        Index("listings_pending", "source", "name", postgresql_where=text("pending")),
        Index("listings_removed", "removed_at", postgresql_where=text("removed_at is not null")),
    )

    source: Mapped[str] = mapped_column(ForeignKey("listing_sources.name"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    title: Mapped[str]
    description: Mapped[str]
    capabilities: Mapped[list[str]]
    input_modalities: Mapped[list[str]]
    output_modalities: Mapped[list[str]]
    context_tokens: Mapped[int | None] = mapped_column(BigInteger)
    max_output_tokens: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    licence: Mapped[str | None]
    gated: Mapped[bool | None]
    price_source: Mapped[str | None]
    price_as_of: Mapped[datetime | None]
    price_currency: Mapped[str | None]
    input_price_nano: Mapped[int | None] = mapped_column(BigInteger)
    output_price_nano: Mapped[int | None] = mapped_column(BigInteger)
    cached_input_price_nano: Mapped[int | None] = mapped_column(BigInteger)
    request_price_nano: Mapped[int | None] = mapped_column(BigInteger)
    served_by: Mapped[list[str] | None]
    revision: Mapped[str]
    updated_at: Mapped[datetime | None]
    page_url: Mapped[str]
    name_key: Mapped[str]
    short_key: Mapped[str]
    words: Mapped[Any] = mapped_column(TSVECTOR)
    first_seen_at: Mapped[datetime] = inserted_at()
    last_seen_at: Mapped[datetime] = inserted_at()
    stamp: Mapped[bytes]
    removed_at: Mapped[datetime | None]
    pending: Mapped[bool] = mapped_column(server_default=text("true"))
    indexed_by: Mapped[str] = mapped_column(server_default=text("''"))
