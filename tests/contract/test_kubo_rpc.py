"""What ``KuboNode`` may rely on of a node's RPC, held against every node there is.

Always against a small node of this suite's own; against a Kubo daemon where ``PRSM_TEST_KUBO_URL`` names one; and
against js-ipfs where ``PRSM_TEST_JS_IPFS=1`` says so.
"""

import os
import secrets
import time
from collections.abc import Iterator

import pytest
from tests.support.ipfs_peers import js_ipfs_daemon
from tests.support.kubo_rpc_server import kubo_rpc_server

from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES, Block
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import Origin, parse_private_hosts
from prsm.data_layer.network.http_fetch import UNPACED
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.seams import Fault, StorageFault


def _kubo() -> Iterator[str]:
    url = os.environ.get("PRSM_TEST_KUBO_URL", "")
    if not url:
        pytest.skip("PRSM_TEST_KUBO_URL names no Kubo daemon")
    yield url


def _js_ipfs() -> Iterator[str]:
    with js_ipfs_daemon.running() as url:
        yield url


def _own() -> Iterator[str]:
    with kubo_rpc_server() as server:
        yield server.url


@pytest.fixture(scope="module", params=[_own, _kubo, _js_ipfs], ids=["own", "kubo", "js-ipfs"])
def node(request: pytest.FixtureRequest) -> Iterator[KuboNode]:
    starting = request.param()
    url = next(starting)
    origin = Origin.parse(url)
    node = KuboNode.at(url, private_hosts=parse_private_hosts([f"{origin.host}:{origin.port}"]))
    yield node
    node.close()
    next(starting, None)


def soon() -> float:
    return time.monotonic() + 20


def block_of(data: bytes) -> Block:
    return Block(Cid.of(Codec.RAW, data), data)


def small_dag() -> tuple[Block, list[Block]]:
    leaves = [block_of(secrets.token_bytes(size)) for size in (1, 1000, 1024 * 1024)]
    root = dag_pb.encode([dag_pb.Link(leaf.cid, f"{n}", len(leaf.data)) for n, leaf in enumerate(leaves)], None)
    return Block(Cid.of(Codec.DAG_PB, root), root), leaves


def read(node: KuboNode, cid: Cid) -> bytes:
    room = memoryview(bytearray(MAX_BLOCK_BYTES))
    return bytes(room[: node.fetch(cid, room, deadline_s=soon(), pace=UNPACED)])


def test_it_says_what_it_is(node: KuboNode) -> None:
    assert node.version(deadline_s=soon())
    assert node.probe(soon()) > 0


@pytest.mark.parametrize("size", [1, 300, 1024 * 1024])
def test_one_block_goes_there_and_back(node: KuboNode, size: int) -> None:
    block = block_of(secrets.token_bytes(size))
    assert not node.has(block.cid, deadline_s=soon())
    assert node.put([block], deadline_s=soon(), pace=UNPACED) == size
    assert node.has(block.cid, deadline_s=soon())
    assert read(node, block.cid) == block.data


def test_a_dag_goes_there_in_one_request_and_is_pinned_and_unpinned(node: KuboNode) -> None:
    root, leaves = small_dag()
    sent = node.put([root, *leaves], deadline_s=soon(), pace=UNPACED)
    assert sent == sum(len(block.data) for block in (root, *leaves))
    for block in (root, *leaves):
        assert read(node, block.cid) == block.data
    assert not node.pinned(root.cid, deadline_s=soon())
    node.pin(root.cid, deadline_s=soon())
    node.pin(root.cid, deadline_s=soon())
    assert node.pinned(root.cid, deadline_s=soon())
    node.unpin(root.cid, deadline_s=soon())
    assert not node.pinned(root.cid, deadline_s=soon())
    node.unpin(root.cid, deadline_s=soon())


def test_putting_again_is_no_error(node: KuboNode) -> None:
    root, leaves = small_dag()
    for _ in range(2):
        node.put([root, *leaves], deadline_s=soon(), pace=UNPACED)
        node.put(leaves[:1], deadline_s=soon(), pace=UNPACED)
    assert node.put([], deadline_s=soon(), pace=UNPACED) == 0


@pytest.mark.parametrize("together", [False, True])
def test_a_block_under_a_wrong_cid_is_not_kept(node: KuboNode, request: pytest.FixtureRequest, together: bool) -> None:
    if together and "js-ipfs" in request.node.name:
        pytest.skip("js-ipfs believes what an archive says")
    good, bad = block_of(secrets.token_bytes(50)), Block(Cid.of(Codec.RAW, secrets.token_bytes(8)), b"something else")
    with pytest.raises(StorageFault):
        node.put([good, bad] if together else [bad], deadline_s=soon(), pace=UNPACED)
    assert not node.has(bad.cid, deadline_s=soon())


def test_an_absent_block_is_for_another_replica(node: KuboNode) -> None:
    absent = Cid.of(Codec.RAW, secrets.token_bytes(8))
    with pytest.raises(StorageFault) as missing:
        node.fetch(absent, memoryview(bytearray(10)), deadline_s=time.monotonic() + 5, pace=UNPACED)
    assert missing.value.fault is Fault.OTHER_REPLICA
    assert str(absent) in missing.value.message
    assert not node.has(absent, deadline_s=soon())


def test_a_file_is_added_and_read(node: KuboNode) -> None:
    content = secrets.token_bytes(700_000)
    cid = node.add([content[:1000], content[1000:]], chunk_bytes=256 * 1024, deadline_s=soon(), pace=UNPACED)
    whole = bytearray(len(content))
    node.cat(cid, memoryview(whole), deadline_s=soon(), pace=UNPACED)
    assert whole == content
    part = bytearray(100)
    node.cat(cid, memoryview(part), offset=262_100, deadline_s=soon(), pace=UNPACED)
    assert part == content[262_100:262_200]
    with pytest.raises(StorageFault, match=r"gave (0|3) of 5 bytes"):
        node.cat(cid, memoryview(bytearray(5)), offset=len(content) - 3, deadline_s=soon(), pace=UNPACED)
