"""What the room of safety keeps: policies, what they met, how suspicious a caller is, breakers that have tripped."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Double, Identity, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class SafetyPolicyRow(Base):
    """A policy as it was written. ``scope``: ``node``, ``key:UUID`` or ``model:NAME``; of each the latest row counts,
    and one without a policy takes it away.
    """

    __tablename__ = "safety_policies"
    __table_args__ = (Index("safety_policies_scope", "scope", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    scope: Mapped[str]
    policy: Mapped[dict[str, Any] | None]
    by: Mapped[str]
    reason: Mapped[str]
    at: Mapped[datetime] = inserted_at()


class SafetyIncidentRow(Base):
    """Texts that were blocked or let through to be looked at later. ``texts`` are sealed, NULL once they are erased.

    ``open`` waits for a reviewer: by the policy, or because the caller appealed.
    """

    __tablename__ = "safety_incidents"
    __table_args__ = (
        CheckConstraint("direction in ('input', 'output')", name="safety_incidents_direction"),
        CheckConstraint("status in ('recorded', 'open', 'upheld', 'overturned')", name="safety_incidents_status"),
        Index("safety_incidents_account", "account", "created_at"),
        Index("safety_incidents_open", "created_at", postgresql_where=text("status = 'open'")),
        Index("safety_incidents_request", "request_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID]
    account: Mapped[str]
    model: Mapped[str]
    direction: Mapped[str]
    action: Mapped[str]
    findings: Mapped[list[dict[str, Any]]]
    texts: Mapped[str | None]
    status: Mapped[str]
    appeal: Mapped[str] = mapped_column(server_default=text("''"))
    decided_by: Mapped[str] = mapped_column(server_default=text("''"))
    note: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = inserted_at()
    decided_at: Mapped[datetime | None]


class SafetyThreatRow(Base):
    """How suspicious an account is: a score that halves with time, and what it has led to."""

    __tablename__ = "safety_threats"

    account: Mapped[str] = mapped_column(primary_key=True)
    score: Mapped[float] = mapped_column(Double)
    at: Mapped[datetime]
    throttled_until: Mapped[datetime | None]
    suspended_until: Mapped[datetime | None]
    suspensions: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    reason: Mapped[str] = mapped_column(server_default=text("''"))


class BreakerRow(Base):
    """A circuit breaker that is not closed. ``opened`` counts its openings in a row; a ``held`` one waits for a reset.

    ``worker`` opened it and is the one that probes until ``open_until`` has passed by some.
    """

    __tablename__ = "breakers"
    __table_args__ = (CheckConstraint("held or open_until is not null", name="breakers_until"),)

    board: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    held: Mapped[bool]
    open_until: Mapped[datetime | None]
    opened: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str]
    by: Mapped[str]
    worker: Mapped[UUID]
    at: Mapped[datetime]
