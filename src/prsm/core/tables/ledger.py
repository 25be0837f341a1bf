"""Money. Rows that record it are only ever inserted; a trigger refuses anything else."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


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
    created_at: Mapped[datetime] = inserted_at()


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
    """One posting: the amount leaves ``debit_account_id`` and arrives at ``credit_account_id``.

    A leg of a capture names its hold; a refund names, as ``refund_of``, the hold whose capture it gives back.
    """

    __tablename__ = "ledger_transfers"
    __table_args__ = (
        CheckConstraint("amount_micro > 0", name="ledger_transfers_amount"),
        CheckConstraint(
            "debit_account_id <> credit_account_id or hold_id is not null", name="ledger_transfers_accounts"
        ),
        CheckConstraint("hold_id is null or refund_of is null", name="ledger_transfers_refund"),
        Index("ledger_transfers_refunds", "refund_of", postgresql_where=text("refund_of is not null")),
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
    refund_of: Mapped[UUID | None]


class ReceiptRow(Base):
    """A signed receipt, byte for byte as the caller got it."""

    __tablename__ = "receipts"
    __table_args__ = (Index("receipts_account", "account_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes]
    created_at: Mapped[datetime]
