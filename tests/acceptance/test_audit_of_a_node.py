"""The audit log of a node as an operator has it: killed at once after a change, several workers, and not running."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.started_node import StartedNode, started_node


def entries(node: StartedNode) -> list[dict[str, Any]]:
    return [each["entry"] for each in node.call("GET", "/node/v1/audit/entries?limit=1000")]


def until_logged(node: StartedNode, what: str, subject: str) -> dict[str, Any]:
    """Wait until an entry about a row with this id is in the log."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for entry in entries(node):
            if entry["what"] == what and any(row.get("now", {}).get("id") == subject for row in entry["rows"]):
                return entry
        time.sleep(0.2)
    raise AssertionError(f"no entry of {what} {subject}")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_acknowledged_is_in_the_log_whenever_the_node_was_killed(tmp_path: Path, workers: int) -> None:
    with started_node(tmp_path, WORKERS=workers) as node:
        checkpoint = tmp_path / "seen"
        made: list[str] = []
        for _ in range(2):
            made.append(node.call("POST", "/node/v1/principals", {"name": "Ada"})["id"])
            node.kill()
            node.start()
            entry = until_logged(node, "principals", made[-1])
            assert entry["actor"].startswith("principal:")
            assert entry["op"] == "insert"
            kept = node.cli("audit", "witness", str(checkpoint))
            assert kept.returncode == 0, kept.stderr
        body = {"model": "local/arithmetic", "messages": [{"role": "user", "content": "What is 1 + 2?"}]}
        node.call("POST", "/v1/chat/completions", body)
        node.stop()
        done = node.cli("audit", "verify", "--witnessed", str(checkpoint))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "whole: " in done.stdout
        checkpoint.write_text(checkpoint.read_text().replace("prsm.audit/", "prsm.audit/x"))
        assert node.cli("audit", "verify", "--witnessed", str(checkpoint)).returncode == 4
        node.start()
        said = node.cli("audit", "list", "--json", "--limit", "1000")
        rows = [row for line in said.stdout.splitlines() for row in json.loads(line)["entry"]["rows"]]
        assert set(made) <= {row.get("now", {}).get("id") for row in rows}
