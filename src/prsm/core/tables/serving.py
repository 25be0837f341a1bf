"""Providers, and the models that can be asked there."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Integer,
    func,
)
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class ProviderRow(Base):
    """Where models are reached; the provider's secret is sealed with a key derived from the node key."""

    __tablename__ = "providers"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    base_url: Mapped[str]
    sealed_key: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()


class ModelRow(Base):
    """A model that can be asked: what it can do, what it costs, who earns by it."""

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("input_price_micro >= 0 and output_price_micro >= 0", name="models_prices"),
        CheckConstraint("context_tokens > 0 and max_output_tokens > 0", name="models_limits"),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(ForeignKey("providers.name"), index=True)
    upstream_name: Mapped[str]
    capabilities: Mapped[list[str]]
    domain: Mapped[str | None]
    context_tokens: Mapped[int] = mapped_column(Integer)
    max_output_tokens: Mapped[int] = mapped_column(Integer)
    input_price_micro: Mapped[int] = mapped_column(BigInteger)
    output_price_micro: Mapped[int] = mapped_column(BigInteger)
    description: Mapped[str]
    version: Mapped[str]
    cid: Mapped[str]
    owner_account: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
