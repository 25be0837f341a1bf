"""What is learnt of the quality of models."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quality_answers",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("cluster", sa.SmallInteger(), nullable=False),
        sa.Column("difficulty", sa.Float(53), nullable=False),
        sa.Column("discrimination", sa.Float(53), nullable=False),
        sa.Column("caller", sa.BigInteger(), nullable=False),
        sa.Column("prompt", sa.LargeBinary(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.Text(), nullable=False),
        sa.Column("success", sa.Float(53), nullable=True),
        sa.Column("settled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("ended in ('whole', 'left', 'cut_off', 'error', 'judged')", name="quality_answers_ended"),
        sa.CheckConstraint("(ended = 'judged') = (success is not null)", name="quality_answers_success"),
        sa.PrimaryKeyConstraint("request_id", "model"),
    )
    op.create_index("quality_answers_prompt", "quality_answers", ["prompt", "asked_at"])
    op.create_index(
        "quality_answers_unsettled", "quality_answers", ["answered_at"], postgresql_where=sa.text("not settled")
    )
    op.create_table(
        "quality_feedback",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("pending", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("score between 0 and 1", name="quality_feedback_score"),
        sa.ForeignKeyConstraint(["principal_id"], ["principals.id"]),
        sa.PrimaryKeyConstraint("request_id"),
    )
    op.create_index("ix_quality_feedback_principal_id", "quality_feedback", ["principal_id"])
    op.create_index("quality_feedback_pending", "quality_feedback", ["updated_at"], postgresql_where=sa.text("pending"))
    op.create_table(
        "quality_states",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("estimate", sa.Text(), nullable=False),
        sa.Column("models", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )


def downgrade() -> None:
    for name in ("quality_states", "quality_feedback", "quality_answers"):
        op.drop_table(name)
