"""Two started nodes: one fetches from the other's gateway, serves without it, finds damage and mends only that.

And one that is killed while it takes in a file: nothing half of it is ever seen.
"""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubo_rpc_server import KuboRpcServer
from tests.support.started_node import StartedNode, started_node

from prsm.data_layer.codec.cid import Cid

MIB = 1024 * 1024
KILLS = int(os.environ.get("PRSM_TEST_KILL_ROUNDS", "2"))
pytestmark = pytest.mark.timeout(300 + 60 * KILLS)


@pytest.fixture
def first(tmp_path: Path) -> Iterator[StartedNode]:
    (tmp_path / "first").mkdir()
    with started_node(tmp_path / "first") as node:
        yield node


@pytest.fixture
def second(tmp_path: Path, first: StartedNode) -> Iterator[StartedNode]:
    (tmp_path / "second").mkdir()
    places = {"STORAGE_GATEWAYS": first.url, "STORAGE_PRIVATE_HOSTS": f"127.0.0.1:{first.port}"}
    with started_node(tmp_path / "second", **places) as node:
        yield node


def ok(node: StartedNode, *arguments: str) -> str:
    done = node.cli("storage", *arguments)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout.strip()


def payload(node: StartedNode, cid: str) -> Path:
    return node.home / "storage" / "objects" / cid[-2:] / cid


def corrupt(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def until(holds: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_fetched_from_another_node_served_without_it_damaged_and_mended(
    first: StartedNode, second: StartedNode, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    large = os.urandom(5 * MIB + 123)
    (source / "large.bin").write_bytes(large)
    (source / "deep" / "small").write_text("small")
    cid = ok(first, "add", str(source))

    ok(second, "get", cid, "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "large.bin").read_bytes() == large
    assert (tmp_path / "copy" / "deep" / "small").read_text() == "small"
    assert ok(second, "pin", cid) == f"pinned {cid}"
    [endpoint] = json.loads(ok(second, "status", "--json"))["endpoints"]
    assert endpoint["state"] == "live"
    assert endpoint["fetched_bytes"] >= len(large)
    assert second.metric("prsm_storage_endpoint_state", endpoint=endpoint["name"]) == 0
    until(lambda: (second.metric("prsm_storage_bytes_total", direction="fetched") or 0) >= len(large))
    assert (first.metric("prsm_storage_bytes_total", direction="served") or 0) >= len(large)

    # One byte of the third leaf goes wrong.
    file_cid = next(each["cid"] for each in json.loads(ok(second, "ls", cid, "--json")) if each["name"] == "large.bin")
    corrupt(payload(second, file_cid), 2 * MIB + 17)
    done = second.cli("storage", "verify", cid)
    assert done.returncode == 4, done.stdout
    assert f"(byte {2 * MIB})" in done.stdout
    assert f"DAMAGED: {file_cid}" in done.stdout
    report = json.loads(second.cli("storage", "verify", file_cid, "--json").stdout)
    assert [len(each["blocks"]) for each in report["damaged"]] == [1]
    before = json.loads(ok(second, "status", "--json"))["endpoints"][0]["fetched_bytes"]
    assert "repaired 1 objects" in ok(second, "repair", cid)
    assert "nothing to repair" in ok(second, "repair", file_cid)
    after = json.loads(ok(second, "status", "--json"))["endpoints"][0]["fetched_bytes"]
    assert MIB <= after - before < 2 * MIB, "only the damaged leaf was fetched"
    assert ok(second, "verify", cid).startswith("whole")
    assert payload(second, file_cid).read_bytes() == large

    first.stop()
    until(lambda: second.call("GET", "/readyz")["storage"]["offline"])
    part = second.call("GET", "/readyz")["storage"]
    assert part["ok"]
    assert "None of 1 endpoints answers" in part["reason"]
    assert "offline" in ok(second, "status")
    assert second.metric("prsm_storage_offline") == 1
    ok(second, "get", cid, "-o", str(tmp_path / "again"))
    assert (tmp_path / "again" / "large.bin").read_bytes() == large
    # What is damaged and cannot be mended now is not given out.
    corrupt(payload(second, file_cid), 5)
    assert second.cli("storage", "verify", file_cid).returncode == 4
    refused = second.cli("storage", "repair", file_cid)
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    assert second.cli("storage", "get", f"{cid}/large.bin", "-o", "-").returncode == 1


def test_a_node_that_is_killed_while_it_takes_in_a_file_shows_nothing_of_it(first: StartedNode, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(64 * MIB))
    for kill in range(KILLS):
        sender = threading.Thread(target=send_slowly, args=(first, source.read_bytes()))
        sender.start()
        until(lambda: any((first.home / "storage" / "incoming").iterdir()))
        time.sleep(0.2 + 0.3 * kill)
        first.kill()
        sender.join()
        first.start()
        assert json.loads(ok(first, "ls", "--all", "--json")) == []
        assert not list((first.home / "storage" / "objects").rglob("bafy*"))
    until(lambda: not list((first.home / "storage" / "incoming").iterdir()))
    cid = ok(first, "add", str(source))
    assert ok(first, "verify", cid).startswith("whole")
    ok(first, "get", cid, "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def send_slowly(node: StartedNode, data: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data), MIB):
            yield data[at : at + MIB]
            time.sleep(0.05)

    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    try:
        connection.request("POST", "/node/v1/storage/content", pieces(), {"authorization": f"Bearer {node.key}"})
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass  # the node was killed
    finally:
        connection.close()


def test_what_is_published_waits_for_a_node_that_is_away_and_goes_when_it_is_back(tmp_path: Path) -> None:
    ipfs = KuboRpcServer()
    (tmp_path / "node").mkdir()
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * MIB))
    with started_node(tmp_path / "node", STORAGE_NODES=ipfs.url) as node:
        cid = ok(node, "add", str(source), "--publish")
        assert ok(node, "publish", cid).split()[0] in ("waiting", "running"), "nobody answers yet"
        assert json.loads(ok(node, "status", "--json"))["uploads_waiting"] == 1
        until(lambda: node.metric("prsm_storage_uploads", state="waiting") == 1)
        ok(node, "rm", cid)
        assert "deleted 0" in ok(node, "gc"), "what waits to be sent is kept"
        threading.Thread(target=ipfs.serve_forever, daemon=True).start()
        try:
            until(lambda: Cid.parse(cid) in ipfs.pins)
            until(lambda: not json.loads(ok(node, "status", "--json"))["uploads_waiting"])
        finally:
            ipfs.shutdown()
            ipfs.server_close()
