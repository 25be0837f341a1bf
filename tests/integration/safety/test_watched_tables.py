"""Every table is under the audit log, or stands here with the reason why it is not."""

import pytest

from prsm.core import database
from prsm.core.models import Base

MONEY = "money: under the log by ranges of the ledger's positions"
CONTENT = "what people said, not the node's state; its erasure is an entry"
DERIVED = "derived from tables that are under the log"
QUEUE = "a queue or a mark of progress; what is done with it is under the log"
STORED = "which bytes lie here: proven by their CIDs"
SEEN = "what was observed of others, and decides about no one's money or rights"
LOG = "the log itself"

NOT_WATCHED = {
    "ledger_holds": MONEY,
    "ledger_resolutions": MONEY,
    "ledger_transfers": MONEY,
    "receipts": MONEY,
    "ledger_head": MONEY,
    "market_quotes": "signed by the node, binding for minutes",
    "market_usage": DERIVED,
    "market_refunds_owed": DERIVED,
    "market_sum_head": DERIVED,
    "market_sums": DERIVED,
    "conversations": CONTENT,
    "conversation_turns": CONTENT,
    "preferences": CONTENT,
    "quality_feedback": CONTENT,
    "idempotency_keys": CONTENT,
    "outbox": QUEUE,
    "training_reports": SEEN,
    "quality_answers": SEEN,
    "quality_states": SEEN,
    "alerts": SEEN,
    "rollout_counts": SEEN,
    "listings": SEEN,
    "storage_objects": STORED,
    "storage_blocks": STORED,
    "storage_links": STORED,
    "storage_pins": STORED,
    "storage_totals": STORED,
    "storage_leases": STORED,
    "storage_ghosts": STORED,
    "storage_uploads": STORED,
    "audit_pending": LOG,
    "audit_entries": LOG,
    "audit_tiles": LOG,
    "audit_checkpoints": LOG,
    "audit_head": LOG,
    "audit_tables": LOG,
    "subject_salts": "secrets; when one is destroyed, that is an entry",
}


@pytest.fixture
async def store(fresh_database: str):
    opened = await database.connect(fresh_database, pool_size=2, timeout_ms=20_000)
    yield opened
    await opened.close()


async def test_every_table_is_watched_or_says_why_not(store: database.Database) -> None:
    """For a new one: ``SELECT audit_watch('name', ARRAY[rules])`` in its migration, or a line above."""
    watched = {row["name"] for row in await store.pool.fetch("SELECT name FROM audit_tables")}
    declared = set(Base.metadata.tables)
    assert watched <= declared
    assert declared - watched == NOT_WATCHED.keys()


async def test_no_secret_and_no_name_goes_in_as_it_is(store: database.Database) -> None:
    """Columns that hold secrets or what people wrote, by what they are called, have a rule."""
    telling = {"key_hash", "sealed_key", "sealed_secret", "note"}
    for row in await store.pool.fetch("SELECT name, rules FROM audit_tables"):
        ruled = {rule.split(":")[1] for rule in row["rules"]}
        columns = set(Base.metadata.tables[row["name"]].columns.keys())
        assert columns & telling <= ruled, row["name"]
    names = {row["name"]: row["rules"] for row in await store.pool.fetch("SELECT name, rules FROM audit_tables")}
    assert "personal:name:id" in names["principals"]
    assert "personal:name:principal_id" in names["api_keys"]
