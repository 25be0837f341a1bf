"""The tables, declared once: Alembic migrates to them and a drift check holds the two together.

Rows that record money (``ledger_holds``, ``ledger_resolutions``, ``ledger_transfers``, ``receipts``) are only
ever inserted; a trigger refuses anything else. The set-based functions over them stand in the migrations.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables; column types that Python types stand for are given once here."""

    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy from the class
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        list[str]: ARRAY(Text),
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
    }


def _created_at() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class PrincipalRow(Base):
    """Who may own keys and money: a person, a team or a service."""

    __tablename__ = "principals"
    __table_args__ = (CheckConstraint("role in ('user', 'admin')", name="principals_role"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime] = _created_at()
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
    created_at: Mapped[datetime] = _created_at()
    last_used_at: Mapped[datetime | None]


class LedgerAccountRow(Base):
    """A balance. ``issuance`` alone may go below zero: its debt is all the FTNS in circulation."""

    __tablename__ = "ledger_accounts"
    __table_args__ = (
        CheckConstraint("held_micro >= 0", name="ledger_accounts_held"),
        CheckConstraint("allow_negative or balance_micro - held_micro >= 0", name="ledger_accounts_available"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    allow_negative: Mapped[bool] = mapped_column(server_default=text("false"))
    balance_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    held_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    created_at: Mapped[datetime] = _created_at()


class LedgerBudgetRow(Base):
    """What one API key may spend in all, and what it has spent and holds; every key has a row, capped or not."""

    __tablename__ = "ledger_budgets"
    __table_args__ = (
        CheckConstraint("held_micro >= 0 and spent_micro >= 0", name="ledger_budgets_signs"),
        CheckConstraint("cap_micro is null or cap_micro >= 0", name="ledger_budgets_cap"),
    )

    api_key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    cap_micro: Mapped[int | None] = mapped_column(BigInteger)
    spent_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    held_micro: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class LedgerHeadRow(Base):
    """One row: the sequencer. Who locks it may write the ledger; ``position`` counts without a gap."""

    __tablename__ = "ledger_head"
    __table_args__ = (CheckConstraint("id = 1", name="ledger_head_single"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger)
    swept_until: Mapped[datetime]


class LedgerHoldRow(Base):
    """Money set aside for one request; ``id`` is the request's id."""

    __tablename__ = "ledger_holds"
    __table_args__ = (CheckConstraint("amount_micro >= 0", name="ledger_holds_amount"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, unique=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    api_key_id: Mapped[UUID | None]
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime]


class LedgerResolutionRow(Base):
    """How a hold ended: 1 captured, 2 released, 3 expired. The primary key lets each hold end once."""

    __tablename__ = "ledger_resolutions"
    __table_args__ = (
        CheckConstraint("kind in (1, 2, 3)", name="ledger_resolutions_kind"),
        CheckConstraint("captured_micro >= 0 and (kind = 1 or captured_micro = 0)", name="ledger_resolutions_amount"),
    )

    hold_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, unique=True)
    kind: Mapped[int] = mapped_column(SmallInteger)
    captured_micro: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class LedgerTransferRow(Base):
    """One posting: the amount leaves ``debit_account_id`` and arrives at ``credit_account_id``."""

    __tablename__ = "ledger_transfers"
    __table_args__ = (
        CheckConstraint("amount_micro > 0", name="ledger_transfers_amount"),
        CheckConstraint(
            "debit_account_id <> credit_account_id or hold_id is not null", name="ledger_transfers_accounts"
        ),
        Index("ledger_transfers_id", "id", unique=True, postgresql_where=text("id is not null")),
        Index("ledger_transfers_credit", "credit_account_id", "position"),
    )

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[UUID | None]
    hold_id: Mapped[UUID | None]
    debit_account_id: Mapped[int] = mapped_column(BigInteger)
    credit_account_id: Mapped[int] = mapped_column(BigInteger)
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    created_at: Mapped[datetime]


class ReceiptRow(Base):
    """A signed receipt, byte for byte as the caller got it."""

    __tablename__ = "receipts"
    __table_args__ = (Index("receipts_account", "account_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes]
    created_at: Mapped[datetime]


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


class ProviderRow(Base):
    """Where models are reached; the provider's secret is sealed with a key derived from the node key."""

    __tablename__ = "providers"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    base_url: Mapped[str]
    sealed_key: Mapped[str]
    created_at: Mapped[datetime] = _created_at()


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
    created_at: Mapped[datetime] = _created_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ConversationRow(Base):
    """A session a client may continue by id; ``turns`` counts the turns kept."""

    __tablename__ = "conversations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    principal_id: Mapped[UUID] = mapped_column(ForeignKey("principals.id"), index=True)
    turns: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[datetime] = _created_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ConversationTurnRow(Base):
    """What one request added to a conversation: the new messages of the caller and the answer."""

    __tablename__ = "conversation_turns"

    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    request_id: Mapped[UUID] = mapped_column(unique=True)
    # Not jsonb, which cannot hold the NUL that a model may say.
    messages: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    created_at: Mapped[datetime] = _created_at()


class OutboxRow(Base):
    """An event written in the transaction that caused it, published afterwards at least once, in order."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_unpublished", "id", postgresql_where=text("published_at is null")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _created_at()
    published_at: Mapped[datetime | None]


class StorageObjectRow(Base):
    """A file or directory that this node stores; its bytes are on the disk under its CID.

    ``queue``, ``place`` and ``reads`` are the cache's state (S3-FIFO); ``stored_bytes`` is what the disk gives for it.
    """

    __tablename__ = "storage_objects"
    __table_args__ = (
        CheckConstraint("kind in ('file', 'directory')", name="storage_objects_kind"),
        CheckConstraint("state in ('whole', 'damaged', 'missing')", name="storage_objects_state"),
        CheckConstraint("queue in ('small', 'main')", name="storage_objects_queue"),
        CheckConstraint("reads between 0 and 3", name="storage_objects_reads"),
        CheckConstraint("size_bytes >= 0 and dag_bytes >= 0 and stored_bytes >= 0", name="storage_objects_sizes"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    cid: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    profile: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    dag_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    queue: Mapped[str]
    place: Mapped[int] = mapped_column(BigInteger)
    reads: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    created_at: Mapped[datetime] = _created_at()
    verified_at: Mapped[datetime | None]
    last_read_at: Mapped[datetime | None]


class StorageBlockRow(Base):
    """Where a block lies within an object, found by the digest of its CID. ``home`` is ``object_index.Home``."""

    __tablename__ = "storage_blocks"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    object_id: Mapped[int] = mapped_column(
        ForeignKey("storage_objects.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    home: Mapped[int] = mapped_column(SmallInteger)
    offset_bytes: Mapped[int] = mapped_column(BigInteger)
    size_bytes: Mapped[int] = mapped_column(Integer)


class StorageLinkRow(Base):
    """An entry of a stored directory; its child may be stored or not."""

    __tablename__ = "storage_links"

    parent_id: Mapped[int] = mapped_column(ForeignKey("storage_objects.id", ondelete="CASCADE"), primary_key=True)
    child_cid: Mapped[str] = mapped_column(primary_key=True, index=True)


class StoragePinRow(Base):
    """Keeps an object, and all under it, until it is taken away; one object may be pinned under several names."""

    __tablename__ = "storage_pins"

    cid: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _created_at()


class StorageLeaseRow(Base):
    """Keeps an object while ``holder`` uses it, and ends by itself."""

    __tablename__ = "storage_leases"

    cid: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str] = mapped_column(primary_key=True)
    until: Mapped[datetime]


class StorageGhostRow(Base):
    """An object that was evicted lately: if it comes back, it is worth more (S3-FIFO's ghost queue)."""

    __tablename__ = "storage_ghosts"

    cid: Mapped[str] = mapped_column(primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[int] = mapped_column(BigInteger)


class StorageUploadRow(Base):
    """An object on its way to a node; ``next_try_at`` of a running one is when it counts as given up.

    ``attempts`` have failed; ``claims`` is the number of the claim that holds it, or held it last.
    """

    __tablename__ = "storage_uploads"
    __table_args__ = (
        CheckConstraint("state in ('waiting', 'running', 'done', 'failed')", name="storage_uploads_state"),
        Index("storage_uploads_due", "next_try_at", postgresql_where=text("state in ('waiting', 'running')")),
    )

    cid: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    claims: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_try_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_error: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = _created_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class StorageProvenanceRow(Base):
    """A signed statement about an object, byte for byte; ``digest`` is the sha2-256 of the envelope."""

    __tablename__ = "storage_provenance"

    cid: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    envelope: Mapped[bytes]
    publisher: Mapped[str] = mapped_column(index=True)
    at: Mapped[datetime]
