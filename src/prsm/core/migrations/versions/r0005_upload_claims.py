"""Uploads count failures apart from claims: a node that stops is no failed attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Whoever holds a claim now knows it by the number of attempts, which began with it.
    op.add_column("storage_uploads", sa.Column("claims", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("UPDATE storage_uploads SET claims = attempts")


def downgrade() -> None:
    op.execute("UPDATE storage_uploads SET attempts = claims")
    op.drop_column("storage_uploads", "claims")
