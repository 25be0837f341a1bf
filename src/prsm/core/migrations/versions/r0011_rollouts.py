"""Trials of one version against another."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollout_trials",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("stable", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("limits", postgresql.JSONB(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_rollout_trials_model", "rollout_trials", ["model"])
    op.create_index(
        "rollout_trials_open", "rollout_trials", ["model"], unique=True, postgresql_where=sa.text("ended_at is null")
    )
    op.create_table(
        "rollout_counts",
        sa.Column("trial_id", sa.Uuid(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Float(53), nullable=False),
        sa.CheckConstraint("arm in ('stable', 'candidate', 'shadow')", name="rollout_counts_arm"),
        sa.CheckConstraint("metric in ('error', 'slow')", name="rollout_counts_metric"),
        sa.CheckConstraint("total between 0 and count", name="rollout_counts_total"),
        sa.ForeignKeyConstraint(["trial_id"], ["rollout_trials.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "arm", "metric"),
    )


def downgrade() -> None:
    op.drop_table("rollout_counts")
    op.drop_table("rollout_trials")
