"""First tables and the ledger's functions."""

from importlib import resources
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FUNCTIONS = (
    "ledger_apply",
    "ledger_hold",
    "ledger_settle",
    "ledger_reserve",
    "ledger_expire",
    "ledger_transfer",
    "refuse_change",
)


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", "key"),
    )
    op.create_index("idempotency_keys_created", "idempotency_keys", ["created_at"], unique=False)
    op.create_index("idempotency_keys_request", "idempotency_keys", ["request_id"], unique=False)
    op.create_table(
        "ledger_accounts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("allow_negative", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("balance_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("allow_negative or balance_micro - held_micro >= 0", name="ledger_accounts_available"),
        sa.CheckConstraint("held_micro >= 0", name="ledger_accounts_held"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("swept_until", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name="ledger_head_single"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "ledger_holds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=True),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount_micro >= 0", name="ledger_holds_amount"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("position"),
    )
    op.create_index(op.f("ix_ledger_holds_expires_at"), "ledger_holds", ["expires_at"], unique=False)
    op.create_table(
        "ledger_resolutions",
        sa.Column("hold_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("captured_micro", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "captured_micro >= 0 and (kind = 1 or captured_micro = 0)", name="ledger_resolutions_amount"
        ),
        sa.CheckConstraint("kind in (1, 2, 3)", name="ledger_resolutions_kind"),
        sa.PrimaryKeyConstraint("hold_id"),
        sa.UniqueConstraint("position"),
    )
    op.create_table(
        "ledger_transfers",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=True),
        sa.Column("hold_id", sa.Uuid(), nullable=True),
        sa.Column("debit_account_id", sa.BigInteger(), nullable=False),
        sa.Column("credit_account_id", sa.BigInteger(), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("amount_micro > 0", name="ledger_transfers_amount"),
        sa.CheckConstraint(
            "debit_account_id <> credit_account_id or hold_id is not null", name="ledger_transfers_accounts"
        ),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("ledger_transfers_credit", "ledger_transfers", ["credit_account_id", "position"], unique=False)
    op.create_index(
        "ledger_transfers_id", "ledger_transfers", ["id"], unique=True, postgresql_where=sa.text("id is not null")
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "outbox_unpublished", "outbox", ["id"], unique=False, postgresql_where=sa.text("published_at is null")
    )
    op.create_table(
        "principals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role in ('user', 'admin')", name="principals_role"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "providers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("sealed_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("receipts_account", "receipts", ["account_id", "id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("rate_limit_per_minute", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["principal_id"],
            ["principals.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("prefix"),
    )
    op.create_index(op.f("ix_api_keys_principal_id"), "api_keys", ["principal_id"], unique=False)
    op.create_table(
        "conversations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Uuid(), nullable=False),
        sa.Column("turns", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["principal_id"],
            ["principals.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_conversations_principal_id"), "conversations", ["principal_id"], unique=False)
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("upstream_name", sa.Text(), nullable=False),
        sa.Column("capabilities", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("domain", sa.Text(), nullable=True),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("max_output_tokens", sa.Integer(), nullable=False),
        sa.Column("input_price_micro", sa.BigInteger(), nullable=False),
        sa.Column("output_price_micro", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("cid", sa.Text(), nullable=False),
        sa.Column("owner_account", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("context_tokens > 0 and max_output_tokens > 0", name="models_limits"),
        sa.CheckConstraint("input_price_micro >= 0 and output_price_micro >= 0", name="models_prices"),
        sa.ForeignKeyConstraint(
            ["provider"],
            ["providers.name"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index(op.f("ix_models_provider"), "models", ["provider"], unique=False)
    op.create_table(
        "conversation_turns",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("conversation_id", "seq"),
        sa.UniqueConstraint("request_id"),
    )
    op.create_table(
        "ledger_budgets",
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("cap_micro", sa.BigInteger(), nullable=True),
        sa.Column("spent_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_micro", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("cap_micro is null or cap_micro >= 0", name="ledger_budgets_cap"),
        sa.CheckConstraint("held_micro >= 0 and spent_micro >= 0", name="ledger_budgets_signs"),
        sa.ForeignKeyConstraint(
            ["api_key_id"],
            ["api_keys.id"],
        ),
        sa.PrimaryKeyConstraint("api_key_id"),
    )
    op.execute("ALTER TABLE ledger_accounts SET (fillfactor = 50)")
    op.execute("ALTER TABLE ledger_budgets SET (fillfactor = 50)")
    op.execute("INSERT INTO ledger_head (id, position, swept_until) VALUES (1, 0, now())")
    op.execute("INSERT INTO ledger_accounts (name, allow_negative) VALUES ('issuance', true)")
    op.execute("INSERT INTO ledger_accounts (name) VALUES ('treasury')")
    _run_script("ledger_functions.sql")


def downgrade() -> None:
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name} CASCADE")
    op.drop_table("ledger_budgets")
    op.drop_table("conversation_turns")
    op.drop_index(op.f("ix_models_provider"), table_name="models")
    op.drop_table("models")
    op.drop_index(op.f("ix_conversations_principal_id"), table_name="conversations")
    op.drop_table("conversations")
    op.drop_index(op.f("ix_api_keys_principal_id"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_index("receipts_account", table_name="receipts")
    op.drop_table("receipts")
    op.drop_table("providers")
    op.drop_table("principals")
    op.drop_index("outbox_unpublished", table_name="outbox", postgresql_where=sa.text("published_at is null"))
    op.drop_table("outbox")
    op.drop_index("ledger_transfers_id", table_name="ledger_transfers", postgresql_where=sa.text("id is not null"))
    op.drop_index("ledger_transfers_credit", table_name="ledger_transfers")
    op.drop_table("ledger_transfers")
    op.drop_table("ledger_resolutions")
    op.drop_index(op.f("ix_ledger_holds_expires_at"), table_name="ledger_holds")
    op.drop_table("ledger_holds")
    op.drop_table("ledger_head")
    op.drop_table("ledger_accounts")
    op.drop_index("idempotency_keys_request", table_name="idempotency_keys")
    op.drop_index("idempotency_keys_created", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")


def _run_script(name: str) -> None:
    """Send a whole file of statements at once; the driver's prepared statements take only one each."""
    script = resources.files("prsm.core.migrations").joinpath(name).read_text()
    adapter: Any = op.get_bind().connection.dbapi_connection
    adapter.run_async(lambda driver: driver.execute(script))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
