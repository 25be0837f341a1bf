"""A person on a served node: all they said is sealed, shown to them whole, and gone for good when they are erased."""

import hashlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import structlog
from tests.support.served_node import PRICES, Served, serve_node

from prsm.core.embedded.programs import postgres_install
from prsm.core.identity import USER_SCOPES, Grant
from prsm.core.models import Base
from prsm.core.subject_keys import Erased
from prsm.monitoring import logs
from prsm.node.privacy import PERIODS
from prsm.safety.policy import Action, Direction, Finding, Verdict
from prsm.safety.privacy.erasure import check_certificate
from prsm.safety.privacy.register import HOLDINGS
from prsm.safety.seams import Category
from prsm.safety.threat import Event

NOTHING_PERSONAL = {
    "outbox", "ledger_head", "market_prices", "market_usage", "market_refunds_owed", "market_sum_head", "providers",
    "listing_sources", "listings", "model_states", "model_releases", "rollout_trials", "rollout_counts",
    "training_reports", "quality_states", "storage_objects", "storage_blocks", "storage_links", "storage_leases",
    "storage_ghosts", "storage_uploads", "storage_provenance", "audit_pending", "audit_tiles", "audit_checkpoints",
    "audit_head", "audit_tables", "subject_salts",
    "storage_pins", "storage_totals",  # name the account as the keeper of public objects
}  # fmt: skip
"""Tables that hold nothing about a person, or (the log's queue, the salts) nothing but what another table has."""


class Person:
    """Somebody whose every word has a mark that can be looked for."""

    def __init__(self, served: Served, principal_id: UUID, key: str, mark: str) -> None:
        self.served = served
        self.id = principal_id
        self.key = key
        self.mark = mark
        self.account = f"principal:{principal_id}"

    def said(self, what: str) -> str:
        return f"{self.mark}-{what}"

    async def do(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"authorization": f"Bearer {self.key}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        async with self.served.http.request(method, path, json=body, headers=sent) as response:
            assert response.status < 300, await response.text()
            return await response.json() if response.status != 204 else None

    async def live(self, model: str) -> None:
        """Leave something of everything that one can say to a node."""
        session = str(uuid4())
        for turn in range(2):
            await self.do(
                "POST", "/v1/chat/completions",
                {"model": model, "messages": [{"role": "user", "content": self.said(f"question-{turn}")}],
                 "prsm": {"session_id": session}},
                idempotency_key=self.said(f"idem-{turn}")[-40:].replace(self.mark, "key"),
            )  # fmt: skip
        asked = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": self.said("cached")}],
                 "prsm": {"cache": {"mode": "semantic"}}}  # fmt: skip
        answer = await self.do("POST", "/v1/chat/completions", asked)
        again = await self.do("POST", "/v1/chat/completions", asked)
        await self.do("POST", "/v1/feedback", {"request_id": answer["id"], "rating": "bad", "comment": self.said("c")})
        texts = {"prompt": self.said("p"), "chosen": self.said("y"), "rejected": self.said("n")}
        await self.do("POST", "/node/v1/preferences", {"collection": "c", **texts})
        refund = {"request_id": answer["prsm"]["receipt_id"], "reason": "other", "note": self.said("note")}
        await self.do("POST", "/node/v1/market/refunds", refund)
        await self.do("POST", "/node/v1/keys", {"name": self.said("key"), "scopes": ["chat"]})
        await self.do("PUT", "/node/v1/privacy/consents/training", {"granted": True})
        safety, blocked = self.served.node.safety, uuid4()
        verdict = Verdict(Action.BLOCK, (Finding(Category.HATE, 0.9, Action.BLOCK),))
        where = (self.account, model, Direction.INPUT, verdict)
        await safety.incidents.record(blocked, *where, [self.said("blocked")])
        await self.do("POST", "/node/v1/safety/appeals", {"request_id": str(blocked), "words": self.said("appeal")})
        safety.threats.note(self.account, Event.BLOCKED)
        await safety.threats.settle()
        assert answer["choices"] == again["choices"]


@pytest.fixture
async def served(tmp_path: Path, postgres_url: str, valkey_url: str):
    async with serve_node(tmp_path / "home", postgres_url, valkey_url, response_cache="semantic") as one:
        await one.done("PUT", "/node/v1/models/up/echo", PRICES)
        yield one


async def person(served: Served, mark: str) -> Person:
    made = await served.done("POST", "/node/v1/principals", {"name": f"{mark}-name"})
    grant = Grant(f"{mark}-first-key", USER_SCOPES)
    key = await served.node.enrolment.key(UUID(made["id"]), grant, actor=None, cap_micro=None)
    return Person(served, UUID(made["id"]), key.token, mark)


def mentions(mark: str, data: bytes) -> bool:
    """As text, or in hex as a dump writes bytes."""
    return mark.encode() in data or mark.encode().hex().encode() in data


def files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


def dump(url: str) -> bytes:
    """A backup of the database."""
    program = postgres_install() / "bin" / "pg_dump"
    return subprocess.run([program, "--inserts", url], capture_output=True, check=True).stdout


async def places(served: Served) -> list[tuple[str, bytes]]:
    """Everything that is left of a node outside its memory."""
    pool = served.node.database.pool
    await pool.execute("CHECKPOINT")
    data = Path(await pool.fetchval("SELECT current_setting('data_directory')"))
    number = await pool.fetchval("SELECT oid::text FROM pg_database WHERE datname = current_database()")
    found = [("dump", dump(served.node.database.url))]
    found += [(f"postgres {path.name}", content) for path, content in files(data / "base" / number)]
    found += [(f"wal {path.name}", content) for path, content in files(data / "pg_wal")]
    found += [(f"home {path}", content) for path, content in files(served.node.settings.home)]
    client: Any = served.node.cache.client
    async for key in client.scan_iter():
        name = key.decode() if isinstance(key, bytes) else key
        if str(await client.type(key)) in ("string", "b'string'"):
            found.append((f"valkey {name}", await client.get(key) + name.encode()))
    folder = Path((await client.config_get("dir"))["dir"])
    found += [(f"valkey file {path.name}", content) for path, content in files(folder)]
    return found


@pytest.fixture
def logs_of_its_own() -> Iterator[None]:
    """What a test makes of the logs is not left to those after it."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("logs_of_its_own")
async def test_every_word_is_sealed_shown_and_erased(served: Served) -> None:
    said = io.StringIO()
    with redirect_stderr(said):
        logs.configure("debug", "json")
        structlog.configure(cache_logger_on_first_use=False)
        ada, bob = await person(served, f"ADA{uuid4().hex[:12]}"), await person(served, f"BOB{uuid4().hex[:12]}")
        await ada.live("up/echo")
        await bob.live("up/echo")
        # Sealed before it is stored: nowhere, at any time.
        scanned = await places(served)
        for where, known in (("dump", "up/echo"), ("postgres", "up/echo"), ("wal", "up/echo"), ("home", "PRIVATE KEY")):
            assert any(place.startswith(where) and mentions(known, data) for place, data in scanned), where
        for where in ("valkey prsm:conversation:", "valkey prsm:answers:", "valkey file"):
            assert any(place.startswith(where) for place, _ in scanned), (where, sorted(place for place, _ in scanned))
        assert [where for where, content in scanned if mentions(ada.mark, content)] == []
        exported = await ada.do("GET", "/node/v1/privacy/export")
        whole = json.dumps(exported)
        for what in (
            "name",
            "first-key",
            "question-0",
            "question-1",
            "c",
            "p",
            "y",
            "n",
            "note",
            "key",
            "blocked",
            "appeal",
        ):
            assert ada.said(what) in whole, what
        assert bob.mark not in whole
        assert str(bob.id) not in whole
        held = exported["held"]
        assert {table for table, rows in held.items() if not rows} <= {
            "market_refund_decisions", "market_offers", "market_offer_revisions", "market_quotes", "market_sums",
            "training_runs", "models", "model_versions", "model_history", "evaluations", "gate_decisions",
            "privacy_erasures", "quality_answers", "audit_entries", "safety_policies", "alerts", "alert_silences",
            "breakers",
        }  # fmt: skip
        assert held["conversation_turns"][0]["messages"][0]["content"] == ada.said("question-0")
        assert ada.said("question-0") in json.dumps(held["idempotency_keys"])

        before = await balance(served, ada)
        certificate = await ada.do("POST", "/node/v1/privacy/erase", {"principal_id": str(ada.id)})
        scanned = await places(served)
        assert [where for where, content in scanned if mentions(ada.mark, content)] == []
        refused, _ = await served.send("GET", "/node/v1/wallet", key=ada.key)
        assert refused == 401
        with pytest.raises(Erased):
            await served.node.subject_keys.key(ada.id)
        left = await served.done("GET", f"/node/v1/privacy/principals/{ada.id}/export")
        assert ada.mark not in json.dumps(left)
        for holding in HOLDINGS:
            if holding.at_erasure == "delete":
                assert left["held"][holding.table] == [], holding.table
        assert left["held"]["market_refunds"][0]["note"] is None
        assert await balance(served, ada) == before, "money is no personal data to be erased"
        assert bob.said("question-1") in json.dumps(await bob.do("GET", "/node/v1/privacy/export"))
    assert mentions(ada.mark, said.getvalue().encode()) is False
    await check_proofs(served, ada, certificate)


async def balance(served: Served, who: Person) -> int:
    return (await served.node.ledger.balance(who.account)).balance_micro


async def check_proofs(served: Served, who: Person, certificate: dict[str, Any]) -> None:
    """The certificate, the log and the ledger all prove themselves."""
    stored: bytes = await served.node.database.pool.fetchval(
        "SELECT certificate FROM privacy_erasures WHERE subject_id = $1", who.id
    )
    assert json.loads(stored) == certificate
    key = served.node.key.public_key_hex
    assert check_certificate(stored, key)
    assert not check_certificate(stored.replace(b'"key_destroyed":true', b'"key_destroyed":false'), key)
    assert not check_certificate(b"{}", key)
    facts = certificate["certificate"]
    assert facts["key_destroyed"]
    assert facts["deleted_rows"]["conversation_turns"] == 2
    await served.node.audit.sequencer.drain()
    verdict = await served.node.audit.verify([], None)
    assert verdict.findings == ()
    entries = await served.done("GET", "/node/v1/audit/entries?limit=1000&first=0")
    erased = [each["entry"] for each in entries if each["entry"]["what"] == "privacy.erased"]
    assert erased[0]["rows"] == [{"subject": str(who.id), "certificate_sha256": hashlib.sha256(stored).hexdigest()}]
    proof = await served.done("GET", "/node/v1/ledger/verify")
    assert proof["ok"], proof["violations"]


async def test_a_salt_that_goes_without_an_erasure_is_a_finding(served: Served) -> None:
    await served.node.audit.sequencer.drain()
    await served.node.database.pool.execute("DELETE FROM subject_salts")
    verdict = await served.node.audit.verify([], None)
    assert any("changed in name by no entry" in sentence for sentence in verdict.findings)


async def test_erasing_again_answers_the_same_certificate_and_others_cannot(served: Served) -> None:
    ada = await person(served, "ADA")
    path = f"/node/v1/privacy/principals/{ada.id}/erase"
    first = await served.done("POST", path)
    assert await served.done("POST", path) == first
    status, _ = await served.send("POST", path, key=served.user)
    assert status == 403
    status, answer = await served.send("POST", "/node/v1/privacy/erase", {"principal_id": str(ada.id)}, key=served.user)
    assert (status, answer["error"]["code"]) == (404, "principal_not_found")
    unknown = await served.refused("POST", f"/node/v1/privacy/principals/{uuid4()}/erase")
    assert unknown["status"] == 404


async def test_who_lets_nobody_train_is_left_out(served: Served) -> None:
    ada = await person(served, "ADA")
    preference = {"collection": "few", "prompt": "p", "chosen": "a", "rejected": "b"}
    await ada.do("POST", "/node/v1/preferences", preference)
    assert len(await served.done("GET", "/node/v1/preferences?collection=few")) == 1
    said = await ada.do("PUT", "/node/v1/privacy/consents/training", {"granted": False})
    assert [(each["purpose"], each["granted"]) for each in said] == [("training", False), ("sharing", False)]
    assert await served.done("GET", "/node/v1/preferences?collection=few") == []
    assert len(await ada.do("GET", "/node/v1/preferences?collection=few")) == 1, "it is still hers"
    await ada.do("PUT", "/node/v1/privacy/consents/training", {"granted": True})
    assert len(await served.done("GET", "/node/v1/preferences?collection=few")) == 1
    assert (await served.refused("PUT", "/node/v1/privacy/consents/nothing", {"granted": True}))["status"] == 400


async def test_what_was_stored_unsealed_is_sealed_and_what_is_old_goes(served: Served) -> None:
    pool, ada = served.node.database.pool, await person(served, "ADA")
    await pool.execute("UPDATE principals SET name = 'Plain Name' WHERE id = $1", ada.id)
    conversation, request = uuid4(), uuid4()
    await pool.execute("INSERT INTO conversations (id, principal_id, turns) VALUES ($1, $2, 1)", conversation, ada.id)
    await pool.execute(
        "INSERT INTO conversation_turns (conversation_id, seq, request_id, messages) "
        "VALUES ($1, 1, $2, $3::text::json)",
        *(conversation, request, '[{"role": "user", "content": "plain words"}]'),
    )
    served.node.privacy.retention._sealed = False  # as after a start
    done = await served.done("POST", "/node/v1/privacy/retention")
    assert done["rows"] >= 2
    assert b"plain words" not in dump(served.node.database.url)
    assert b"Plain Name" not in dump(served.node.database.url)
    assert (await served.node.identities.principal(ada.id)).name == "Plain Name"
    history = await served.node.conversations.history(conversation, ada.id)
    assert history == [{"role": "user", "content": "plain words"}]
    await pool.execute("UPDATE conversations SET updated_at = now() - interval '400 days' WHERE id = $1", conversation)
    assert (await served.done("POST", "/node/v1/privacy/retention"))["rows"] == 1
    assert await pool.fetchval("SELECT count(*) FROM conversation_turns WHERE request_id = $1", request) == 0


async def test_the_command(served: Served, tmp_path: Path) -> None:
    ada, out = await person(served, "ADA"), tmp_path / "export.json"
    code, _, err = await served.cli("privacy", "export", "--out", str(out), key=ada.key)
    assert code == 0, err
    assert json.loads(out.read_text())["held"]["principals"][0]["name"] == "ADA-name"
    assert out.stat().st_mode & 0o077 == 0
    code, shown, _ = await served.cli("privacy", "consent", "training", "no", key=ada.key)
    assert re.search(r"training +no +since", shown)
    code, shown, _ = await served.cli("privacy", "retention")
    assert "conversation_kept_days     365" in shown
    code, shown, _ = await served.cli("privacy", "records")
    assert code == 0
    for holding in HOLDINGS:
        assert f"`{holding.table}`" in shown
    nowhere = ("--out", str(out / "certificate"))
    code, _, err = await served.cli("privacy", "erase", str(ada.id), "--other", "--yes", *nowhere)
    assert (code, err) == (1, f"prsm: {nowhere[1]}: Not a directory.\n")
    assert (await served.node.identities.principal(ada.id)).name == "ADA-name", "nothing is erased"
    code, shown, err = await served.cli("privacy", "erase", str(ada.id), "--other", "--yes")
    assert code == 0, err
    assert json.loads(shown)["certificate"]["subject"] == str(ada.id)


def test_every_period_that_the_register_names_is_told() -> None:
    named = set(re.findall(r"[a-z]\w*_(?:days|s)\b", " ".join(holding.kept for holding in HOLDINGS)))
    assert named, "the register names settings"
    assert named <= set(PERIODS)


def test_every_table_is_in_the_register_or_holds_nothing_personal() -> None:
    """A new table: a Holding in ``register.py``, or a name above."""
    registered = {holding.table for holding in HOLDINGS}
    assert len(registered) == len(HOLDINGS)
    assert not registered & NOTHING_PERSONAL
    assert registered | NOTHING_PERSONAL == set(Base.metadata.tables)
    for holding in HOLDINGS:
        columns = set(Base.metadata.tables[holding.table].columns.keys())
        assert {*holding.sealed, *holding.hidden} <= columns
        assert bool(holding.blank) == (holding.at_erasure == "blank")
