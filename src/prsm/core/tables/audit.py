"""The audit log: what waits to be taken in, its entries, the tree over them, and what was signed of it.

Entries and checkpoints are only ever inserted; a trigger refuses anything else. No personal text stands here: a salted
digest commits to it, and is worth nothing once the salt of its subject is gone.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Identity, SmallInteger
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base


class AuditPendingRow(Base):
    """A change, written by a trigger in the transaction that made it, until the sequencer takes it into the log."""

    __tablename__ = "audit_pending"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    request: Mapped[str]
    what: Mapped[str]
    op: Mapped[str]
    rows: Mapped[Any] = mapped_column(JSONB)


class AuditEntryRow(Base):
    """An entry of the log, byte for byte as it was hashed; ``position`` counts from 0 without a gap."""

    __tablename__ = "audit_entries"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    body: Mapped[bytes]


class AuditTileRow(Base):
    """Up to 256 hashes of one level of the tree, one after the other (C2SP tlog-tiles)."""

    __tablename__ = "audit_tiles"

    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hashes: Mapped[bytes]


class AuditCheckpointRow(Base):
    """A signed checkpoint: the tree over the first ``size`` entries."""

    __tablename__ = "audit_checkpoints"

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str]


class AuditHeadRow(Base):
    """One row: the sequencer. Who locks it may append; the ledger is in the log up to ``ledger_position``."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="audit_head_single"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    ledger_position: Mapped[int] = mapped_column(BigInteger)


class AuditTableRow(Base):
    """A table whose changes go into the log: its key, and the rules by which its columns go in (``audit_form``)."""

    __tablename__ = "audit_tables"

    name: Mapped[str] = mapped_column(primary_key=True)
    key_columns: Mapped[list[str]]
    rules: Mapped[list[str]]


class SubjectSaltRow(Base):
    """What a subject's personal fields are digested with; deleted when the subject is erased."""

    __tablename__ = "subject_salts"

    subject_id: Mapped[UUID] = mapped_column(primary_key=True)
    salt: Mapped[bytes]
