"""An own node that wants credentials, refuses or answers nonsense. (That it works: tests/contract/test_kubo_rpc.py.)"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.support.kubo_rpc_server import KuboRpcServer, kubo_rpc_server

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import parse_private_hosts
from prsm.data_layer.network.http_fetch import UNPACED
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.seams import Fault, StorageFault

SECRET = "s3cret-token-of-the-node"
BLOCK = Block(Cid.of(Codec.RAW, b"kept"), b"kept")


def node_at(server: KuboRpcServer, credentials: str = "") -> KuboNode:
    return KuboNode.at(
        server.url, credentials=credentials, private_hosts=parse_private_hosts([server.url.removeprefix("http://")])
    )


def soon() -> float:
    return time.monotonic() + 10


@pytest.fixture
def server() -> Iterator[KuboRpcServer]:
    with kubo_rpc_server() as server:
        yield server


@pytest.mark.parametrize(
    ("credentials", "header"),
    [(f"bearer:{SECRET}", f"Bearer {SECRET}"), ("basic:me:pass:word", "Basic bWU6cGFzczp3b3Jk")],
)
def test_credentials_are_sent(credentials: str, header: str) -> None:
    with kubo_rpc_server(header) as server:
        node = node_at(server, credentials)
        node.put([BLOCK], deadline_s=soon(), pace=UNPACED)
        assert node.has(BLOCK.cid, deadline_s=soon())
        node.close()


def test_wrong_credentials_are_named_but_not_shown() -> None:
    with kubo_rpc_server("Bearer another") as server:
        node = node_at(server, f"bearer:{SECRET}")
        with pytest.raises(StorageFault, match="answered 403") as refused:
            node.put([BLOCK], deadline_s=soon(), pace=UNPACED)
        assert refused.value.fault is Fault.OTHER_REPLICA
        assert SECRET not in str(refused.value) + repr(refused.value) + node.name
        node.close()


@pytest.mark.parametrize("credentials", [SECRET, "bearer:", "basic:me", "digest:x", f"bearer:{SECRET}\r\nX-Evil: 1"])
def test_credentials_in_no_known_form_are_refused_and_not_shown(credentials: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        KuboNode.at("http://127.0.0.1:5001", credentials=credentials)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>a portal</html>", "not its RPC"),
        (200, b"[1]", "not its RPC"),
        (200, b"", "did not confirm"),
        (200, b'{"Pins": ["bafkqaaa"]}', "did not confirm"),
        (200, b'{"Pins": null}', "did not confirm"),
        (200, b'{"Message": "disk full", "Code": 0, "Type": "error"}', "disk full"),
        (500, b'{"Message": "pin: \\u0000\\n bad", "Code": 0, "Type": "error"}', "pin: bad"),
        (500, b"x" * 100_000, "answered 500"),
        (404, b"404 page not found", "answered 404"),
        (429, b"", "answered 429"),
    ],
)
def test_an_answer_that_is_none_is_no_pin(server: KuboRpcServer, status: int, body: bytes, said: str) -> None:
    node = node_at(server)
    server.say_instead.append((status, body))
    with pytest.raises(StorageFault, match=said) as failed:
        node.pin(BLOCK.cid, deadline_s=soon())
    assert len(failed.value.message) < 600
    assert failed.value.message.isprintable()
    node.close()


def test_a_node_that_names_another_block_did_not_keep_ours(server: KuboRpcServer) -> None:
    node = node_at(server)
    server.say_instead.append((200, json.dumps({"Key": "bafkqaaa", "Size": 4}).encode()))
    with pytest.raises(StorageFault, match="calls block"):
        node.put([BLOCK], deadline_s=soon(), pace=UNPACED)
    node.close()


def test_a_node_that_takes_fewer_blocks_than_it_was_sent_is_told_on(server: KuboRpcServer) -> None:
    node = node_at(server)
    server.say_instead.append((200, json.dumps({"Stats": {"BlockCount": 1}}).encode()))
    with pytest.raises(StorageFault, match="took 1 of 2 blocks"):
        node.put([BLOCK, Block(Cid.of(Codec.RAW, b""), b"")], deadline_s=soon(), pace=UNPACED)
    node.close()


def test_an_endless_answer_is_cut_off(server: KuboRpcServer) -> None:
    node = node_at(server)
    server.say_instead.append((200, b" " * 3_000_000))
    with pytest.raises(StorageFault, match="at most 1048576 bytes"):
        node.version(deadline_s=soon())
    node.close()


def test_only_a_miss_says_that_a_block_is_absent(server: KuboRpcServer) -> None:
    node = node_at(server)
    assert not node.has(BLOCK.cid, deadline_s=soon())
    server.say_instead.append((500, b'{"Message": "datastore: closed", "Type": "error"}'))
    with pytest.raises(StorageFault, match="datastore: closed"):
        node.has(BLOCK.cid, deadline_s=soon())
    node.close()


@pytest.mark.parametrize(
    "body",
    [
        *(
            b'{"Pins": 5}',
            b'{"Pins": {"a": [1]}}',
            b'{"Keys": 5}',
            b'{"Keys": [1]}',
            b'{"Stats": [1]}',
            b'{"Stats": 5}',
        ),
        *(b'{"Version": 7}', b'{"Key": {}}', b'{"Type": "error", "Message": [1]}', b'{"Hash": null}'),
        *(b"[" * 100_000, b'{"Pins": ' + b"[" * 100_000, b"{} {}", b"\xff\xfe", b"null", b"NaN"),
    ],
    ids=lambda body: ascii(body)[:30],
)
@pytest.mark.parametrize("status", [200, 500])
def test_no_answer_of_any_shape_breaks_the_reader(server: KuboRpcServer, status: int, body: bytes) -> None:
    node = node_at(server)
    blocks = [BLOCK, Block(Cid.of(Codec.RAW, b""), b"")]
    for call in (
        lambda: node.pin(BLOCK.cid, deadline_s=soon()),
        lambda: node.pinned(BLOCK.cid, deadline_s=soon()),
        lambda: node.unpin(BLOCK.cid, deadline_s=soon()),
        lambda: node.has(BLOCK.cid, deadline_s=soon()),
        lambda: node.put([BLOCK], deadline_s=soon(), pace=UNPACED),
        lambda: node.put(blocks, deadline_s=soon(), pace=UNPACED),
        lambda: node.add([b"x"], chunk_bytes=1024, deadline_s=soon(), pace=UNPACED),
        lambda: node.probe(soon()),
    ):
        server.say_instead.append((status, body))
        with suppress(StorageFault):  # anything else fails the test
            call()
    node.close()


def test_asking_for_what_a_node_does_not_have_needs_no_connection_each(server: KuboRpcServer) -> None:
    node = node_at(server)
    for number in range(20):
        assert not node.has(Cid.of(Codec.RAW, b"%d" % number), deadline_s=soon())
    assert server.accepted == 1
    node.close()
