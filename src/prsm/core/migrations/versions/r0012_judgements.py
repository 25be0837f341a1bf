"""Ratings know the version that gave the answer; a judge's comparisons are counted in trials."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
_METRIC = "rollout_counts_metric"


def upgrade() -> None:
    op.add_column("quality_feedback", sa.Column("version", sa.Text(), server_default=sa.text("''"), nullable=False))
    op.create_index("quality_feedback_model", "quality_feedback", ["model", "created_at"])
    op.drop_constraint(_METRIC, "rollout_counts")
    op.create_check_constraint(_METRIC, "rollout_counts", "metric in ('error', 'slow', 'preferred')")


def downgrade() -> None:
    op.execute("DELETE FROM rollout_counts WHERE metric = 'preferred'")
    op.drop_constraint(_METRIC, "rollout_counts")
    op.create_check_constraint(_METRIC, "rollout_counts", "metric in ('error', 'slow')")
    op.drop_index("quality_feedback_model", "quality_feedback")
    op.drop_column("quality_feedback", "version")
