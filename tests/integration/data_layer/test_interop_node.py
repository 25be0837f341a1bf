"""A started node among other implementations: Helia reads from its gateway, and it fetches what Helia has."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.ipfs_peers import helia
from tests.support.ipfs_peers.helia import Helia
from tests.support.ipfs_peers.objects import KIB, MIB, SIZES, TREES, content_on_disk, write_tree
from tests.support.started_node import StartedNode, started_node
from tests.support.transfers import random_bytes

from prsm.data_layer.codec.unixfs_dag import PROFILES

WRAPPED = {"rawLeaves": False, "cidVersion": 0, "chunkBytes": 256 * KIB, "maxLinks": 8}


class Row(NamedTuple):
    """``first`` is the node's gateway, the node is that of ``last``."""

    first: Helia
    node: StartedNode
    last: Helia

    def prsm(self, *arguments: str | Path) -> str:
        """What a command of the node prints."""
        done = self.node.cli(*map(str, arguments))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Row]:
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "node", "last")]
    with helia.running(folders[0]) as first:
        url = first.serve()
        settings = {"STORAGE_GATEWAYS": url, "STORAGE_PRIVATE_HOSTS": url.removeprefix("http://")}
        with started_node(folders[1], **settings) as node, helia.running(folders[2], [node.url]) as last:
            yield Row(first, node, last)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_the_node_is_read_from_its_gateway(tmp_path: Path, row: Row, profile: str, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size, seed=7000 + size))
    cid = row.prsm("storage", "add", source, "--profile", profile)
    row.last.get(cid, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == source.read_bytes()


def test_a_folder_of_the_node_is_read_from_its_gateway(tmp_path: Path, row: Row) -> None:
    write_tree(tmp_path / "source", TREES["nested"])
    cid = row.prsm("storage", "add", tmp_path / "source")
    row.last.get(cid, tmp_path / "got")
    assert content_on_disk(tmp_path / "got") == TREES["nested"]


@pytest.mark.parametrize("options", [{}, WRAPPED], ids=["raw leaves", "version 0"])
def test_a_foreign_file_goes_through_the_node(tmp_path: Path, row: Row, options: dict[str, object]) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(5 * MIB + 3, seed=len(options)))
    cid = row.first.add(source, **options)
    row.prsm("storage", "get", cid, "--output", tmp_path / "at the node")
    assert (tmp_path / "at the node").read_bytes() == source.read_bytes()
    row.last.get(cid, tmp_path / "at the last")
    assert (tmp_path / "at the last").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("tree", TREES)
def test_a_foreign_folder_goes_through_the_node(tmp_path: Path, row: Row, tree: str) -> None:
    write_tree(tmp_path / "source", TREES[tree])
    cid = row.first.add(tmp_path / "source", **WRAPPED)
    row.prsm("storage", "get", cid, "--output", tmp_path / "at the node")
    assert content_on_disk(tmp_path / "at the node") == TREES[tree]
    row.last.get(cid, tmp_path / "at the last")
    assert content_on_disk(tmp_path / "at the last") == TREES[tree]
