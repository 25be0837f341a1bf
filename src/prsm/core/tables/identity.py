"""Who may ask, what callers said before, and what is still to be published."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


class PrincipalRow(Base):
    """Who may own keys and money: a person, a team or a service."""

    __tablename__ = "principals"
    __table_args__ = (CheckConstraint("role in ('user', 'admin')", name="principals_role"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime] = inserted_at()
    disabled_at: Mapped[datetime | None]


class ApiKeyRow(Base):
    """An API key: its secret is kept only as a keyed hash."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    prefix: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[bytes]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    rate_limit_per_minute: Mapped[int | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = inserted_at()
    last_used_at: Mapped[datetime | None]


class IdempotencyRow(Base):
    """A caller's Idempotency-Key: which request it named, and that request's answer once there is one."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        Index("idempotency_keys_request", "request_id"),
        Index("idempotency_keys_created", "created_at"),
    )

    api_key_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[UUID]
    request_digest: Mapped[bytes]
    answer: Mapped[bytes | None]
    created_at: Mapped[datetime]


class ConversationRow(Base):
    """A session a client may continue by id; ``turns`` counts the turns kept."""

    __tablename__ = "conversations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    turns: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[datetime] = inserted_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ConversationTurnRow(Base):
    """What one request added to a conversation: the new messages of the caller and the answer."""

    __tablename__ = "conversation_turns"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    request_id: Mapped[UUID] = mapped_column(unique=True)
    # Not jsonb, which cannot hold the NUL that a model may say.
    messages: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = inserted_at()


class OutboxRow(Base):
    """An event written in the transaction that caused it, published afterwards at least once, in order."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_unpublished", "id", postgresql_where=text("published_at is null")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = inserted_at()
    published_at: Mapped[datetime | None]
