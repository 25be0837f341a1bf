"""The audit log, and the tables that it watches."""

from importlib import resources
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_FUNCTIONS = (
    "audit_statement",
    "audit_row",
    "audit_watch",
    "audit_note",
    "audit_write",
    "audit_changed",
    "audit_actor",
    "audit_form",
    "audit_salt",
)
_TABLES = (
    "audit_pending",
    "audit_entries",
    "audit_tiles",
    "audit_checkpoints",
    "audit_head",
    "audit_tables",
    "subject_salts",
)
_WATCHED: dict[str, list[str]] = {
    "principals": ["personal:name:id"],
    "api_keys": ["secret:key_hash", "personal:name:principal_id", "skip:last_used_at"],
    "providers": ["secret:sealed_key"],
    "models": [],
    "listing_sources": [
        "secret:sealed_secret",
        *(f"skip:{column}" for column in ("mark", "last_read_at", "last_failed_at", "last_error", "last_error_code")),
        *(f"skip:{column}" for column in ("next_read_at", "left_out", "failures", "claim", "claimed_until")),
    ],
    # What the prices of an offer are is in market_prices, move by move.
    "market_offers": [
        *(f"skip:{column}" for column in ("input_price_micro", "output_price_micro", "cached_input_price_micro")),
        "skip:epoch",
    ],
    "market_offer_revisions": [],
    "market_prices": [],
    "market_refunds": ["personal:note:payer_account"],
    "market_refund_decisions": ["personal:note:by_account"],
    "model_versions": ["secret:statement"],
    "model_states": [],
    "model_releases": [],
    "model_history": [],
    "rollout_trials": [],
    "evaluations": ["secret:body"],
    "gate_decisions": [],
    "storage_provenance": ["secret:envelope"],
    "training_runs": [
        "secret:recipe",
        *(f"skip:{column}" for column in ("facts", "report", "slices", "slice_held_micro", "slice_cpu_ms", "slice_at")),
        *(f"skip:{column}" for column in ("capturing_micro", "charged_micro", "starts")),
    ],
}
# Their balances move with every batch of the ledger, which goes into the log by ranges of its positions.
_WATCHED_HOT: dict[str, tuple[list[str], list[str]]] = {
    "ledger_accounts": (["skip:balance_micro", "skip:held_micro"], ["name", "allow_negative"]),
    "ledger_budgets": (["skip:spent_micro", "skip:held_micro"], ["cap_micro"]),
}


def upgrade() -> None:
    _tables()
    op.execute("INSERT INTO audit_head (id, size, ledger_position) VALUES (1, 0, 0)")
    for table in ("audit_entries", "audit_checkpoints"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON audit_pending "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    _run_script("audit_functions.sql")
    watch = sa.text("SELECT audit_watch(:name, :rules, :columns)").bindparams(
        sa.bindparam("rules", type_=postgresql.ARRAY(sa.Text())),
        sa.bindparam("columns", type_=postgresql.ARRAY(sa.Text())),
    )
    for name, rules in _WATCHED.items():
        op.get_bind().execute(watch, {"name": name, "rules": rules, "columns": None})
    for name, (rules, columns) in _WATCHED_HOT.items():
        op.get_bind().execute(watch, {"name": name, "rules": rules, "columns": columns})
    # Money that moves by no request (a grant, a payout, a refund) has an entry of its own, which says who moved it.
    op.execute(
        "CREATE TRIGGER audit_insert AFTER INSERT ON ledger_transfers FOR EACH ROW WHEN (NEW.hold_id IS NULL) "
        "EXECUTE FUNCTION audit_row()"
    )
    # The operator of a home from before goes on doing what an operator may.
    op.execute("UPDATE api_keys SET scopes = array_append(scopes, 'audit') WHERE 'admin' = ANY (scopes)")


def downgrade() -> None:
    op.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'audit')")
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name} CASCADE")
    for table in reversed(_TABLES):
        op.drop_table(table)


def _tables() -> None:
    op.create_table(
        "audit_pending",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("rows", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_table(
        "audit_tiles",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("size"),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("ledger_position", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="audit_head_single"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit_tables",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_columns", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("rules", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "subject_salts",
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("subject_id"),
    )


def _run_script(name: str) -> None:
    """Send a whole file of statements at once; the driver's prepared statements take only one each."""
    script = resources.files("prsm.core.migrations").joinpath(name).read_text()
    adapter: Any = op.get_bind().connection.dbapi_connection
    adapter.run_async(lambda driver: driver.execute(script))  # pyright: ignore[reportUnknownLambdaType, reportUnknownMemberType]
