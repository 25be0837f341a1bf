"""Storage over HTTP as strangers' programs speak it: ranges, conditions, bad requests, the gateway, and the quota."""

import hashlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from tests.support.started_node import StartedNode, started_node

from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec

CONTENT = "/node/v1/storage/content"
OBJECTS = "/node/v1/storage/objects"
MIB = 1024 * 1024
RAW, CAR = "application/vnd.ipld.raw", "application/vnd.ipld.car"
ABSENT = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


def send(node: StartedNode, method: str, path: str, body: Any = None, key: str | None = "", **headers: str) -> Answer:
    """``key`` None: nobody; empty: the operator."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent["authorization"] = f"Bearer {key or node.key}"
    try:
        connection.request(method, path, body, sent)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def add(node: StartedNode, data: bytes, key: str = "") -> str:
    answer = send(node, "POST", CONTENT, data, key)
    assert answer.status == 201, answer.body
    return json.loads(answer.body)["cid"]


def raw(node: StartedNode, head: bytes, *, shut: bool = True, wait_s: float = 30) -> bytes:
    """What comes back for bytes on the wire."""
    with socket.create_connection(("127.0.0.1", node.port), wait_s) as wire:
        wire.sendall(head)
        if shut:
            wire.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while piece := wire.recv(65536):
                got += piece
        except ConnectionResetError:
            pass
        return got


def authorized(node: StartedNode, request_line: str, *headers: str) -> bytes:
    lines = [f"{request_line} HTTP/1.1", "Host: a", f"Authorization: Bearer {node.key}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


# Adding


def test_a_body_without_a_length_is_taken_as_it_comes(node: StartedNode) -> None:
    pieces = [os.urandom(700_000) for _ in range(5)]
    answer = send(node, "POST", CONTENT, iter(pieces))
    assert answer.status == 201, answer.body
    data = b"".join(pieces)
    assert json.loads(answer.body)["size_bytes"] == len(data)
    assert send(node, "GET", f"{CONTENT}/{json.loads(answer.body)['cid']}").body == data


def test_adding_twice_is_adding_once(node: StartedNode) -> None:
    data = uuid4().bytes
    first, second = (json.loads(send(node, "POST", CONTENT, data).body) for _ in range(2))
    assert first["cid"] == second["cid"] == str(Cid.of(Codec.RAW, data))
    assert (first["fresh"], first["newly_kept"]) == (True, True)
    assert (second["fresh"], second["newly_kept"]) == (False, False)


def test_who_may_not_is_told_before_the_body_is_sent(node: StartedNode) -> None:
    line = f"POST {CONTENT} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n"
    answer = raw(node, f"{line}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer
    expecting = authorized(node, f"POST {CONTENT}", "Expect: 100-continue", "Content-Length: 3")
    with socket.create_connection(("127.0.0.1", node.port), 30) as wire:
        wire.sendall(expecting)
        assert wire.recv(1000).startswith(b"HTTP/1.1 100 ")
        wire.sendall(b"abc")
        assert wire.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_a_sender_that_goes_leaves_nothing_behind(node: StartedNode) -> None:
    objects = status(node)["objects"]
    head = authorized(node, f"POST {CONTENT}", "Content-Length: 5000000")
    raw(node, head + os.urandom(3_000_000))
    incoming = node.home / "storage" / "incoming"
    until(lambda: not list(incoming.iterdir()))
    assert status(node)["objects"] == objects


def test_what_is_added_is_kept_for_the_caller_alone(node: StartedNode) -> None:
    key, data = node.new_client()[1], uuid4().bytes
    cid = add(node, data, key)
    entries = {"entries": [{"path": "a", "cid": cid}]}
    made = [node.call("POST", "/node/v1/storage/directories", entries, key=key) for _ in range(2)]
    assert [each["newly_kept"] for each in made] == [True, False]
    for kept in (cid, made[0]["cid"]):
        assert send(node, "DELETE", f"{OBJECTS}/{kept}/pin", key=key).status == 204
        assert not node.call("GET", f"{OBJECTS}/{kept}")["pinned"]
    assert send(node, "DELETE", f"{OBJECTS}/{cid}/pin", key=key).status == 404
    statuses = [send(node, "PUT", f"{OBJECTS}/{cid}/pin", key=key).status for _ in range(2)]
    assert statuses == [204, 204]
    assert send(node, "PUT", f"{OBJECTS}/{ABSENT}/pin", key=key).status == 404


def test_unknown_fields_and_profiles_are_refused(node: StartedNode) -> None:
    for query in ("?profil=kubo-v1", "?profile=nonsense", "?a=1&b=2"):
        answer = send(node, "POST", CONTENT + query, b"data")
        assert (answer.status, answer.code) == (400, "invalid_request"), query


def test_no_more_than_a_few_may_be_added_at_once(node: StartedNode) -> None:
    head = authorized(node, f"POST {CONTENT}", "Content-Length: 10")
    slow = [socket.create_connection(("127.0.0.1", node.port), 30) for _ in range(4)]
    try:
        for wire in slow:
            wire.sendall(head + b"a")
        until(lambda: send(node, "POST", CONTENT, b"one more").status == 503)
        refused = send(node, "POST", CONTENT, b"one more")
        assert (refused.code, "retry-after" in refused.headers) == ("overloaded", True)
        assert send(node, "GET", f"{OBJECTS}").status == 200, "all else goes on"
    finally:
        for wire in slow:
            wire.close()
    until(lambda: send(node, "POST", CONTENT, b"one more").status == 201)


# Reading


@pytest.fixture(scope="module")
def data() -> bytes:
    return os.urandom(2 * MIB + 12345)


@pytest.fixture(scope="module")
def cid(shared_node: StartedNode, data: bytes) -> str:
    return add(shared_node, data)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=1048570-1048590", 1048570, 1048591)],
)
def test_a_range(node: StartedNode, data: bytes, cid: str, asked: str, start: int, stop: int | None) -> None:
    answer = send(node, "GET", f"{CONTENT}/{cid}", range=asked)
    expected = data[start:stop]
    assert (answer.status, answer.body) == (206, expected)
    first = data.index(expected[:64]) if len(expected) >= 64 else (start + len(data) if start < 0 else start)
    assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"


@pytest.mark.parametrize("asked", ["bytes=5-3", "bytes=0-1,4-5", "lines=1-2", "bytes=", "bytes=a-b"])
def test_what_is_no_range_is_all_of_it(node: StartedNode, data: bytes, cid: str, asked: str) -> None:
    answer = send(node, "GET", f"{CONTENT}/{cid}", range=asked)
    assert (answer.status, answer.body) == (200, data)


def test_a_range_behind_the_end(node: StartedNode, data: bytes, cid: str) -> None:
    answer = send(node, "GET", f"{CONTENT}/{cid}", range=f"bytes={len(data)}-")
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(data)}")


def test_conditions(node: StartedNode, data: bytes, cid: str) -> None:
    etag = send(node, "HEAD", f"{CONTENT}/{cid}").headers["etag"]
    assert send(node, "GET", f"{CONTENT}/{cid}", if_none_match=etag).status == 304
    assert send(node, "GET", f"{CONTENT}/{cid}", if_none_match=f'"x", W/{etag}').status == 304
    assert send(node, "GET", f"{CONTENT}/{cid}", if_none_match='"x"').body == data
    assert send(node, "GET", f"{CONTENT}/{ABSENT}", if_none_match="*").status == 404
    assert send(node, "GET", f"{CONTENT}/{cid}", range="bytes=0-3", if_range=etag).status == 206
    assert send(node, "GET", f"{CONTENT}/{cid}", range="bytes=0-3", if_range='"x"').body == data


def test_head_has_the_length_and_no_body_nor_range(node: StartedNode, data: bytes, cid: str) -> None:
    answer = send(node, "HEAD", f"{CONTENT}/{cid}", range="bytes=0-3")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{CONTENT}/", 400), (f"{CONTENT}/nonsense", 400), (f"{CONTENT}/{ABSENT}", 404),
        (f"{CONTENT}/{ABSENT}/below", 404), (f"{CONTENT}/b%00c", 400), (f"{CONTENT}/%FF%FE", 400),
        (f"{CONTENT}/" + "b" * 5000, 400), (f"{OBJECTS}/b%00c", 400), (f"{OBJECTS}/%F0%9F%98%80/entries", 400),
        (f"{OBJECTS}?after=nonsense", 400), (f"{OBJECTS}?limit=0", 400), (f"{OBJECTS}/{ABSENT}/provenance", 200),
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere(node: StartedNode, path: str, status: int) -> None:
    assert send(node, "GET", path).status == status


def test_paths_below_a_directory(node: StartedNode, cid: str, data: bytes) -> None:
    entries = [{"path": "a/ü%", "cid": cid}]
    directory = node.call("POST", "/node/v1/storage/directories", {"entries": entries})["cid"]
    assert send(node, "GET", f"{CONTENT}/{directory}/a/{quote('ü%')}").body == data
    named = send(node, "HEAD", f"{CONTENT}/{directory}/a/{quote('ü%')}").headers["content-disposition"]
    assert named == f"attachment; filename*=UTF-8''{quote('ü%')}"
    for below, status in (("a", 400), ("b", 404), ("a/%00", 400), ("../x", 400), ("a/..", 400), ("%2e%2e", 400)):
        assert send(node, "GET", f"{CONTENT}/{directory}/{below}").status == status, below


def test_the_entries_of_a_directory_come_by_name_and_page_by_page(node: StartedNode, cid: str) -> None:
    names = sorted(["ü%", "b", "a b", "Z", "\U0001f600", "~", *(f"{number:04}" for number in range(1200))])
    entries = {"entries": [{"path": f"below/{name}", "cid": cid} for name in names] + [{"path": "b", "cid": cid}]}
    directory = node.call("POST", "/node/v1/storage/directories", entries)["cid"]
    [other, below] = node.call("GET", f"{OBJECTS}/{directory}/entries")
    assert [other["name"], below["name"], below["kind"]] == ["b", "below", "directory"]
    at = f"{OBJECTS}/{below['cid']}/entries"
    first = node.call("GET", at)
    assert [each["name"] for each in first] == names[:1000], "as many as there may be"
    seen: list[str] = []
    for size in (400, 400, 400, 6):
        page = node.call("GET", f"{at}?limit=400&after={quote(seen[-1] if seen else '')}")
        assert (len(page), page[0]["cid"]) == (size, cid)
        seen += [each["name"] for each in page]
    assert seen == names
    assert node.call("GET", f"{at}?after={quote(names[-1])}") == []
    for query in ("limit=0", "limit=1001", "limit=x", "after=" + "a" * 5000):
        assert send(node, "GET", f"{at}?{query}").status == 400, query
    assert send(node, "GET", f"{OBJECTS}/{cid}/entries").status == 400
    assert send(node, "GET", f"{OBJECTS}/{ABSENT}/entries").status == 404


def test_what_is_not_here_and_must_not_be_fetched(node: StartedNode) -> None:
    answer = send(node, "GET", f"{CONTENT}/{ABSENT}", cache_control="no-transform, Only-If-Cached")
    assert (answer.status, answer.headers["content-type"]) == (412, "text/plain; charset=utf-8")
    assert send(node, "HEAD", f"{CONTENT}/{ABSENT}").status == 404
    assert send(node, "GET", f"{CONTENT}/{ABSENT}").code == "not_stored", "there is nobody to ask"


def test_damage_is_told_on_every_way_to_read(node: StartedNode) -> None:
    cid = add(node, os.urandom(2 * MIB))
    entries = {"entries": [{"path": "a", "cid": cid}, {"path": "b", "cid": add(node, uuid4().bytes)}]}
    directory = node.call("POST", "/node/v1/storage/directories", entries)["cid"]
    small = add(node, os.urandom(1000))
    objects = node.home / "storage" / "objects"
    spoil(objects / cid[-2:] / cid, 5)
    spoil(objects / small[-2:] / small, 5)
    outboard = objects / directory[-2:] / f"{directory}.car"
    spoil(outboard, outboard.stat().st_size - 1)
    for path, damaged in (
        (f"/ipfs/{small}?format=raw", small),  # found
        (f"{CONTENT}/{small}", small),  # and known from then on
        (f"/ipfs/{cid}?format=car", cid),
        (f"{CONTENT}/{cid}", cid),
        (f"/ipfs/{cid}?format=car&dag-scope=block", cid),
        (f"/ipfs/{directory}?format=raw", directory),
        (f"/ipfs/{directory}/a?format=car", directory),
        (f"{CONTENT}/{directory}/a", directory),
        (f"{OBJECTS}/{directory}/entries", directory),
        (f"{OBJECTS}/{directory}/entries?limit=1&after=a", directory),
    ):
        answer = send(node, "GET", path)
        assert (answer.status, answer.code) == (409, "object_damaged"), (path, answer.status, answer.body[:200])
        assert f"prsm storage repair {damaged}" in answer.body.decode(), path
    assert send(node, "GET", f"/ipfs/{cid}?format=raw").status == 200, "a block that is what its CID says"
    for each in (cid, small, directory):
        assert node.call("GET", f"{OBJECTS}/{each}")["state"] == "damaged"
        assert send(node, "DELETE", f"{OBJECTS}/{each}/pin").status == 204
    collected = node.call("POST", "/node/v1/storage/gc")
    assert status(node)["damaged"] == 0, f"no file is held any more: {collected}"


def test_one_caller_verifies_one_object_at_once_and_who_leaves_ends_it(node: StartedNode, cid: str) -> None:
    key = user(node)
    entries = {"entries": [{"path": f"{uuid4()}/{number}", "cid": cid} for number in range(600)]}
    directory = node.call("POST", "/node/v1/storage/directories", entries)["cid"]
    below = {each["cid"] for each in node.call("GET", f"{OBJECTS}/{directory}/entries")}
    before = [node.call("GET", f"{OBJECTS}/{each}")["verified_at"] for each in sorted(below)[::6]]
    path = f"{OBJECTS}/{directory}/verify"
    with socket.create_connection(("127.0.0.1", node.port), 30) as wire:
        wire.sendall(authorized(node, f"POST {path}", "Content-Length: 0"))
        until(lambda: send(node, "POST", f"{OBJECTS}/{cid}/verify").status == 503, 2)
        refused = send(node, "POST", f"{OBJECTS}/{cid}/verify")
        assert (refused.code, "retry-after" in refused.headers) == ("overloaded", True)
        assert send(node, "POST", f"{OBJECTS}/{cid}/verify", key=key).status == 200, "another may"
    until(lambda: send(node, "POST", f"{OBJECTS}/{cid}/verify").status == 200)
    after = [node.call("GET", f"{OBJECTS}/{each}")["verified_at"] for each in sorted(below)[::6]]
    assert sum(one != two for one, two in zip(before, after, strict=True)) < len(before), "the rest was left"


def spoil(path: Path, at: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_methods(node: StartedNode, cid: str) -> None:
    for path, allowed in ((f"{CONTENT}/{cid}", "GET, HEAD"), (CONTENT, "POST"), (f"/ipfs/{cid}", "GET, HEAD, OPTIONS")):
        answer = send(node, "DELETE", path)
        assert (answer.status, answer.headers["allow"]) == (405, allowed)


def test_a_reader_that_leaves_is_not_read_for(node: StartedNode) -> None:
    large = add(node, os.urandom(48 * MIB))
    before = node.metric("prsm_storage_bytes_total", direction="served") or 0
    with socket.create_connection(("127.0.0.1", node.port), 30) as wire:
        wire.sendall(authorized(node, f"GET {CONTENT}/{large}"))
        wire.recv(1000)
    assert send(node, "GET", f"{CONTENT}/{large}", range="bytes=0-0").status == 206
    assert (node.metric("prsm_storage_bytes_total", direction="served") or 0) - before < 48 * MIB


# The gateway


def test_a_raw_block(node: StartedNode) -> None:
    block = os.urandom(100_000)
    cid = add(node, block)
    for answer in (
        send(node, "GET", f"/ipfs/{cid}?format=raw", key=None),
        send(node, "GET", f"/ipfs/{cid}", key=None, accept=RAW),
    ):
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, block, RAW)
        assert answer.headers["x-ipfs-roots"] == cid
        assert "immutable" in answer.headers["cache-control"]
    etag = answer.headers["etag"]
    assert send(node, "GET", f"/ipfs/{cid}?format=raw", key=None, if_none_match=etag).status == 304
    assert send(node, "GET", f"/ipfs/{ABSENT}?format=raw", key=None, if_none_match="*").status == 404
    part = send(node, "GET", f"/ipfs/{cid}?format=raw", key=None, range="bytes=10-19")
    assert (part.status, part.body) == (206, block[10:20])
    head = send(node, "HEAD", f"/ipfs/{cid}?format=raw", key=None)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(block)))
    assert send(node, "HEAD", f"/ipfs/{ABSENT}?format=raw", key=None).status == 404


def test_the_identity_block_is_a_sign_of_life(node: StartedNode) -> None:
    answer = send(node, "GET", "/ipfs/bafkqaaa?format=raw", key=None)
    assert (answer.status, answer.body) == (200, b"")


def test_what_the_gateway_does_not_give(node: StartedNode, cid: str) -> None:
    for path, status, headers in (
        (f"/ipfs/{cid}", 406, {}), (f"/ipfs/{cid}", 406, {"accept": "text/html"}),
        (f"/ipfs/{cid}?format=tar", 406, {}), (f"/ipfs/{ABSENT}?format=raw", 404, {}),
        (f"/ipfs/{ABSENT}?format=car", 404, {}), (f"/ipfs/{ABSENT}/a?format=car", 404, {}),
        (f"/ipfs/{ABSENT}?format=raw", 412, {"cache_control": "only-if-cached"}),
        (f"/ipfs/{cid}?format=raw", 200, {"cache_control": "only-if-cached"}),
        ("/ipfs/nonsense?format=raw", 400, {}), ("/ipfs/?format=raw", 400, {}), ("/ipfs/%00?format=raw", 400, {}),
        (f"/ipfs/{cid}?format=car&dag-scope=x", 400, {}), (f"/ipfs/{cid}?format=car&entity-bytes=x", 400, {}),
        (f"/ipfs/{cid}?format=car&car-version=2", 400, {}), (f"/ipfs/{cid}/a?format=raw", 400, {}),
        (f"/ipfs/{cid}/a?format=car", 404, {}), (f"/ipfs/{cid}/%00?format=car", 400, {}),
    ):  # fmt: skip
        answer = send(node, "GET", path, key=None, **headers)
        assert answer.status == status, (path, headers, answer.status, answer.body[:200])


def test_a_car_holds_what_its_scope_says(node: StartedNode, cid: str, data: bytes) -> None:
    directory = node.call("POST", "/node/v1/storage/directories", {"entries": [{"path": "a/b", "cid": cid}]})["cid"]
    leaves = [Cid.of(Codec.RAW, data[at : at + MIB]) for at in range(0, len(data), MIB)]
    whole = blocks_of(node, cid, "")
    assert whole == [Cid.parse(cid), *leaves]
    assert blocks_of(node, cid, "&dag-scope=entity") == whole
    assert blocks_of(node, cid, "&dag-scope=block") == [Cid.parse(cid)]
    assert blocks_of(node, cid, f"&entity-bytes={MIB}:{MIB}") == [Cid.parse(cid), leaves[1]]
    assert blocks_of(node, cid, "&entity-bytes=-1:*") == [Cid.parse(cid), leaves[2]]
    below = blocks_of(node, f"{directory}/a/b", "&dag-scope=block")
    assert (len(below), below[0], below[-1]) == (3, Cid.parse(directory), Cid.parse(cid))
    assert len(blocks_of(node, directory, "")) == 2 + len(whole)
    assert len(blocks_of(node, directory, "&dag-scope=entity")) == 1
    answer = send(node, "GET", f"/ipfs/{cid}?format=car", key=None)
    again = send(node, "GET", f"/ipfs/{cid}?format=car", key=None, if_none_match=answer.headers["etag"])
    assert again.status == 304
    assert send(node, "HEAD", f"/ipfs/{cid}?format=car", key=None).body == b""


def blocks_of(node: StartedNode, path: str, query: str) -> list[Cid]:
    answer = send(node, "GET", f"/ipfs/{path}?format=car{query}", key=None)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith(CAR)
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return answer.body[at - size : at]

    return [block.cid for block in CarReader(read)]


def test_a_page_of_any_origin_may_read_the_gateway_and_nothing_else(node: StartedNode, cid: str) -> None:
    asking = {"origin": "https://page.example", "access_control_request_method": "GET"}
    asking["access_control_request_headers"] = "range"
    answer = send(node, "OPTIONS", f"/ipfs/{cid}?format=raw", key=None, **asking)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
    assert {"range", "if-none-match"} <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert int(answer.headers["access-control-max-age"]) > 0
    for path, status in (
        (f"/ipfs/{cid}?format=raw", 200), (f"/ipfs/{cid}?format=car", 200), (f"/ipfs/{ABSENT}?format=raw", 404),
        (f"/ipfs/{cid}", 406), ("/ipfs/nonsense", 400),
    ):  # fmt: skip
        answer = send(node, "GET", path, key=None, origin="https://page.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*"), path
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"content-length", "content-range", "etag", "x-ipfs-roots"} <= set(exposed)
        assert "access-control-allow-credentials" not in answer.headers
    for method, path in (
        ("OPTIONS", f"{CONTENT}/{cid}"),
        ("GET", f"{CONTENT}/{cid}"),
        ("GET", OBJECTS),
        ("OPTIONS", OBJECTS),
    ):
        answer = send(node, method, path, origin="https://page.example")
        assert not [name for name in answer.headers if name.startswith("access-control")], (method, path)


# Fetching, the quota, and a node of other settings


def test_what_no_endpoint_has_is_refused_with_a_status(node: StartedNode) -> None:
    answer = send(node, "POST", f"{OBJECTS}/{ABSENT}/fetch")
    assert answer.status in (502, 503), answer.body
    assert "endpoint" in json.loads(answer.body)["error"]["message"]


def test_a_fetch_of_what_is_here_says_so_at_once(node: StartedNode, cid: str, data: bytes) -> None:
    answer = send(node, "POST", f"{OBJECTS}/{cid}/fetch")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    [found] = map(json.loads, answer.body.splitlines())
    assert (found["cid"], found["size_bytes"]) == (cid, len(data))


def test_metrics_count_what_is_stored(node: StartedNode, cid: str) -> None:
    assert node.metric("prsm_storage_limit_bytes") == status(node)["limit_bytes"]
    until(lambda: (node.metric("prsm_storage_objects", state="whole") or 0) > 0, 40)
    until(lambda: node.metric("prsm_storage_objects", state="damaged") == 0, 40)  # it is counted now and then
    assert node.metric("prsm_storage_uploads", state="waiting") == 0
    assert node.metric("prsm_storage_offline") == 1
    assert (node.metric("prsm_storage_bytes_total", direction="added") or 0) > 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedNode]:
    settings: dict[str, Any] = {"STORAGE_QUOTA_BYTES": 100_000, "STORAGE_OBJECT_LIMIT_BYTES": 200_000}
    settings |= {"STORAGE_GATEWAY_ENABLED": "false", "BODY_TIMEOUT_S": 1}
    with started_node(tmp_path_factory.mktemp("small"), **settings) as node:
        yield node


def user(node: StartedNode) -> str:
    principal, _ = node.new_client()
    return node.new_key(principal_id=principal, scopes=["read", "storage"])[1]


def test_nobody_keeps_more_than_the_quota(small: StartedNode) -> None:
    key = user(small)
    first = os.urandom(60_000)
    kept = add(small, first, key)
    for body in (os.urandom(60_000), iter([os.urandom(60_000)])):
        over = send(small, "POST", CONTENT, body, key)  # chunks, where there is no length
        assert (over.status, over.code) == (413, "storage_quota_exceeded"), over.body
    foreign = add(small, os.urandom(60_000))
    assert send(small, "PUT", f"{OBJECTS}/{foreign}/pin", key=key).code == "storage_quota_exceeded"
    entries = {"entries": [{"path": "a", "cid": foreign}]}
    made = send(
        small, "POST", "/node/v1/storage/directories", json.dumps(entries), key, **{"content-type": "application/json"}
    )
    assert made.code == "storage_quota_exceeded"
    assert send(small, "PUT", f"{OBJECTS}/{kept}/pin", key=key).status == 204, "it is kept already"
    again = {"entries": [{"path": "a", "cid": kept}, {"path": "b", "cid": kept}]}
    made = send(
        small, "POST", "/node/v1/storage/directories", json.dumps(again), key, **{"content-type": "application/json"}
    )
    assert made.status == 201, "a folder of what is kept takes nothing more"
    assert [each["cid"] for each in json.loads(send(small, "GET", OBJECTS, key=key).body)] == sorted(
        [kept, json.loads(made.body)["cid"]]
    )
    assert send(small, "DELETE", f"{OBJECTS}/{kept}/pin", key=key).status == 204
    assert send(small, "DELETE", f"{OBJECTS}/{json.loads(made.body)['cid']}/pin", key=key).status == 204
    add(small, os.urandom(100_000), key)


def test_two_at_once_cannot_pass_the_quota_together(small: StartedNode) -> None:
    key = user(small)
    statuses: list[int] = []
    senders = [
        threading.Thread(target=lambda: statuses.append(send(small, "POST", CONTENT, os.urandom(60_000), key).status))
        for _ in range(3)
    ]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    assert sorted(statuses) == [201, 413, 413]


def test_an_object_has_a_largest_size(small: StartedNode) -> None:
    for body in (os.urandom(200_001), iter([os.urandom(200_001)])):
        answer = send(small, "POST", CONTENT, body)
        assert (answer.status, answer.code) == (413, "body_too_large")


def test_a_sender_that_stops_is_given_up(small: StartedNode) -> None:
    answer = raw(small, authorized(small, f"POST {CONTENT}", "Content-Length: 10") + b"abc", shut=False)
    assert b"body_timeout" in answer


def test_a_gateway_that_is_off_serves_nobody(small: StartedNode) -> None:
    cid = add(small, b"abc")
    assert send(small, "GET", f"/ipfs/{cid}?format=raw", key=None).status == 404


def status(node: StartedNode) -> dict[str, Any]:
    return node.call("GET", "/node/v1/storage/status")


def until(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_bytes_are_what_the_name_says(node: StartedNode) -> None:
    data = os.urandom(10)
    assert Cid.parse(add(node, data)).digest == hashlib.sha256(data).digest()
    assert not list(Path(node.home / "storage" / "incoming").iterdir())
