"""What the pins of one name keep at most is noted, so that one pin more costs what it brings and not what there is."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "storage_totals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("most_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("storage_pins_of_name", "storage_pins", ["name", "cid"])


def downgrade() -> None:
    op.drop_index("storage_pins_of_name", "storage_pins")
    op.drop_table("storage_totals")
