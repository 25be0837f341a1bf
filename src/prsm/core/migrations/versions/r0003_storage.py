"""The catalog of stored objects."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = (
    "storage_provenance",
    "storage_uploads",
    "storage_ghosts",
    "storage_leases",
    "storage_pins",
    "storage_links",
    "storage_blocks",
    "storage_objects",
)


def upgrade() -> None:
    _objects()
    op.create_table(
        "storage_blocks",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("object_id", sa.BigInteger(), nullable=False),
        sa.Column("home", sa.SmallInteger(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["object_id"], ["storage_objects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", "object_id"),
    )
    op.create_index("ix_storage_blocks_object_id", "storage_blocks", ["object_id"])
    op.create_table(
        "storage_links",
        sa.Column("parent_id", sa.BigInteger(), nullable=False),
        sa.Column("child_cid", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["storage_objects.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("parent_id", "child_cid"),
    )
    op.create_index("ix_storage_links_child_cid", "storage_links", ["child_cid"])
    op.create_table(
        "storage_pins",
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("cid", "name"),
    )
    op.create_table(
        "storage_leases",
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cid", "holder"),
    )
    op.create_table(
        "storage_ghosts",
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("cid"),
    )
    _uploads()
    op.create_table(
        "storage_provenance",
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.Column("publisher", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cid", "digest"),
    )
    op.create_index("ix_storage_provenance_publisher", "storage_provenance", ["publisher"])


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)


def _objects() -> None:
    op.create_table(
        "storage_objects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("dag_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("reads", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        _time("created_at"),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_read_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind in ('file', 'directory')", name="storage_objects_kind"),
        sa.CheckConstraint("state in ('whole', 'damaged', 'missing')", name="storage_objects_state"),
        sa.CheckConstraint("queue in ('small', 'main')", name="storage_objects_queue"),
        sa.CheckConstraint("reads between 0 and 3", name="storage_objects_reads"),
        sa.CheckConstraint("size_bytes >= 0 and dag_bytes >= 0 and stored_bytes >= 0", name="storage_objects_sizes"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("cid"),
    )


def _uploads() -> None:
    op.create_table(
        "storage_uploads",
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("next_try_at"),
        sa.Column("last_error", sa.Text(), server_default=sa.text("''"), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.CheckConstraint("state in ('waiting', 'running', 'done', 'failed')", name="storage_uploads_state"),
        sa.PrimaryKeyConstraint("cid", "node"),
    )
    op.create_index(
        "storage_uploads_due",
        "storage_uploads",
        ["next_try_at"],
        postgresql_where=sa.text("state in ('waiting', 'running')"),
    )


def _time(name: str) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
