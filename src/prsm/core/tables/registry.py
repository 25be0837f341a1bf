"""Registered models: their versions, what became of each, what their names mean now, and every change of that."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class ModelVersionRow(Base):
    """A publisher's statement about a version, byte for byte as it was signed; append-only by trigger."""

    __tablename__ = "model_versions"

    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)
    statement: Mapped[bytes]
    signature: Mapped[str]
    owner_account: Mapped[str]
    registered_at: Mapped[datetime] = inserted_at()


class ModelStateRow(Base):
    """Where a version stands in its life; ``limits`` are those it is deprecated for breaking."""

    __tablename__ = "model_states"
    __table_args__ = (
        CheckConstraint("state in ('draft', 'candidate', 'live', 'deprecated', 'retired')", name="model_states_state"),
        CheckConstraint("retire_at is null or state = 'deprecated'", name="model_states_retire_at"),
        ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
        Index("model_states_candidate", "model", unique=True, postgresql_where=text("state = 'candidate'")),
        Index("model_states_due", "retire_at", postgresql_where=text("retire_at is not null")),
    )

    model: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    since: Mapped[datetime]
    reason: Mapped[str]
    retire_at: Mapped[datetime | None]
    limits: Mapped[dict[str, Any]]


class ModelReleaseRow(Base):
    """What a model's names mean: its stable version, its candidate with its shares, other aliases, the former ones.

    Who changes anything of a model locks this row first.
    """

    __tablename__ = "model_releases"
    __table_args__ = (
        CheckConstraint("candidate_bps between 0 and 10000 and shadow_bps between 0 and 10000", name="release_shares"),
        CheckConstraint("candidate is not null or candidate_bps + shadow_bps = 0", name="release_candidate"),
        ForeignKeyConstraint(["model", "stable"], ["model_versions.model", "model_versions.version"]),
        ForeignKeyConstraint(["model", "candidate"], ["model_versions.model", "model_versions.version"]),
    )

    model: Mapped[str] = mapped_column(primary_key=True)
    stable: Mapped[str | None]
    candidate: Mapped[str | None]
    candidate_bps: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    shadow_bps: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    aliases: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    former: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))


class ModelHistoryRow(Base):
    """A change of a model: who made it, when and why, what was before and after; append-only by trigger."""

    __tablename__ = "model_history"
    __table_args__ = (Index("model_history_model", "model", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model: Mapped[str]
    version: Mapped[str]
    action: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime]
    reason: Mapped[str]
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
