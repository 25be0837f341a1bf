"""An instance names the model it serves, its licence, its region and the price of a cached input token."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TEXTS = ("model", "licence", "region")


def upgrade() -> None:
    for name in _TEXTS:
        op.add_column("models", sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column("models", sa.Column("cached_input_price_micro", sa.BigInteger(), nullable=True))
    op.create_check_constraint(
        "models_cached_price", "models", "cached_input_price_micro between 0 and input_price_micro"
    )
    op.create_index("ix_models_model", "models", ["model"])


def downgrade() -> None:
    op.drop_index("ix_models_model", "models")
    op.drop_constraint("models_cached_price", "models")
    for name in ("cached_input_price_micro", *_TEXTS):
        op.drop_column("models", name)
