"""CARs made for the trustless gateway: what each scope, path and range brings, in which order, each block once."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_dag import MemoryDag

from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link
from prsm.data_layer.codec.dag_walk import EntityBytes, Scope, blocks_below, car_of
from prsm.data_layer.codec.directories import NoSuchEntry, build_directory
from prsm.data_layer.codec.unixfs import Child, encode_file
from prsm.data_layer.codec.unixfs_dag import PROFILES, FileDagReader

SMALL = replace(PROFILES["kubo-v1"], chunk_bytes=10, max_links=3)
SHARDED = replace(SMALL, shard_above_bytes=200, fanout=16)


def read(
    dag: MemoryDag, root: Cid, path: str = "", scope: Scope = "all", entity: EntityBytes | None = None
) -> list[Cid]:
    car = b"".join(car_of(root, path, scope, entity, dag.__getitem__))
    reader = CarReader(io.BytesIO(car).read)
    assert list(reader.roots) == [root]
    cids = [block.cid for block in reader]
    assert len(cids) == len(set(cids)), "each block once"
    return cids


def file_of(size: int) -> tuple[MemoryDag, Cid, bytes]:
    data = bytes(place % 251 for place in range(size))
    dag = MemoryDag()
    return dag, dag.add_file(io.BytesIO(data), SMALL).cid, data


def test_all_of_a_file_comes_depth_first() -> None:
    dag, root, data = file_of(245)
    cids = read(dag, root)
    assert cids[0] == root
    assert set(cids) == set(dag.blocks)
    assert b"".join(dag[cid] for cid in cids if cid.codec is Codec.RAW) == data
    assert read(dag, root, scope="entity") == cids
    assert read(dag, root, scope="block") == [root]


def test_a_directory_alone_and_with_all_under_it() -> None:
    dag = MemoryDag()
    root = dag.add_folder({"a.txt": b"aa", "sub/b.txt": b"bb", "sub/c.txt": b"aa"}, SMALL).cid
    sub = read(dag, root, "sub", "block")
    assert sub[0] == root
    assert len(sub) == 2
    assert read(dag, root, scope="entity") == [root]
    assert set(read(dag, root)) == set(dag.blocks)
    assert read(dag, root, "sub/b.txt") == [root, sub[1], Cid.of(Codec.RAW, b"bb")]


def test_a_sharded_directory_is_whole_with_all_its_shards_and_none_of_its_files() -> None:
    dag = MemoryDag()
    root = dag.add_folder({f"{number}.txt": b"%d" % number for number in range(200)}, SHARDED).cid
    shards = {cid for cid in dag.blocks if cid.codec is Codec.DAG_PB}
    assert len(shards) > 10
    assert set(read(dag, root, scope="entity")) == shards
    assert set(read(dag, root)) == set(dag.blocks)
    assert read(dag, root, "77.txt")[-1] == Cid.of(Codec.RAW, b"77")


def test_a_path_that_leads_nowhere_is_refused_before_the_first_byte() -> None:
    dag = MemoryDag()
    root = dag.add_folder({"a.txt": b"aa"}, SMALL).cid
    with pytest.raises(NoSuchEntry):
        next(car_of(root, "b.txt", "all", None, dag.__getitem__))
    with pytest.raises(NoSuchEntry):
        next(car_of(root, "a.txt/b", "all", None, dag.__getitem__))


@given(st.integers(1, 400), st.integers(-450, 450), st.one_of(st.none(), st.integers(-450, 450)))
def test_a_range_brings_what_is_needed_to_read_it_and_no_leaf_more(size: int, first: int, last: int | None) -> None:
    dag, root, data = file_of(size)
    entity = EntityBytes(first, last)
    cids = set(read(dag, root, scope="entity", entity=entity))
    start, stop = entity.within(size)
    reader = FileDagReader(root)
    for cid in iter(lambda: next((c for c in reader.wanted if c in cids), None), None):
        reader.feed(cid, dag[cid])
    leaves = {leaf.offset: leaf for leaf in reader.leaves}
    needed = {leaf.cid for leaf in leaves.values() if leaf.offset < stop and leaf.offset + leaf.size_bytes > start}
    got = b"".join(dag[leaves[at].cid] for at in sorted(leaves) if leaves[at].cid in needed)
    assert needed <= cids
    assert data[start:stop] in got or start == stop
    whole = {cid for cid in cids if cid.codec is Codec.RAW}
    assert whole <= needed | {root}


def doubled(levels: int, leaf: bytes) -> tuple[MemoryDag, Cid, int]:
    """A file of 2^levels equal leaves in ``levels`` + 1 blocks: each block links twice to the one below."""
    dag = MemoryDag()
    child = Child(dag.add(Codec.RAW, leaf), len(leaf), len(leaf))
    for _ in range(levels):
        block = encode_file([child, child])
        child = Child(dag.add(Codec.DAG_PB, block), 2 * child.size_bytes, len(block) + 2 * child.dag_bytes)
    return dag, child.cid, child.size_bytes


@pytest.mark.parametrize("entity", [None, EntityBytes(0, None), EntityBytes(1, -2), EntityBytes(12_345, 1 << 39)])
def test_a_dag_that_repeats_its_blocks_is_walked_once_however_large_it_claims_to_be(entity: EntityBytes | None) -> None:
    dag, root, size = doubled(36, b"sixteen bytes!!!")
    assert size == 1 << 40
    asked: list[Cid] = []

    def get_block(cid: Cid) -> bytes:
        asked.append(cid)
        assert len(asked) < 500
        return dag[cid]

    blocks = [block.cid for block in blocks_below(root, "entity", entity, get_block)]
    assert set(blocks) == set(dag.blocks)
    assert len(blocks) == len(set(blocks))


def test_folders_that_repeat_are_walked_once_too() -> None:
    dag = MemoryDag()
    below = dag.add_folder({"leaf": b"x"}, SMALL)
    for _ in range(40):
        below = build_directory(
            [Link(below.cid, "a", below.dag_bytes), Link(below.cid, "b", below.dag_bytes)],
            SMALL,
            dag.blocks.__setitem__,
        )
    assert set(read(dag, below.cid)) == set(dag.blocks)
