"""``workers = 2``: both answer, their counts are one node's, a killed one is replaced, none outlives the parent."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict
from tests.support.started_node import StartedNode, started_node

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("workers"), WORKERS=2) as started:
        yield started


def workers(node: StartedNode) -> set[int]:
    """The pids of the node's workers that listen."""
    found: set[int] = set()
    for child in psutil.Process(node.pid).children():
        try:
            if "prsm.cli.workers" in child.cmdline() and any(
                c.status == psutil.CONN_LISTEN and c.laddr.port == node.port for c in child.net_connections("tcp")
            ):
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def ask(node: StartedNode) -> None:
    assert "512" in node.call("POST", "/v1/chat/completions", QUESTION)["choices"][0]["message"]["content"]


def answered_by(node: StartedNode, pid: int) -> float:
    """Chats that this worker counted, from the file that it shares."""
    path = node.home / "metrics" / f"counter_{pid}.db"
    if not Path(path).exists():
        return 0
    total = 0.0
    for key, value, *_ in MmapedDict.read_all_values_from_file(str(path)):
        name, _, labels, *_ = json.loads(key)
        if name == "prsm_requests" and labels == {"operation": "chat", "outcome": "ok"}:
            total += value
    return total


def counted(node: StartedNode) -> float:
    return node.metric("prsm_requests_total", operation="chat", outcome="ok") or 0


def test_workers_share_the_work_and_the_counts_and_a_killed_one_is_replaced(node: StartedNode) -> None:
    until(lambda: len(workers(node)) == 2, "two workers listen")
    both = workers(node)
    asked = 0
    while not all(answered_by(node, pid) for pid in both):
        ask(node)
        asked += 1
        assert asked < 200, "one worker gets no connection"
    for _ in range(4):  # whichever worker answers the scrape
        assert counted(node) == asked
    assert sum(answered_by(node, pid) for pid in both) == asked

    victim = min(both)
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(workers(node)) == 2 and victim not in workers(node), "a new worker listens")
    (survivor,) = both & workers(node)
    (newcomer,) = workers(node) - both
    while not answered_by(node, newcomer):
        ask(node)
        asked += 1
    assert counted(node) == asked
    assert psutil.pid_exists(survivor)


def test_no_worker_outlives_its_parent(node: StartedNode) -> None:
    left = [psutil.Process(pid) for pid in workers(node)]
    assert len(left) == 2
    node.kill()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
    # Told to stop while one of its workers may still be starting, the next node stops in good order.
    node.start()
    assert node.stop() == 0
    assert "worker did not stop" not in node.log_path.read_text()
