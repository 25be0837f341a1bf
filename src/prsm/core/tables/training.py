"""Runs of the trainer and what they reported, evaluations, what gates decided, and people's preferences."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class TrainingRunRow(Base):
    """A run that a node was asked for: its recipe, who pays, where it stands, and what its folder said last.

    It is paid for in slices: ``slices`` counts them, ``slice_held_micro`` is held for the open one (0: none is open),
    which began when the run had used ``slice_cpu_ms``; ``capturing_micro`` is what that is being captured with.
    """

    __tablename__ = "training_runs"
    __table_args__ = (
        CheckConstraint("state in ('queued', 'running', 'done', 'failed', 'stopped')", name="training_runs_state"),
        CheckConstraint("kind in ('train', 'distil', 'evaluate', 'rlvr')", name="training_runs_kind"),
        CheckConstraint("charged_micro between 0 and budget_micro", name="training_runs_budget"),
        Index("training_runs_open", "node", "id", postgresql_where=text("state in ('queued', 'running')")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    node: Mapped[str]
    account: Mapped[str]
    api_key_id: Mapped[UUID | None]
    recipe: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'queued'"))
    wants_stop: Mapped[bool] = mapped_column(server_default=text("false"))
    reason: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = inserted_at()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    starts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    budget_micro: Mapped[int] = mapped_column(BigInteger)
    charged_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    slices: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    slice_held_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    slice_cpu_ms: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    slice_at: Mapped[datetime | None]
    capturing_micro: Mapped[int | None] = mapped_column(BigInteger)
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    report: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class TrainingReportRow(Base):
    """What a run reported at a step, as its folder has it."""

    __tablename__ = "training_reports"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    report: Mapped[dict[str, Any]]


class EvaluationRow(Base):
    """An evaluation of a version, byte for byte; its id is the SHA-256 of the body. Append-only by trigger."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("evaluations_version", "model", "version", "at"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[str]
    run_id: Mapped[UUID | None]
    by: Mapped[str]
    at: Mapped[datetime] = inserted_at()
    body: Mapped[bytes]


class GateDecisionRow(Base):
    """What a gate decided of a version, with all its evidence, and who overrode it. Append-only by trigger."""

    __tablename__ = "gate_decisions"
    __table_args__ = (Index("gate_decisions_version", "model", "version", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    model: Mapped[str]
    version: Mapped[str]
    against: Mapped[str]
    passed: Mapped[bool]
    decision: Mapped[dict[str, Any]]
    by: Mapped[str]
    override_reason: Mapped[str] = mapped_column(server_default=text("''"))
    at: Mapped[datetime] = inserted_at()


class PreferenceRow(Base):
    """Which of two answers a person preferred; theirs to take back."""

    __tablename__ = "preferences"
    __table_args__ = (Index("preferences_set", "collection", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    collection: Mapped[str]
    prompt: Mapped[str]
    chosen: Mapped[str]
    rejected: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()
