"""Trials of a candidate version against the stable one, and what was counted in them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Float, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class RolloutTrialRow(Base):
    """One trial; a model has at most one that is not ended."""

    __tablename__ = "rollout_trials"
    __table_args__ = (Index("rollout_trials_open", "model", unique=True, postgresql_where=text("ended_at is null")),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    stable: Mapped[str]
    candidate: Mapped[str]
    limits: Mapped[dict[str, Any]]
    started_at: Mapped[datetime] = inserted_at()
    ended_at: Mapped[datetime | None]
    reason: Mapped[str] = mapped_column(server_default=text("''"))


class RolloutCountRow(Base):
    """``count`` observations of one metric in one arm; each is between 0 and 1 and they sum to ``total``."""

    __tablename__ = "rollout_counts"
    __table_args__ = (
        CheckConstraint("arm in ('stable', 'candidate', 'shadow')", name="rollout_counts_arm"),
        CheckConstraint("metric in ('error', 'slow', 'preferred')", name="rollout_counts_metric"),
        CheckConstraint("total between 0 and count", name="rollout_counts_total"),
    )

    trial_id: Mapped[UUID] = mapped_column(ForeignKey("rollout_trials.id", ondelete="CASCADE"), primary_key=True)
    arm: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[float] = mapped_column(Float(53))
