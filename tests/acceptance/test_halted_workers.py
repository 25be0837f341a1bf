"""What is halted or suspended in one worker is so in all, and still after a kill -9 and a restart."""

import os
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.support.started_node import StartedNode, started_node, until

WORKERS = int(os.environ.get("PRSM_TEST_WORKERS", "3"))
_QUESTION = b'{"model": "local/arithmetic", "messages": [{"role": "user", "content": "What is 1 + 2?"}]}'


def statuses(node: StartedNode, asked: int = 24) -> set[int]:
    """What so many questions are answered with, each over a connection of its own: all workers are met."""
    return {_ask(node) for _ in range(asked)}


def _ask(node: StartedNode) -> int:
    connection = HTTPConnection("127.0.0.1", node.port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", _QUESTION, {"authorization": f"Bearer {node.key}"})
        return connection.getresponse().status
    except (HTTPException, OSError):
        return 0
    finally:
        connection.close()


def command(node: StartedNode, *arguments: str) -> None:
    done = node.cli(*arguments)
    assert done.returncode == 0, done.stderr


def test_a_halt_reaches_every_worker_and_outlives_a_kill(tmp_path: Path) -> None:
    with started_node(tmp_path, WORKERS=WORKERS) as node:
        assert statuses(node) == {200}
        command(node, "breakers", "trip", "node", "halt", "--reason", "an exercise")
        until(lambda: statuses(node) == {503}, "every worker is halted")
        node.kill()
        node.start()
        assert statuses(node) == {503}
        command(node, "breakers", "reset", "node", "halt")
        until(lambda: statuses(node) == {200}, "every worker answers again")
        account = node.wallet()["account"]
        command(node, "breakers", "trip", "callers", account, "--reason", "an exercise")
        until(lambda: statuses(node) == {403}, "the caller is stopped everywhere")
        node.kill()
        node.start()
        assert statuses(node) == {403}
        command(node, "breakers", "reset", "callers", account)
        until(lambda: statuses(node) == {200}, "the caller is let in again")
