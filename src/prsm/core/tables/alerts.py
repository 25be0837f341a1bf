"""Alerts that fired, what people did about them, and silences."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Float, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class AlertRow(Base):
    """One alert of a node from its firing on; ``acked_by`` looks after it. Written by the worker that evaluates."""

    __tablename__ = "alerts"
    __table_args__ = (
        CheckConstraint("severity in ('page', 'ticket')", name="alerts_severity"),
        Index("alerts_open", "node", "key", unique=True, postgresql_where=text("resolved_at is null")),
        Index("alerts_fired", "node", "fired_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    node: Mapped[str]
    key: Mapped[str]
    rule: Mapped[str]
    severity: Mapped[str]
    labels: Mapped[dict[str, Any]]
    summary: Mapped[str]
    value: Mapped[float] = mapped_column(Float)
    since: Mapped[datetime]
    fired_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    told_at: Mapped[datetime | None]
    escalated_at: Mapped[datetime | None]
    acked_by: Mapped[str] = mapped_column(server_default=text("''"))
    acked_at: Mapped[datetime | None]
    ack_note: Mapped[str] = mapped_column(server_default=text("''"))


class AlertSilenceRow(Base):
    """Nobody is told of alerts of a rule (empty: any) with these labels, until then; who said so, and why."""

    __tablename__ = "alert_silences"
    __table_args__ = (Index("alert_silences_until", "node", "until"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    node: Mapped[str]
    rule: Mapped[str]
    labels: Mapped[dict[str, Any]]
    by: Mapped[str]
    reason: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()
    until: Mapped[datetime]
