"""The tables of the pgvector index."""

from alembic import op

from prsm.core.vectors.schema import DOWNGRADE_SQL, UPGRADE_SQL

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _each(UPGRADE_SQL)


def downgrade() -> None:
    _each(DOWNGRADE_SQL)


def _each(script: str) -> None:
    for statement in filter(str.strip, script.split(";")):
        op.execute(statement)
