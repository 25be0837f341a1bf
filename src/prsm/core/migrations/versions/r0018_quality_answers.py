"""An observed answer says how it ended and nothing else: comparisons of two answers are counted in trials alone."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_ENDED = "ended in ('whole', 'left', 'cut_off', 'error')"
_ENDED_BEFORE = "ended in ('whole', 'left', 'cut_off', 'error', 'judged')"


def upgrade() -> None:
    op.execute("DELETE FROM quality_answers WHERE ended = 'judged'")
    op.drop_column("quality_answers", "success")  # with its check
    op.drop_constraint("quality_answers_ended", "quality_answers")
    op.create_check_constraint("quality_answers_ended", "quality_answers", _ENDED)


def downgrade() -> None:
    op.drop_constraint("quality_answers_ended", "quality_answers")
    op.create_check_constraint("quality_answers_ended", "quality_answers", _ENDED_BEFORE)
    op.add_column("quality_answers", sa.Column("success", sa.Double(), nullable=True))
    op.create_check_constraint(
        "quality_answers_success", "quality_answers", "(ended = 'judged') = (success is not null)"
    )
