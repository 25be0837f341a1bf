"""Two started nodes: one fetches from the other's gateway, serves without it, finds damage and mends only that.

And one that is killed while it takes in a file: nothing half of it is ever seen.
"""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubo_rpc_server import KuboRpcServer
from tests.support.started_node import StartedNode, started_node

from prsm.data_layer.codec.cid import Cid, Codec

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
    until(lambda: "offline" in ok(second, "status"))
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


CONTENT = "/node/v1/storage/content"


@pytest.fixture
def slow(tmp_path: Path, first: StartedNode) -> Iterator[StartedNode]:
    """A node to which nothing comes faster than a MiB a second."""
    (tmp_path / "slow").mkdir()
    places: dict[str, Any] = {"STORAGE_GATEWAYS": first.url, "STORAGE_PRIVATE_HOSTS": f"127.0.0.1:{first.port}"}
    with started_node(tmp_path / "slow", **places, STORAGE_RATE_LIMIT_BYTES_S=MIB, STORAGE_WORKERS=2) as node:
        yield node


@contextmanager
def asked(node: StartedNode, path: str, key: str = "", method: str = "GET", **headers: str) -> Iterator[Any]:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, headers={"authorization": f"Bearer {key or node.key}", **sent})
        yield connection.getresponse()
    finally:
        connection.close()


def fetched_bytes(node: StartedNode) -> int:
    return node.call("GET", "/node/v1/storage/status")["endpoints"][0]["fetched_bytes"]


def transfers(node: StartedNode) -> int:
    return node.call("GET", "/node/v1/storage/status")["transfers"]


def test_a_file_that_is_elsewhere_is_read_while_it_comes(first: StartedNode, slow: StartedNode, tmp_path: Path) -> None:
    size = 6 * MIB
    (tmp_path / "source" / "deep").mkdir(parents=True)
    files = {"deep/wanted": os.urandom(size), "deep/other": os.urandom(MIB), "beside": os.urandom(MIB)}
    for name, data in files.items():
        (tmp_path / "source" / name).write_bytes(data)
    root = ok(first, "add", str(tmp_path / "source"))
    data, path = files["deep/wanted"], f"{CONTENT}/{root}/deep/wanted"
    file = next(e["cid"] for e in json.loads(ok(first, "ls", f"{root}/deep", "--json")) if e["name"] == "wanted")
    reading = slow.new_key(scopes=["read"])[1]
    before = fetched_bytes(slow)

    # Nothing is fetched for who only asks what is here.
    for status, how in (
        (404, {"key": reading}), (404, {"method": "HEAD"}), (404, {"if_none_match": "*"}),
        (412, {"cache_control": "only-if-cached"}), (412, {"cache_control": "only-if-cached", "key": reading}),
    ):  # fmt: skip
        with asked(slow, path, **how) as answer:
            assert answer.status == status, how
    with asked(slow, f"{CONTENT}/{file}", if_none_match=f'"{file}"') as answer:
        assert (answer.status, answer.read()) == (304, b"")
    assert fetched_bytes(slow) == before
    with asked(slow, path, if_none_match=f'"{file}"') as answer:
        assert (answer.status, answer.headers["etag"]) == (304, f'"{file}"')
    assert 0 < fetched_bytes(slow) - before < 10_000, "the directories on the way"
    with asked(slow, f"{CONTENT}/{root}/deep/nowhere") as answer:
        assert answer.status == 404
    with asked(slow, f"{CONTENT}/{root}/deep") as answer:
        assert answer.status == 400, "a directory"
    with asked(slow, f"{CONTENT}/{file}", range=f"bytes={size}-") as answer:
        assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{size}")

    # What is asked for comes first; who leaves ends it.
    with asked(slow, path, range=f"bytes={size - 1000}-") as answer:
        assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {size - 1000}-{size - 1}/{size}")
        assert answer.read() == data[-1000:]
        assert fetched_bytes(slow) - before < size - MIB
    with asked(slow, path) as answer:
        assert (answer.status, answer.headers["content-length"]) == (200, str(size))
        assert answer.read(1000) == data[:1000]
        assert transfers(slow) == 1
    until(lambda: transfers(slow) == 0)

    # The first bytes are here before the last have come, and who reads to the end leaves it stored.
    with asked(slow, path) as answer:
        got = answer.read(100_000)
        assert transfers(slow) == 1, "the first bytes are here and the last are not"
        assert fetched_bytes(slow) - before < size
        with asked(slow, path, range="bytes=1000-1999") as other:
            assert other.read() == data[1000:2000], "two of one transfer"
        assert got + answer.read() == data
    until(lambda: transfers(slow) == 0)
    assert fetched_bytes(slow) - before < size + 2 * MIB, "what had come was not fetched again"
    first.stop()
    with asked(slow, f"{CONTENT}/{file}", key=reading) as answer:
        assert (answer.status, answer.read()) == (200, data)
    listed = {each["cid"] for each in slow.call("GET", "/node/v1/storage/objects")}
    assert listed == {file}, "nothing else of the directory"


def test_what_cannot_be_had_has_a_status_before_the_first_byte_and_is_cut_off_after_it(
    first: StartedNode, slow: StartedNode, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(8 * MIB))
    cid = ok(first, "add", str(tmp_path / "source"))
    with asked(slow, f"{CONTENT}/{Cid.of(Codec.RAW, b'nobody has this')}") as answer:
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (404, "block_not_found")
    with asked(slow, f"{CONTENT}/{Cid.of(Codec.DAG_PB, b'nobody has this')}/a") as answer:
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (404, "block_not_found")
    with asked(slow, f"{CONTENT}/{cid}") as answer:
        assert answer.status == 200
        assert answer.read(1000)
        # A leaf that is not sent yet goes wrong at the only place that has it.
        corrupt(payload(first, cid), 7 * MIB + 5)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


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
