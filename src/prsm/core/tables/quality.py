"""What is learnt of the quality of models: answers as they were observed, callers' verdicts, and the fitted state.

No text of a prompt or an answer stands here; a comment is what its caller wrote for the operator.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class QualityAnswerRow(Base):
    """One observed answer, kept while feedback on it may come. ``caller`` and ``prompt`` are keyed hashes.

    A row that is ``settled`` has been learnt from, as far as its caller says nothing explicit.
    """

    __tablename__ = "quality_answers"
    __table_args__ = (
        CheckConstraint("ended in ('whole', 'left', 'cut_off', 'error')", name="quality_answers_ended"),
        Index("quality_answers_prompt", "prompt", "asked_at"),
        Index("quality_answers_unsettled", "answered_at", postgresql_where=text("not settled")),
    )

    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    cluster: Mapped[int] = mapped_column(SmallInteger)
    difficulty: Mapped[float] = mapped_column(Double)
    discrimination: Mapped[float] = mapped_column(Double)
    caller: Mapped[int] = mapped_column(BigInteger)
    prompt: Mapped[bytes]
    asked_at: Mapped[datetime]
    answered_at: Mapped[datetime]
    ended: Mapped[str]
    settled: Mapped[bool] = mapped_column(server_default=text("false"))


class QualityFeedbackRow(Base):
    """What a caller said of one answer; ``pending`` until it has been learnt from. A later word replaces it.

    ``version`` is the one that its receipt names; empty where the instance named none.
    """

    __tablename__ = "quality_feedback"
    __table_args__ = (
        CheckConstraint("score between 0 and 1", name="quality_feedback_score"),
        Index("quality_feedback_pending", "updated_at", postgresql_where=text("pending")),
        Index("quality_feedback_model", "model", "created_at"),
    )

    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    model: Mapped[str]
    version: Mapped[str] = mapped_column(server_default=text("''"))
    score: Mapped[float] = mapped_column(Double)
    reason: Mapped[str | None]
    comment: Mapped[str] = mapped_column(server_default=text("''"))
    pending: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = inserted_at()
    updated_at: Mapped[datetime] = inserted_at()


class QualityStateRow(Base):
    """What was learnt up to a time, as one value; ``estimate`` is the SHA-256 of the difficulty estimate below it."""

    __tablename__ = "quality_states"

    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    estimate: Mapped[str]
    models: Mapped[list[str]]
    state: Mapped[bytes]
