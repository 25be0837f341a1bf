"""Helia reads our objects and we read Helia's, equal to the byte: by archive, by block and by trustless gateway."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.gateway_server import GatewayServer, gateway_server
from tests.support.ipfs_peers import helia
from tests.support.ipfs_peers.helia import Helia
from tests.support.ipfs_peers.json_lines import PeerError
from tests.support.ipfs_peers.objects import (
    ALL_PROFILES,
    KIB,
    SIZES,
    TREES,
    content_on_disk,
    importer_options,
    new_store,
    stored_blocks,
    stored_content,
    take_in,
    tree_dag,
    write_car_of,
    write_tree,
)
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import gateway_at, object_of, random_bytes, supply_of

from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import HttpLimits
from prsm.data_layer.transfer.download import download

# What importers of the past made, and make still: each must be readable here.
WAYS = {
    "raw leaves": {},
    "wrapped leaves": {"rawLeaves": False},
    "wrapped leaves of type raw": {"rawLeaves": False, "leafType": "raw"},
    "a root over one leaf": {"reduceSingleLeafToSelf": False},
    "version 0": {"rawLeaves": False, "cidVersion": 0, "chunkBytes": 256 * KIB, "maxLinks": 174},
    "version 0, deep": {"rawLeaves": False, "cidVersion": 0, "chunkBytes": 16 * KIB, "maxLinks": 8},
    "raw leaves under version 0": {"cidVersion": 0},
}

profiles = pytest.mark.parametrize("profile", ALL_PROFILES, ids=lambda profile: profile.name)
sizes = pytest.mark.parametrize("size", SIZES)
trees = pytest.mark.parametrize("tree", TREES)
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helia]:
    """A Helia that gets nothing from anywhere but the test."""
    with helia.running(tmp_path_factory.mktemp("helia")) as node:
        yield node


@pytest.fixture(scope="module")
def gateway(peer: Helia) -> Gateway:
    """Our client of the blocks that ``peer`` gives out over HTTP."""
    return gateway_at(peer.serve(), HttpLimits())


class Served(NamedTuple):
    """A Helia that knows one gateway, and that gateway."""

    peer: Helia
    server: GatewayServer
    blocks: dict[Cid, bytes]


@pytest.fixture
def served(reader: Served) -> Served:
    """The gateway has nothing at the start of each test."""
    reader.blocks.clear()
    reader.server.requests.clear()
    return reader


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    blocks: dict[Cid, bytes] = {}
    folder = tmp_path_factory.mktemp("reader")
    with gateway_server(blocks) as server, helia.running(folder, [server.url]) as node:
        yield Served(node, server, blocks)


@profiles
@sizes
def test_our_archive_of_a_file_is_read(tmp_path: Path, peer: Helia, profile: Profile, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size, seed=size))
    store = new_store(tmp_path / "store")
    root = take_in(store, source, profile)
    blocks = stored_blocks(store)
    write_car_of(tmp_path / "car", root, blocks)
    assert peer.import_car(tmp_path / "car") == ([str(root)], len(blocks))
    peer.get(str(root), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == source.read_bytes()
    assert peer.add(source, **importer_options(profile)) == str(root)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@trees
def test_our_archive_of_a_directory_is_read(tmp_path: Path, peer: Helia, profile: Profile, tree: str) -> None:
    write_tree(tmp_path / "source", TREES[tree])
    root, dag = tree_dag(tree, profile)
    write_car_of(tmp_path / "car", root, dag.blocks)
    peer.import_car(tmp_path / "car")
    peer.get(str(root), tmp_path / "got")
    assert content_on_disk(tmp_path / "got") == TREES[tree]
    assert set(peer.names(str(root))) == {path.partition("/")[0] for path in TREES[tree]}
    assert peer.add(tmp_path / "source", **importer_options(profile)) == str(root)


@profiles
@sizes
def test_our_blocks_are_read_over_http(tmp_path: Path, served: Served, profile: Profile, size: int) -> None:
    payload = random_bytes(size, seed=1000 + size)
    root, dag = object_of(payload, profile)
    served.blocks.update(dag.blocks)
    served.peer.get(str(root), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == payload
    fetched = {Cid.parse(path.removeprefix("/ipfs/").partition("?")[0]) for path in served.server.requests}
    assert fetched <= set(dag.blocks)


@trees
def test_our_directories_are_read_over_http(tmp_path: Path, served: Served, tree: str) -> None:
    root, dag = tree_dag(tree, PROFILES["unixfs-v1-2025"])
    served.blocks.update(dag.blocks)
    served.peer.get(str(root), tmp_path / "got")
    assert content_on_disk(tmp_path / "got") == TREES[tree]


def test_a_wrong_block_over_http_is_refused(tmp_path: Path, served: Served) -> None:
    payload = random_bytes(300 * KIB, seed=5)
    root, dag = object_of(payload, PROFILES["kubo-v1"])
    leaf = next(cid for cid in dag.blocks if cid.codec is Codec.RAW)
    served.blocks.update(dag.blocks)
    served.blocks[leaf] = bytes(len(dag.blocks[leaf]))
    with pytest.raises(PeerError):
        served.peer.get(str(root), tmp_path / "refused", timeout_s=2)
    served.blocks[leaf] = dag.blocks[leaf]
    served.peer.get(str(root), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == payload


@ways
@sizes
def test_its_files_are_downloaded(tmp_path: Path, peer: Helia, gateway: Gateway, way: str, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size, seed=2000 + size))
    root = Cid.parse(peer.add(source, **WAYS[way]))
    store = new_store(tmp_path / "store")
    assert download(root, store, supply_of([gateway])).size_bytes == size
    assert stored_content(store, root) == source.read_bytes()
    # Each block can be given on, rebuilt from the payload: only what stands above the leaves takes further room.
    assert MemoryDag(blocks=stored_blocks(store)).read_file(root) == source.read_bytes()
    outboard = store.outboard_path(root)
    assert outboard.exists() != (root.codec is Codec.RAW)
    assert not outboard.exists() or outboard.stat().st_size < max(size // 50, 2 * KIB)


@pytest.mark.parametrize("way", ["raw leaves", "version 0"])
@trees
def test_its_directories_are_downloaded(tmp_path: Path, peer: Helia, gateway: Gateway, way: str, tree: str) -> None:
    write_tree(tmp_path / "source", TREES[tree])
    root = Cid.parse(peer.add(tmp_path / "source", **WAYS[way]))
    store = new_store(tmp_path / "store")
    download(root, store, supply_of([gateway]))
    assert stored_content(store, root) == TREES[tree]


@ways
@sizes
def test_its_archives_are_read(tmp_path: Path, peer: Helia, way: str, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size, seed=3000 + size))
    root = peer.add(source, **WAYS[way])
    peer.export_car(root, tmp_path / "car")
    archive = CarReader(BytesIO((tmp_path / "car").read_bytes()).read)
    assert archive.roots == (Cid.parse(root),)
    dag = MemoryDag(blocks={block.cid: bytes(block.data) for block in archive})
    assert dag.read_file(Cid.parse(root)) == source.read_bytes()


def test_single_blocks_go_both_ways(tmp_path: Path, peer: Helia) -> None:
    root, dag = object_of(random_bytes(100 * KIB, seed=7))
    for cid, block in dag.blocks.items():
        assert not peer.has(str(cid))
        (tmp_path / "block").write_bytes(block)
        peer.put_block(str(cid), tmp_path / "block")
        assert peer.has(str(cid))
        peer.get_block(str(cid), tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == block
    peer.get(str(root), tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == dag.read_file(root)


def test_what_nobody_has_is_said_in_time(tmp_path: Path, peer: Helia) -> None:
    with pytest.raises(PeerError):
        peer.get(str(Cid.of(Codec.RAW, b"nobody has it")), tmp_path / "got", timeout_s=1)
