"""CARs made for the trustless gateway: what each scope, path and range brings, in which order, each block once."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_dag import MemoryDag

from prsm.data_layer.car import CarReader
from prsm.data_layer.cid import Cid, Codec
from prsm.data_layer.dag_walk import EntityBytes, Scope, car_of
from prsm.data_layer.directories import NoSuchEntry
from prsm.data_layer.unixfs_dag import PROFILES, FileDagReader

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
