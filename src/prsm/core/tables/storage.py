"""What is stored, where its blocks lie, and what keeps it."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from prsm.core.tables.declared import Base, inserted_at


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
    created_at: Mapped[datetime] = inserted_at()
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
    __table_args__ = (Index("storage_pins_of_name", "name", "cid"),)

    cid: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = inserted_at()


class StorageTotalRow(Base):
    """The most that the pins of one name can keep: never less than they do.

    Where it is too much, or there is none, all of them are counted.
    """

    __tablename__ = "storage_totals"

    name: Mapped[str] = mapped_column(primary_key=True)
    most_bytes: Mapped[int] = mapped_column(BigInteger)


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
    created_at: Mapped[datetime] = inserted_at()
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class StorageProvenanceRow(Base):
    """A signed statement about an object, byte for byte; ``digest`` is the sha2-256 of the envelope."""

    __tablename__ = "storage_provenance"

    cid: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    envelope: Mapped[bytes]
    publisher: Mapped[str] = mapped_column(index=True)
    at: Mapped[datetime]
