"""Offers, posted prices, quotes, refunds, and the sums of statements; a posting can name the request it gives back."""

from importlib import resources

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("market_offer_revisions", "market_prices", "market_refunds", "market_refund_decisions")


def upgrade() -> None:
    op.add_column("ledger_transfers", sa.Column("refund_of", sa.Uuid(), nullable=True))
    op.create_check_constraint("ledger_transfers_refund", "ledger_transfers", "hold_id is null or refund_of is null")
    op.create_index(
        "ledger_transfers_refunds", "ledger_transfers", ["refund_of"], postgresql_where=sa.text("refund_of is not null")
    )
    script = resources.files("prsm.core.migrations").joinpath("ledger_refund.sql").read_text()
    op.get_bind().exec_driver_sql(script)
    # The operator of a home from before the market goes on doing what an operator may.
    op.execute("UPDATE api_keys SET scopes = array_append(scopes, 'market') WHERE 'admin' = ANY (scopes)")
    _offers()
    _quotes()
    _refunds()
    _sums()
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    op.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'market')")
    for table in (
        "market_sums",
        "market_sum_head",
        "market_refunds_owed",
        "market_refund_decisions",
        "market_refunds",
        "market_quotes",
        "market_usage",
        "market_prices",
        "market_offer_revisions",
        "market_offers",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION ledger_refund")
    op.drop_index("ledger_transfers_refunds", "ledger_transfers")
    op.drop_constraint("ledger_transfers_refund", "ledger_transfers")
    op.drop_column("ledger_transfers", "refund_of")


def _offers() -> None:
    op.create_table(
        "market_offers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("owner_account", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("terms", postgresql.JSONB(), nullable=False),
        *_prices(),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        _created_at(),
        sa.CheckConstraint("state in ('open', 'paused', 'withdrawn')", name="market_offers_state"),
        sa.CheckConstraint("input_price_micro >= 0 and output_price_micro >= 0", name="market_offers_prices"),
        sa.CheckConstraint(
            "cached_input_price_micro between 0 and input_price_micro", name="market_offers_cached_price"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "market_offers_live", "market_offers", ["instance"], unique=True,
        postgresql_where=sa.text("state <> 'withdrawn'"),
    )  # fmt: skip
    op.create_table(
        "market_offer_revisions",
        sa.Column("offer_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("terms", postgresql.JSONB(), nullable=False),
        sa.Column("by_account", sa.Text(), nullable=False),
        _created_at(),
        sa.ForeignKeyConstraint(["offer_id"], ["market_offers.id"]),
        sa.PrimaryKeyConstraint("offer_id", "revision"),
    )
    op.create_table(
        "market_prices",
        sa.Column("offer_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("used_tokens", sa.BigInteger(), nullable=False),
        *_prices(),
        _created_at(),
        sa.ForeignKeyConstraint(["offer_id"], ["market_offers.id"]),
        sa.PrimaryKeyConstraint("offer_id", "epoch"),
    )
    op.create_table(
        "market_usage",
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("instance", "epoch"),
    )


def _quotes() -> None:
    op.create_table(
        "market_quotes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("asked", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        *_prices(),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("market_quotes_account", "market_quotes", ["account", "valid_until"])
    op.create_index("market_quotes_instance", "market_quotes", ["instance", "valid_until"])
    op.create_index("market_quotes_old", "market_quotes", ["valid_until"])


def _refunds() -> None:
    op.create_table(
        "market_refunds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("payer_account", sa.Text(), nullable=False),
        sa.Column("seller_account", sa.Text(), nullable=False),
        sa.Column("asked_micro", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        _created_at(),
        sa.CheckConstraint("asked_micro > 0", name="market_refunds_amount"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("request_id"),
    )
    op.create_index("market_refunds_payer", "market_refunds", ["payer_account", "id"])
    op.create_index("market_refunds_seller", "market_refunds", ["seller_account", "id"])
    op.create_table(
        "market_refund_decisions",
        sa.Column("refund_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("parts", postgresql.JSONB(), nullable=False),
        sa.Column("by_account", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        _created_at(),
        sa.CheckConstraint("amount_micro >= 0", name="market_refund_decisions_amount"),
        sa.ForeignKeyConstraint(["refund_id"], ["market_refunds.id"]),
        sa.PrimaryKeyConstraint("refund_id", "number"),
    )
    op.create_table(
        "market_refunds_owed",
        sa.Column("refund_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["refund_id"], ["market_refunds.id"]),
        sa.PrimaryKeyConstraint("refund_id"),
    )


def _sums() -> None:
    op.create_table(
        "market_sum_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="market_sum_head_single"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO market_sum_head (id, position) VALUES (1, 0)")
    op.create_table(
        "market_sums",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("received_micro", sa.BigInteger(), nullable=False),
        sa.Column("paid_micro", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "month", "kind"),
    )


def _prices() -> tuple[sa.Column[int], ...]:
    return (
        sa.Column("input_price_micro", sa.BigInteger(), nullable=False),
        sa.Column("output_price_micro", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_price_micro", sa.BigInteger(), nullable=True),
    )


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
