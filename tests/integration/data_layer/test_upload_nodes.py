"""Objects to an own node over RPC and back: a small node of the tests, Kubo or js-ipfs where they are given."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ipfs_peers import js_ipfs_daemon
from tests.support.kubo_rpc_server import kubo_rpc_server
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import SMALL, MemorySource, object_of, random_bytes, supply_of

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.network.addresses import parse_private_hosts
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import read_index
from prsm.data_layer.transfer.download import download
from prsm.data_layer.transfer.throttle import Bandwidth
from prsm.data_layer.transfer.upload import Outlet, upload


def _own() -> Iterator[str]:
    with kubo_rpc_server() as server:
        yield server.url


def _kubo() -> Iterator[str]:
    url = os.environ.get("PRSM_TEST_KUBO_URL", "")
    if not url:
        pytest.skip("PRSM_TEST_KUBO_URL names no Kubo daemon")
    yield url


def _js_ipfs() -> Iterator[str]:
    with js_ipfs_daemon.running() as url:
        yield url


@pytest.fixture(scope="module", params=[_own, _kubo, _js_ipfs], ids=["own", "kubo", "js-ipfs"])
def node(request: pytest.FixtureRequest) -> Iterator[KuboNode]:
    starting = request.param()
    url = next(starting)
    node = KuboNode.at(url, private_hosts=parse_private_hosts([url.partition("://")[2]]))
    yield node
    node.close()
    next(starting, None)


def there_and_back(node: KuboNode, root: Cid, dag: MemoryDag, tmp_path: Path) -> tuple[ObjectFiles, int]:
    """Store, upload, upload again, fetch from the node into another folder; what the second upload sent."""
    here = ObjectFiles(tmp_path / "here", keep_free_bytes=0)
    download(root, here, supply_of([MemorySource("m", dag)]))
    first = upload(root, here, Outlet(node, Bandwidth()))
    assert first.moved_bytes == sum(map(len, dag.blocks.values()))
    again = upload(root, here, Outlet(node, Bandwidth()))
    elsewhere = ObjectFiles(tmp_path / "elsewhere", keep_free_bytes=0)
    download(root, elsewhere, supply_of([node]))
    return elsewhere, again.moved_bytes


def test_a_file(node: KuboNode, tmp_path: Path) -> None:
    payload = random_bytes(600 * SMALL.chunk_bytes + 9, seed=os.getpid())
    root, dag = object_of(payload)
    files, again = there_and_back(node, root, dag, tmp_path)
    assert files.payload_path(root).read_bytes() == payload
    assert again == 0


def test_a_directory(node: KuboNode, tmp_path: Path) -> None:
    dag = MemoryDag()
    contents = {f"d/{number}": random_bytes(100 + number, seed=os.getpid() + number) for number in range(40)}
    root = dag.add_folder(contents, PROFILES["unixfs-v1-2025"], ["empty"]).cid
    files, again = there_and_back(node, root, dag, tmp_path)
    inner = dict(read_index(files, root).children())["d"]
    for name, cid in read_index(files, inner).children():
        assert files.payload_path(cid).read_bytes() == contents[f"d/{name}"]
    assert again == 0
