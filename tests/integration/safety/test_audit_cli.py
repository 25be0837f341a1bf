"""The log of a served node, as an auditor and a witness meet it: by ``prsm audit`` and over HTTP."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.served_node import PRSM, Served, serve_node
from tests.support.storage_nodes import until

from prsm.core.identity import Grant


@pytest.fixture
async def served(tmp_path: Path, postgres_url: str, valkey_url: str):
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        await one.node.audit.sequencer.drain()
        yield one


async def grow(served: Served) -> None:
    await served.done("POST", "/node/v1/principals", {"name": "Grace Hopper"})
    await served.ask("local/arithmetic")
    await served.node.audit.sequencer.drain()


def standalone(folder: Path, *options: str) -> tuple[int, str]:
    """The exported verifier by itself: no package of this environment can be imported."""
    command = [sys.executable, "-S", "-E", str(folder / "verify.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_an_auditor_verifies_proves_and_exports(served: Served, tmp_path: Path) -> None:
    await grow(served)
    auditor = (await served.node.enrolment.principal("auditor", "user")).id
    grant = Grant("audit", frozenset({"audit"}))
    key = (await served.node.enrolment.key(auditor, grant, actor=None, cap_micro=None)).token
    code, out, err = await served.cli("audit", "verify", key=key)
    assert code == 0, out + err
    assert out.startswith("whole: ")
    code, out, _ = await served.cli("audit", "list", "--json", "--limit", "1000", key=key)
    found = [json.loads(line) for line in out.splitlines()]
    made = [each for each in found if each["entry"]["what"] == "principals" and each["entry"]["actor"] != "system"]
    assert len(made) == 1, "the one that was made over HTTP says by whom"
    assert made[0]["entry"]["request"]
    assert "Grace" not in out
    code, out, _ = await served.cli("audit", "prove", str(made[0]["position"]), key=key)
    assert code == 0
    assert "proven by" in out
    folder = tmp_path / "export"
    code, out, err = await served.cli("audit", "export", str(folder), key=key)
    assert code == 0, err
    code, out = standalone(folder)
    assert code == 0, out
    assert "whole" in out
    code, _, err = await served.cli("audit", "export", str(folder), key=key)
    assert code == 1
    assert "exists already" in err
    for forbidden in ("/node/v1/principals", "/node/v1/wallet"):
        status, _ = await served.send("GET", forbidden, key=key)
        assert status == 403, "who audits is no admin"
    for nowhere in ("/node/v1/audit/entries/99999999999999999999", "/node/v1/audit/entries/-1/proof"):
        status, _ = await served.send("GET", nowhere, key=key)
        assert status in (400, 422), nowhere


async def test_an_export_that_was_changed_is_found_without_the_node(served: Served, tmp_path: Path) -> None:
    await grow(served)
    folder, seen = tmp_path / "export", tmp_path / "seen"
    witness_home = tmp_path / "witness"
    assert (await served.cli("--home", str(witness_home), "audit", "witness", str(seen)))[0] == 0
    await grow(served)
    assert (await served.cli("audit", "export", str(folder)))[0] == 0
    assert standalone(folder, "--witnessed", str(seen))[0] == 0
    entries = max((folder / "tile" / "entries").rglob("*.p/*"), key=lambda path: int(path.name))
    whole = entries.read_bytes()
    entries.write_bytes(whole.replace(b"system", b"sistem", 1))
    code, out = standalone(folder, "--witnessed", str(seen))
    assert code == 1
    assert "another root" in out
    assert "does not hold the hashes" in out
    entries.write_bytes(whole[:-7])
    assert standalone(folder)[0] in (1, 2)
    entries.write_bytes(whole)
    checkpoints = folder / "checkpoints.jsonl"
    lines = checkpoints.read_text()
    checkpoints.write_text(lines.replace("prsm.audit/", "prsm.other/"))
    code, out = standalone(folder)
    assert code == 1
    assert "is not signed by the log's key" in out
    for kept in (lines.splitlines()[:-1], []):  # what was added behind the last checkpoint is signed by nobody
        checkpoints.write_text("".join(f"{line}\n" for line in kept))
        code, out = standalone(folder)
        assert code == 1, out
        assert "The last checkpoint is over" in out
    for nothing in ("[]", '{"size": 1}', "7", "[" * 100_000, '{"size": 1, "note": 2}'):
        checkpoints.write_text(nothing)
        code, out = standalone(folder)
        assert (code, len(out.splitlines())) == (2, 1), out


def witness(served: Served, home: str, seen: Path) -> tuple[int, str, str]:
    """As somebody who has no key of the node."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PRSM_")}
    command = [PRSM, "--home", home, "--port", str(served.node.settings.port), "audit", "witness", str(seen)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


async def test_a_witness_keeps_only_what_grew(served: Served, tmp_path: Path) -> None:
    seen, home = tmp_path / "seen", str(tmp_path / "witness")
    code, out, err = await asyncio.to_thread(witness, served, home, seen)
    assert code == 0, err
    assert "own: keep the file" not in out
    key = out.rsplit("cosigned by ", 1)[1].strip()
    await grow(served)
    assert (await asyncio.to_thread(witness, served, home, seen))[0] == 0
    code, out, err = await served.cli("audit", "verify", "--witnessed", str(seen), "--witness", key)
    assert code == 0, out + err
    assert "1 witnessed" in out
    before = seen.read_text()
    pool = served.node.database.pool
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for table in ("audit_entries", "audit_tiles", "audit_checkpoints"):
            await connection.execute(f"DELETE FROM {table}")
        await connection.execute("UPDATE audit_head SET size = 0, ledger_position = 0")
    for _ in range(200):
        await served.done("GET", "/node/v1/principals")
    await served.node.audit.sequencer.drain()
    code, _, err = await asyncio.to_thread(witness, served, home, seen)
    assert code == 1
    assert "was rewritten" in err or "was cut" in err
    assert seen.read_text() == before, "the proof of it is kept"
    code, out, _ = await served.cli("audit", "verify", "--witnessed", str(seen), "--witness", key)
    assert code == 4
    assert "witnessed checkpoint" in out


async def test_reading_others_data_is_written_down(served: Served) -> None:
    await served.done("GET", "/node/v1/principals")
    await served.done("GET", "/node/v1/feedback")

    async def written() -> list[Any]:
        # The node's own worker may be taking them in just now; then drain has nothing to do.
        await served.node.audit.sequencer.drain()
        found = await served.done("GET", "/node/v1/audit/entries?limit=1000")
        read = [each["entry"] for each in found if each["entry"]["what"] == "personal.read"]
        return read if len(read) > 1 else []

    read = await until(written)
    assert [entry["rows"][0]["data"] for entry in read] == ["names of principals", "feedback and comments"]
    assert all(entry["actor"].startswith("principal:") and entry["request"] for entry in read)


async def test_what_does_not_exist_is_refused(served: Served) -> None:
    assert (await served.refused("GET", "/node/v1/audit/entries/100000"))["status"] == 404
    assert (await served.refused("GET", "/node/v1/audit/entries/0/proof?size=999999"))["status"] == 404
    for position in ("-1", "9" * 24):
        for of_it in ("", "/proof"):
            assert (await served.refused("GET", f"/node/v1/audit/entries/{position}{of_it}"))["status"] == 400
    assert (await served.refused("GET", "/node/v1/audit/consistency?first=5&second=999999"))["status"] == 400
    assert (await served.refused("GET", "/node/v1/audit/tile/0/999"))["status"] == 404
    assert (await served.refused("GET", "/node/v1/audit/tile/nothing"))["status"] == 400
    refusal = await served.refused("POST", "/node/v1/audit/verify", {"witness_key": "x"})
    assert refusal["status"] == 400
