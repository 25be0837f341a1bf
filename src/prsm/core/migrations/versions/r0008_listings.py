"""What sources of models list."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_PRICED = ("input", "output", "cached_input", "request")
_TEXTS = postgresql.ARRAY(sa.Text())


def _column(name: str, type_: Any, default: str | None = None, *, null: bool = False) -> Any:
    return sa.Column(name, type_, server_default=sa.text(default) if default else None, nullable=null)


def upgrade() -> None:
    op.create_table(
        "listing_sources",
        _column("name", sa.Text()),
        _column("kind", sa.Text()),
        _column("address", sa.Text()),
        _column("query", postgresql.JSONB(), "'{}'::jsonb"),
        _column("sealed_secret", sa.Text(), "''"),
        _column("every_s", sa.Integer()),
        _column("mark", sa.Text(), "''"),
        _column("last_read_at", _TIME, null=True),
        _column("last_failed_at", _TIME, null=True),
        _column("last_error", sa.Text(), "''"),
        _column("last_error_code", sa.Text(), "''"),
        _column("next_read_at", _TIME, "now()"),
        _column("left_out", sa.Integer(), "0"),
        _column("failures", sa.Integer(), "0"),
        _column("claim", sa.Uuid(), null=True),
        _column("claimed_until", _TIME, null=True),
        _column("removing", sa.Boolean(), "false"),
        _column("created_at", _TIME, "now()"),
        sa.PrimaryKeyConstraint("name"),
        sa.CheckConstraint("every_s > 0 and failures >= 0 and left_out >= 0", name="listing_sources_counts"),
        sa.CheckConstraint("(claim is null) = (claimed_until is null)", name="listing_sources_claim"),
    )
    op.create_table(
        "listings",
        _column("source", sa.Text()),
        _column("name", sa.Text()),
        _column("digest", sa.LargeBinary()),
        *(_column(name, sa.Text()) for name in ("title", "description")),
        *(_column(name, _TEXTS) for name in ("capabilities", "input_modalities", "output_modalities")),
        *(_column(name, sa.BigInteger(), null=True) for name in ("context_tokens", "max_output_tokens", "parameters")),
        _column("licence", sa.Text(), null=True),
        _column("gated", sa.Boolean(), null=True),
        _column("price_source", sa.Text(), null=True),
        _column("price_as_of", _TIME, null=True),
        _column("price_currency", sa.Text(), null=True),
        *(_column(f"{name}_price_nano", sa.BigInteger(), null=True) for name in _PRICED),
        _column("served_by", _TEXTS, null=True),
        _column("revision", sa.Text()),
        _column("updated_at", _TIME, null=True),
        *(_column(name, sa.Text()) for name in ("page_url", "name_key", "short_key")),
        _column("words", postgresql.TSVECTOR()),
        _column("first_seen_at", _TIME, "now()"),
        _column("last_seen_at", _TIME, "now()"),
        _column("stamp", sa.LargeBinary()),
        _column("removed_at", _TIME, null=True),
        _column("pending", sa.Boolean(), "true"),
        _column("indexed_by", sa.Text(), "''"),
        sa.PrimaryKeyConstraint("source", "name"),
        sa.ForeignKeyConstraint(["source"], ["listing_sources.name"]),
    )
    op.create_index("listings_name_key", "listings", ["name_key"])
    op.create_index("listings_short_key", "listings", ["short_key"], postgresql_ops={"short_key": "text_pattern_ops"})
    op.create_index(
        "listings_words", "listings", ["words"], postgresql_using="gin", postgresql_with={"fastupdate": "off"}
    )
    op.create_index("listings_pending", "listings", ["source", "name"], postgresql_where=sa.text("pending"))
    op.create_index("listings_removed", "listings", ["removed_at"], postgresql_where=sa.text("removed_at is not null"))


def downgrade() -> None:
    op.drop_table("listings")
    op.drop_table("listing_sources")
