"""Registered models: versions, releases and their history."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("model_versions", "model_history")


def upgrade() -> None:
    op.create_table(
        "model_versions",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("owner_account", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("model", "version"),
        sa.UniqueConstraint("digest"),
    )
    _states()
    _releases()
    op.create_table(
        "model_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=False),
        sa.Column("after", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("model_history_model", "model_history", ["model", "id"])
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in ("model_history", "model_releases", "model_states", "model_versions"):
        op.drop_table(table)


def _states() -> None:
    op.create_table(
        "model_states",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("retire_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("limits", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint(
            "state in ('draft', 'candidate', 'live', 'deprecated', 'retired')", name="model_states_state"
        ),
        sa.CheckConstraint("retire_at is null or state = 'deprecated'", name="model_states_retire_at"),
        sa.ForeignKeyConstraint(["model", "version"], ["model_versions.model", "model_versions.version"]),
        sa.PrimaryKeyConstraint("model", "version"),
    )
    op.create_index(
        "model_states_candidate",
        "model_states",
        ["model"],
        unique=True,
        postgresql_where=sa.text("state = 'candidate'"),
    )
    op.create_index(
        "model_states_due", "model_states", ["retire_at"], postgresql_where=sa.text("retire_at is not null")
    )


def _releases() -> None:
    op.create_table(
        "model_releases",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("stable", sa.Text(), nullable=True),
        sa.Column("candidate", sa.Text(), nullable=True),
        sa.Column("candidate_bps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("shadow_bps", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("aliases", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("former", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint(
            "candidate_bps between 0 and 10000 and shadow_bps between 0 and 10000", name="release_shares"
        ),
        sa.CheckConstraint("candidate is not null or candidate_bps + shadow_bps = 0", name="release_candidate"),
        sa.ForeignKeyConstraint(["model", "stable"], ["model_versions.model", "model_versions.version"]),
        sa.ForeignKeyConstraint(["model", "candidate"], ["model_versions.model", "model_versions.version"]),
        sa.PrimaryKeyConstraint("model"),
    )
