"""Two nodes on one database of the operator's own: killing and starting one does nothing to the other's work."""

import json
import shutil
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer


def begin_what_never_ends(node: StartedNode, key: str) -> threading.Thread:
    """Ask in a thread for a stream that goes on until the node ends."""
    body = {"model": "up/hold", "messages": [{"role": "user", "content": "x"}], "max_tokens": 9, "stream": True}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    begun = threading.Event()

    def read() -> None:
        try:
            with urlopen(Request(f"{node.base_url}/chat/completions", json.dumps(body).encode(), headers)) as answer:
                begun.set()
                answer.read()
        except (URLError, HTTPException, OSError):
            pass

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(30)
    return thread


def test_a_killed_nodes_holds_end_with_its_next_start_and_a_living_ones_stay(
    fresh_database: str, tmp_path: Path, upstream: UpstreamServer
) -> None:
    quiet = {"DATABASE_URL": fresh_database, "UPSTREAM_IDLE_TIMEOUT_S": 600}
    with started_node(tmp_path, **quiet) as one:
        one.add_provider("up", f"{upstream.origin}/v1")
        one.add_model("up/hold")
        _, key = one.new_client()
        asking = begin_what_never_ends(one, key)
        held = one.wallet(key)["held_micro"]
        assert held > 0

        two = StartedNode(tmp_path / "two" / "home", **quiet)
        two.home.mkdir(parents=True)
        shutil.copy(one.home / "node.key", two.home)
        try:
            two.start()
            assert two.wallet(key)["held_micro"] == held, "another node works there"
            one.kill()
            asking.join(30)
            assert two.wallet(key)["held_micro"] == held, "nobody knows whose it is while a node works there"
        finally:
            two.clear()
        one.start()
        assert one.wallet(key)["held_micro"] == 0
        assert "recovered" in one.log_tail(200)
        assert one.cli("ledger", "verify").returncode == 0
