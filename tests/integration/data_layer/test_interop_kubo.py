"""Kubo reads our objects by bitswap and we read Kubo's, equal to the byte. Helia carries them between the two.

Kubo checks each block that comes over the network, so what it has under our CIDs are ordinary blocks of IPFS.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from tests.support.ipfs_peers import helia, kubo_library
from tests.support.ipfs_peers.helia import Helia
from tests.support.ipfs_peers.kubo_library import KuboLibrary
from tests.support.ipfs_peers.objects import (
    ALL_PROFILES,
    DEEP,
    KIB,
    MIB,
    SIZES,
    TREES,
    content_on_disk,
    new_store,
    stored_content,
    tree_dag,
    write_car_of,
    write_tree,
)
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import gateway_at, object_of, random_bytes, supply_of

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.directories import read_directory
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import HttpLimits
from prsm.data_layer.transfer.download import download

# One more than the 174 leaves that one of Kubo's blocks holds by default.
TWO_LEVELS = 174 * 256 * KIB + 1


class Pair(NamedTuple):
    """Two peers that know each other, and our client of the blocks that Helia has or gets from Kubo."""

    kubo: KuboLibrary
    helia: Helia
    gateway: Gateway


class KuboBlocks(dict[Cid, bytes]):
    """Kubo's own store, as the blocks of a DAG."""

    def __init__(self, kubo: KuboLibrary) -> None:
        self._kubo = kubo

    def __missing__(self, cid: Cid) -> bytes:
        return self._kubo.block(cid)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    kubo_folder, helia_folder = tmp_path_factory.mktemp("kubo"), tmp_path_factory.mktemp("helia")
    with kubo_library.running(kubo_folder) as kubo, helia.running(helia_folder) as node:
        kubo.dial(node.addresses[0])
        yield Pair(kubo, node, gateway_at(node.serve(), HttpLimits()))


@pytest.mark.parametrize("profile", ALL_PROFILES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("size", SIZES)
def test_kubo_fetches_our_files(tmp_path: Path, pair: Pair, profile: Profile, size: int) -> None:
    payload = random_bytes(size, seed=4000 + size)
    root, dag = object_of(payload, profile)
    (tmp_path / "car").write_bytes(dag.car(root))
    pair.helia.import_car(tmp_path / "car")
    pair.kubo.get(str(root), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == payload
    assert {cid: pair.kubo.block(cid) for cid in dag.blocks} == dag.blocks


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
@pytest.mark.parametrize("tree", TREES)
def test_kubo_fetches_our_directories(tmp_path: Path, pair: Pair, profile: Profile, tree: str) -> None:
    root, dag = tree_dag(tree, profile)
    write_car_of(tmp_path / "car", root, dag.blocks)
    pair.helia.import_car(tmp_path / "car")
    pair.kubo.get(str(root), tmp_path / "got")
    assert content_on_disk(tmp_path / "got") == TREES[tree]


def test_our_object_is_handed_on(tmp_path: Path, pair: Pair) -> None:
    payload = random_bytes(3 * MIB + 7, seed=4999)
    root, dag = object_of(payload, DEEP)
    (tmp_path / "car").write_bytes(dag.car(root))
    pair.helia.import_car(tmp_path / "car")
    pair.kubo.get(str(root), tmp_path / "at kubo")
    with helia.running(tmp_path) as third:  # it knows Kubo alone
        third.dial(pair.kubo.addresses[0])
        assert len(third.peers()) == 1
        third.get(str(root), tmp_path / "at the third")
    assert (tmp_path / "at the third").read_bytes() == payload


@pytest.mark.parametrize("size", [*SIZES, TWO_LEVELS])
def test_kubos_files_are_read(tmp_path: Path, pair: Pair, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size, seed=5000 + size))
    named = pair.kubo.add(source)
    assert named.startswith("Qm")
    assert named in pair.kubo.pins()
    root = Cid.parse(named)
    assert MemoryDag(blocks=KuboBlocks(pair.kubo)).read_file(root) == source.read_bytes()
    store = new_store(tmp_path / "store")
    assert download(root, store, supply_of([pair.gateway])).size_bytes == size
    assert stored_content(store, root) == source.read_bytes()


@pytest.mark.parametrize("tree", TREES)
def test_kubos_directories_are_read(tmp_path: Path, pair: Pair, tree: str) -> None:
    write_tree(tmp_path / "source", TREES[tree])
    root = Cid.parse(pair.kubo.add(tmp_path / "source"))
    names = {link.name for link in read_directory(root, pair.kubo.block)}
    assert names == {path.partition("/")[0] for path in TREES[tree]}
    store = new_store(tmp_path / "store")
    download(root, store, supply_of([pair.gateway]))
    assert stored_content(store, root) == TREES[tree]


def test_an_unpinned_object_is_still_given(tmp_path: Path, pair: Pair) -> None:
    (tmp_path / "source").write_bytes(random_bytes(300 * KIB, seed=6000))
    named = pair.kubo.add(tmp_path / "source")
    pair.kubo.unpin(named)
    assert named not in pair.kubo.pins()
    pair.helia.get(named, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == (tmp_path / "source").read_bytes()


def test_what_nobody_has_is_not_found(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair.kubo.get(str(Cid.of(Codec.RAW, b"nobody has it")), tmp_path / "got", timeout_s=1)


def test_the_peers_speak_to_loopback_only(pair: Pair) -> None:
    sockets = [each for pid in (pair.kubo.pid, pair.helia.pid) for each in psutil.Process(pid).net_connections("inet")]
    assert any(each.status == psutil.CONN_ESTABLISHED for each in sockets)
    assert {address.ip for each in sockets for address in (each.laddr, each.raddr) if address} == {"127.0.0.1"}
