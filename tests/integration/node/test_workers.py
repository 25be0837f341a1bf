"""``workers = 2``: both answer, their counts are one node's, a killed one is replaced, none outlives the parent."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.mmap_dict import MmapedDict
from tests.support.started_node import StartedNode, free_port, started_node, until

from prsm.cli.workers import Respawn, run_workers
from prsm.core.config import Settings
from prsm.core.errors import PrsmError

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedNode]:
    with started_node(tmp_path_factory.mktemp("workers"), WORKERS=2) as started:
        yield started


def workers(node: StartedNode) -> set[int]:
    """The pids of the node's workers that listen."""
    return listening(node.pid, node.port)


def listening(parent: int, port: int) -> set[int]:
    found: set[int] = set()
    for child in psutil.Process(parent).children():
        try:
            if "prsm.cli.workers" in child.cmdline() and any(
                c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in child.net_connections("tcp")
            ):
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


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
    until(lambda: len(workers(node) - {victim}) == 2, "a new worker listens")
    (survivor,) = both & workers(node)
    (newcomer,) = workers(node) - both
    while not answered_by(node, newcomer):
        ask(node)
        asked += 1
    assert counted(node) == asked
    assert psutil.pid_exists(survivor)


def test_no_worker_outlives_its_parent(node: StartedNode) -> None:
    until(lambda: len(workers(node)) == 2, "two workers listen")
    left = [psutil.Process(pid) for pid in workers(node)]
    node.kill()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
    # Told to stop while one of its workers may still be starting, the next node stops in good order.
    node.start()
    assert node.stop() == 0
    assert "worker did not stop" not in node.log_path.read_text()


def test_workers_that_never_come_up_are_given_up_with_a_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(home=tmp_path, port=free_port(), workers=2)
    work = run_workers(settings, "postgresql://u:p@127.0.0.1:1/x", "redis://127.0.0.1:1", Respawn(0.01, 0.01, tries=2))
    with pytest.raises(PrsmError, match="ended 2 times without coming up") as raised:
        asyncio.run(asyncio.wait_for(work, 60))
    assert raised.value.code == "worker_failed"
    said = capfd.readouterr().err
    assert "PostgreSQL cannot be reached" in said, "each worker says why"
    assert "Traceback" not in said


def test_one_that_came_up_before_is_started_again_however_often_it_dies(fresh_database: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=free_port(), workers=1, database_timeout_ms=20_000)
    work = run_workers(settings, fresh_database, "redis://127.0.0.1:1", Respawn(0.01, 0.01, steady_s=600, tries=1))

    def answers() -> bool:
        try:
            with urlopen(f"{settings.address}/healthz", timeout=10) as response:
                return response.status == 200
        except OSError:
            return False

    async def kill_thrice() -> None:
        task = asyncio.create_task(work)
        killed: set[int] = set()
        try:
            async with asyncio.timeout(120):
                while len(killed) < 3:
                    assert not task.done(), task.exception()
                    if await asyncio.to_thread(answers):
                        (up,) = listening(os.getpid(), settings.port)
                        killed.add(up)
                        os.kill(up, signal.SIGKILL)
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(kill_thrice())
