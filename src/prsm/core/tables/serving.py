"""Providers, and the models that can be asked there."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Integer,
    func,
    text,
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
    """An instance: a model as one provider serves it, what it can do there, what it costs, who earns by it.

    ``model`` is the registered model it is an instance of, or empty. A cached input token without a price of its own
    costs what any input token costs.
    """

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("input_price_micro >= 0 and output_price_micro >= 0", name="models_prices"),
        CheckConstraint("cached_input_price_micro between 0 and input_price_micro", name="models_cached_price"),
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
    model: Mapped[str] = mapped_column(server_default=text("''"), index=True)
    licence: Mapped[str] = mapped_column(server_default=text("''"))
    region: Mapped[str] = mapped_column(server_default=text("''"))
    cached_input_price_micro: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = inserted_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
