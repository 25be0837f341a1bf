"""The log of a real database: what goes in, by whom, that it proves itself, and that every tampering is named."""

from asyncio import gather

import pytest
from tests.support.audited import LOG_KEY, SIGNER, Audited, open_audited

from prsm.core import clock
from prsm.core.acting import act_for
from prsm.core.merkle.notes import parse_checkpoint, parse_note
from prsm.core.merkle.tree import consistent, includes, leaf_hash
from prsm.safety.audit.checking import Witnessed
from prsm.safety.audit.entries import Entry, read_entry
from prsm.safety.audit.sequencer import Sequencer


@pytest.fixture
async def audited(fresh_database: str):
    async with open_audited(fresh_database) as opened:
        yield opened


async def entries(audited: Audited) -> list[Entry]:
    return [read_entry(body) for _, body in await audited.book.entries(0, 100_000)]


async def test_a_log_of_work_proves_itself(audited: Audited) -> None:
    await audited.act(3)
    verdict = await audited.verify()
    assert verdict.findings == ()
    assert verdict.entries == len(await entries(audited)) > 9
    assert verdict.ledger_positions == 3 * 4 + 1
    assert verdict.pending == 0
    assert verdict.tables >= 20


async def test_a_change_says_who_made_it_and_at_which_request(audited: Audited) -> None:
    act_for("principal:someone key:abc", "request-1")
    await audited.world.key(5)
    act_for("", "")
    await audited.world.key(6)
    async with audited.world.db.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL application_name = 'psql'")
        await connection.execute("UPDATE ledger_budgets SET cap_micro = 7 WHERE cap_micro = 6")
    await audited.sequencer.drain()
    budgets = [entry for entry in await entries(audited) if entry.what == "ledger_budgets"][-3:]
    said = [(entry.actor, entry.request, entry.op, entry.rows[0]["now"]["cap_micro"]) for entry in budgets]
    assert said[0] == ("principal:someone key:abc", "request-1", "insert", "5")
    assert said[1] == ("system", "", "insert", "6")
    assert said[2][0].startswith("database:")
    assert said[2][0].endswith(" psql")
    assert said[2][2:] == ("update", "7")
    assert budgets[2].rows[0]["was"] == {"cap_micro": "6"}


async def test_secrets_and_names_go_in_as_digests_only(audited: Audited) -> None:
    pool = audited.world.db.pool
    who = await pool.fetchval(
        "INSERT INTO principals (id, name, role) VALUES (gen_random_uuid(), 'Ada Lovelace', 'user') RETURNING id"
    )
    other = await pool.fetchval(
        "INSERT INTO principals (id, name, role) VALUES (gen_random_uuid(), 'Ada Lovelace', 'user') RETURNING id"
    )
    await pool.execute("INSERT INTO providers VALUES ('p', 'openai', 'http://x', 'v1.sealed-secret')")
    await pool.execute("UPDATE principals SET name = 'Ada King' WHERE id = $1", who)
    await audited.sequencer.drain()
    bodies = b"".join(body for _, body in await audited.book.entries(0, 1000))
    assert b"Ada" not in bodies
    assert b"sealed-secret" not in bodies
    named = {
        entry.rows[0]["now"]["id"]: entry.rows[0]["now"]["name"]["salted"]
        for entry in await entries(audited)
        if entry.what == "principals" and entry.op == "insert"
    }
    assert named[str(who)] != named[str(other)], "two subjects of one name cannot be told to be so"
    assert (await audited.verify()).findings == ()


async def test_what_is_no_change_of_state_leaves_no_entry(audited: Audited) -> None:
    await audited.act()
    size, note = await audited.book.checkpoint()
    pool = audited.world.db.pool
    await pool.execute("UPDATE api_keys SET last_used_at = now()")
    await pool.execute("UPDATE api_keys SET name = name")
    await pool.execute("DELETE FROM api_keys WHERE false")
    async with pool.acquire() as connection:
        change = connection.transaction()
        await change.start()
        await connection.execute("INSERT INTO principals (id, name, role) VALUES (gen_random_uuid(), 'x', 'user')")
        await change.rollback()
    assert await audited.sequencer.drain() == 0
    assert await audited.book.checkpoint() == (size, note)


async def test_a_statement_over_many_rows_and_long_values_fits(audited: Audited) -> None:
    pool = audited.world.db.pool
    await pool.execute(
        "INSERT INTO principals (id, name, role) "
        "SELECT gen_random_uuid(), 'p' || n, 'user' FROM generate_series(1, 900) n"
    )
    control = "\\x01" * 255
    await pool.execute(
        "INSERT INTO model_history (model, version, action, by, at, reason, before, after) "
        f"VALUES ('m', 'v', 'a', 'b', now(), repeat('r', 100000), jsonb_build_object('k', E'{control}'), '{{}}')"
    )
    await pool.execute("UPDATE principals SET disabled_at = now()")
    await audited.sequencer.drain()
    found = [entry for entry in await entries(audited) if entry.what == "principals" and entry.op == "insert"]
    assert sum(len(entry.rows) for entry in found) >= 900
    assert max(len(body) for _, body in await audited.book.entries(0, 10_000)) < 65_536
    assert (await audited.verify()).findings == ()


async def test_several_workers_append_in_turns(audited: Audited) -> None:

    others = [Sequencer(audited.world.db.pool, SIGNER, clock.now) for _ in range(2)]
    for _ in range(10):
        await gather(*[audited.world.key(1) for _ in range(5)], *[each.step() for each in (*others, audited.sequencer)])
    await audited.sequencer.drain()
    verdict = await audited.verify()
    assert verdict.findings == ()
    assert verdict.entries >= 150


async def test_proofs_and_tiles_of_every_size(audited: Audited) -> None:
    sizes = []
    for _ in range(4):
        await audited.world.db.pool.execute(
            "INSERT INTO ledger_accounts (name) SELECT gen_random_uuid()::text FROM generate_series(1, 1)"
        )
        await audited.act(20)
        sizes.append((await audited.book.checkpoint())[0])
    assert sizes[-1] > 256
    for size in sizes:
        checkpoint = parse_checkpoint(parse_note((await audited.book.checkpoint(size))[1]))
        for position in (0, size // 2, size - 1):
            proven = await audited.book.prove(position, size)
            leaf = leaf_hash(proven.body)
            assert includes(leaf, position, size, proven.proof, checkpoint.root)
        for first in (0, 1, sizes[0], size):
            if first and first in sizes:
                root = parse_checkpoint(parse_note((await audited.book.checkpoint(first))[1])).root
                proof = await audited.book.consistency(first, size)
                assert consistent(first, root, size, checkpoint.root, proof)
    assert len(await audited.book.resource("0/000")) == 8192
    assert len(await audited.book.resource("0/001.p/1")) == 32
    assert len(await audited.book.resource("1/000.p/1")) == 32
    assert (await audited.book.resource("entries/000")).startswith(len(await audited.book.entry(0)).to_bytes(2, "big"))


TAMPERINGS = {
    "an entry is edited": (
        "UPDATE audit_entries SET body = body || '\\x20' WHERE position = 5",
        "has another root",
    ),
    "an entry is deleted": ("DELETE FROM audit_entries WHERE position = 5", "missing or misplaced"),
    "the last entries are cut off": ("DELETE FROM audit_entries WHERE position > 20", "; the log has 21"),
    "two entries change places": (
        "UPDATE audit_entries SET position = CASE position WHEN 5 THEN -1 ELSE 5 END WHERE position IN (5, 6);"
        "UPDATE audit_entries SET position = 6 WHERE position = -1",
        "has another root",
    ),
    "a tile is changed": ("UPDATE audit_tiles SET hashes = overlay(hashes placing '\\x00' from 1)", "does not hold"),
    "a tile is added": ("INSERT INTO audit_tiles VALUES (3, 9, '')", "tiles; the entries make"),
    "a checkpoint is changed": ("UPDATE audit_checkpoints SET note = replace(note, 'A', 'B')", "checkpoint of"),
    "a posting is changed": (
        "UPDATE ledger_transfers SET kind = 'other' WHERE position = 1",
        "not as they were audited",
    ),
    "a hold is changed": ("UPDATE ledger_holds SET expires_at = now()", "not as they were audited"),
    "a resolution is gone": ("DELETE FROM ledger_resolutions", "of the ledger"),
    "a key is given more": ("UPDATE api_keys SET scopes = '{admin}'", "changed in scopes by no entry"),
    "a name is changed": ("UPDATE principals SET name = 'other'", "changed in name by no entry"),
    "a cap is lifted": ("UPDATE ledger_budgets SET cap_micro = NULL", "changed in cap_micro by no entry"),
    "a principal is slipped in": (
        "INSERT INTO principals (id, name, role) VALUES (gen_random_uuid(), 'x', 'admin')",
        "no entry put it there",
    ),
    "a key is taken out": ("DELETE FROM api_keys", "is gone by no entry"),
    "a salt is thrown away": ("DELETE FROM subject_salts", "changed in name by no entry"),
    "a trigger is switched off": ("ALTER TABLE api_keys DISABLE TRIGGER audit_update", "lost its trigger audit_update"),
    "a trigger is dropped": ("DROP TRIGGER append_only ON audit_entries", "lost its trigger append_only"),
    "a table is no longer watched": ("DELETE FROM audit_tables WHERE name = 'principals'", "no longer watched"),
    "a rule is added": ("UPDATE audit_tables SET rules = '{skip:role}' WHERE name = 'principals'", "no longer watched"),
    "the sequencer is put back": ("UPDATE audit_head SET ledger_position = 2", "The sequencer stands at"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_what_is_done_by_hand_is_named(audited: Audited, name: str) -> None:
    await audited.act(5)
    assert (await audited.verify()).findings == ()
    statement, said = TAMPERINGS[name]
    await audited.by_hand(*statement.split(";"))
    verdict = await audited.verify()
    assert any(said in sentence for sentence in verdict.findings), verdict.findings


async def test_a_rewritten_log_is_found_by_a_witnessed_checkpoint_only(audited: Audited) -> None:
    """Who holds the node's key can write another past that proves itself; not one that others have seen."""
    await audited.act(3)
    _, seen = await audited.book.checkpoint()
    await audited.by_hand(
        "DELETE FROM audit_entries", "DELETE FROM audit_tiles", "DELETE FROM audit_checkpoints",
        "UPDATE audit_head SET size = 0, ledger_position = 0",
    )  # fmt: skip
    pool = audited.world.db.pool
    for table in await pool.fetch("SELECT name, rules FROM audit_tables"):
        await pool.execute(
            "SELECT audit_write($1, 'baseline', (SELECT array_agg(jsonb_build_object('now', "
            f'audit_form(to_jsonb(t), $2))) FROM "{table["name"]}" t))',
            table["name"],
            table["rules"],
        )
    await audited.sequencer.drain()
    assert (await audited.verify()).findings == ()
    verdict = await audited.verify(Witnessed(seen))
    assert any("witnessed checkpoint" in sentence for sentence in verdict.findings)


async def test_entries_and_checkpoints_cannot_be_changed_by_ordinary_means(audited: Audited) -> None:
    await audited.act()
    pool = audited.world.db.pool
    for statement in (
        "UPDATE audit_entries SET body = ''",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_pending SET actor = ''",
    ):
        with pytest.raises(Exception, match="append-only"):
            await pool.execute(statement)
    assert parse_note((await audited.book.checkpoint())[1]).signatures[0].name == LOG_KEY.name
