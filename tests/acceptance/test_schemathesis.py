"""Generated requests over everything in /openapi.json, as a user and as an admin, against a started node.

Nothing is answered with a 5xx, and every answer is one that the document promises: its status, content type, schema,
the methods in Allow, a 401 without a key. ``PRSM_TEST_SCHEMATHESIS_CASES`` raises the number of cases.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.started_node import PROGRAM, StartedNode, started_node
from tests.support.upstream import UpstreamServer

CASES = int(os.environ.get("PRSM_TEST_SCHEMATHESIS_CASES", "300"))
FULL = CASES >= 1000
"""With the phases that do not depend on a number: each boundary of each field, and sequences along the links."""
_OPERATIONS = 80
QUESTIONS = "^/v1/(chat|responses|messages|embeddings)"
ENDS_KEYS = r"^/node/v1/keys/\{key_id\}(/rotate)?$"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    """A node of its own, as what is generated stays there; ``up/echo`` answers whatever is asked."""
    limits = {"RATE_LIMIT_PER_MINUTE": 1_000_000, "RATE_LIMIT_BURST": 1_000_000}
    with started_node(tmp_path_factory.mktemp("fuzzed"), **limits) as node:
        node.add_provider("up", f"{upstream.origin}/v1")
        node.add_model("up/echo", price_in=1, price_out=1)
        node.add_model("up/embed", price_in=1, price_out=0, capabilities=["embeddings"])
        yield node
        assert "Traceback" not in node.log_path.read_text(errors="replace")
        assert node.cli("ledger", "verify").returncode == 0


def run(node: StartedNode, folder: Path, key: str, *options: str, phases: str = "") -> int:
    """Run schemathesis; the number of cases it sent. Fails with its report when any check of any case fails."""
    command = [
        PROGRAM.with_name("schemathesis"), "run", f"{node.url}/openapi.json", "-H", f"Authorization: Bearer {key}",
        "--phases", phases or ("examples,coverage,fuzzing" if FULL else "fuzzing"),
        "--max-examples", str(max(1, CASES // _OPERATIONS)), "--seed", "1", "--generation-deterministic",
        "--continue-on-failure", "--no-color", "--request-timeout", "60",
        # What a schema cannot say (such as "in the future") is refused with a 400, so not all that fits it is accepted.
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    sent = re.search(r"([\d,]+) generated", done.stdout)
    assert sent, done.stdout[-2000:]
    return int(sent[1].replace(",", ""))


@pytest.mark.timeout(3600)
def test_every_answer_is_one_that_the_document_promises(
    fuzzed: StartedNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = fuzzed
    principal, user = node.new_client("fuzzer")
    node.call("POST", f"/node/v1/principals/{principal}/grants", {"id": principal, "amount_micro": 10**15})
    # The questions come first, and only from the user: an admin's fuzzing adds providers that may be anywhere.
    sent = run(node, tmp_path, user, "--exclude-path-regex", ENDS_KEYS)
    assert node.wallet(user)["available_micro"] > 0, "the key was alive and solvent to the end"
    _, admin = node.new_key("fuzzing admin", scopes=["chat", "embeddings", "read", "storage", "keys", "admin"])
    not_asking = ("--exclude-path-regex", f"{QUESTIONS}|{ENDS_KEYS}")
    sent += run(node, tmp_path, admin, *not_asking)
    if FULL:
        sent += run(node, tmp_path, admin, *not_asking, phases="stateful")
    assert node.call("GET", "/node/v1/principals", key=admin), "the key was alive to the end"
    # Keys that end keys may end themselves, so they come last.
    for key in (user, admin):
        sent += run(node, tmp_path, key, "--include-path-regex", ENDS_KEYS)
    with capsys.disabled():
        print(f"\nschemathesis: {sent} cases")
    assert sent >= CASES
