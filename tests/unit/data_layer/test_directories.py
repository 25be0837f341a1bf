import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.memory_dag import MemoryDag

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.directories import (
    MAX_PATH_PARTS,
    DirectoryLimits,
    DirectoryReader,
    NoSuchEntry,
    build_directory,
    build_tree,
    read_directory,
    resolve,
    split_path,
)
from prsm.data_layer.codec.hamt import build_shards, hash_name, slot_of
from prsm.data_layer.codec.unixfs import (
    HamtNode,
    HamtSlot,
    decode_node,
    encode_directory,
    encode_file,
    encode_shard,
    entry_name_fault,
)
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, Profile

PROFILE = PROFILES[DEFAULT_PROFILE]
SHARDED = replace(PROFILE, shard_above_bytes=100)
NARROW = replace(SHARDED, fanout=8)
CID = Cid.of(Codec.RAW, b"x")
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: not entry_name_fault(name)
)


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("", 0),
        ("hello", 0xCBD8A7B341BD9B02),
        ("The quick brown fox jumps over the lazy dog", 0xE34BBC7BBC071B6C),
    ],
)
def test_known_hashes(name: str, hashed: int) -> None:
    assert hash_name(name) == hashed


def test_slots_are_taken_from_the_most_significant_bits() -> None:
    hashed = 0x0123456789ABCDEF
    assert [slot_of(hashed, depth, 256) for depth in range(9)] == [1, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, None]
    assert [slot_of(hashed, depth, 1024) for depth in (0, 5, 6)] == [0x0123456789ABCDEF >> 54, 0x0DE, None]
    assert [slot_of(hashed, depth, 8) for depth in (20, 21)] == [0x0123456789ABCDEF >> 1 & 7, None]


@given(st.sets(names, max_size=60), st.sampled_from([PROFILE, SHARDED, NARROW]), st.randoms(use_true_random=False))
def test_a_directory_reads_back_whatever_order_its_entries_came_in(
    given_names: set[str], profile: Profile, order: random.Random
) -> None:
    links = [Link(Cid.of(Codec.RAW, name.encode()), name, len(name)) for name in sorted(given_names)]
    dag = MemoryDag()
    built = build_directory(links, profile, dag.blocks.__setitem__)
    shuffled = list(links)
    order.shuffle(shuffled)
    assert build_directory(shuffled, profile, dag.blocks.__setitem__) == built
    assert sorted(read_directory(built.cid, dag.__getitem__), key=lambda link: link.name) == links
    assert built.dag_bytes == sum(map(len, dag.blocks.values())) + sum(link.size for link in links)
    for link in links:
        assert resolve(built.cid, link.name, dag.__getitem__) == link.cid


def test_looking_up_in_a_sharded_directory_asks_for_the_way_only() -> None:
    dag = MemoryDag()
    built = build_directory([Link(CID, f"{n}", 1) for n in range(10_000)], SHARDED, dag.blocks.__setitem__)
    asked: list[Cid] = []

    def get(cid: Cid) -> bytes:
        asked.append(cid)
        return dag[cid]

    assert resolve(built.cid, "4711", get) == CID
    assert asked[0] == built.cid
    assert len(asked) <= 3 < len(dag.blocks)
    with pytest.raises(NoSuchEntry, match="'nothing'"):
        resolve(built.cid, "nothing", get)


FILES = {"a": b"1", "b/c": b"2", "b/d/e": b"3"}


def test_paths_lead_through_nested_directories() -> None:
    dag = MemoryDag()
    root = dag.add_folder(FILES, PROFILE, folders=["empty/inside", "b"]).cid
    for path, data in FILES.items():
        assert dag[resolve(root, path, dag.__getitem__)] == data
        assert dag[resolve(root, f"/{path}/", dag.__getitem__)] == data
    assert resolve(root, "", dag.__getitem__) == root
    assert read_directory(resolve(root, "empty/inside", dag.__getitem__), dag.__getitem__) == []
    for path in ("c", "b/x", "a/b", "b/c/d"):
        with pytest.raises(NoSuchEntry):
            resolve(root, path, dag.__getitem__)


def test_a_directory_inside_its_cid_needs_no_block() -> None:
    dag = MemoryDag()
    inside = Cid(Codec.DAG_PB, encode_directory([Link(Cid.parse("bafkqaaa"), "a", 0)]), identity=True)
    outer = dag.add(Codec.DAG_PB, encode_directory([Link(inside, "in", 1)]))
    assert resolve(outer, "in/a", dag.__getitem__) == Cid.parse("bafkqaaa")
    assert [link.name for link in read_directory(inside, dag.__getitem__)] == ["a"]


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a"],
        [""],
        ["."],
        ["a/../b"],
        ["a//b"],
        ["a/\x00"],
        ["a/\udcff"],
        ["x" * 9000],
        ["/".join("x" * (MAX_PATH_PARTS + 1))],
    ],
)
def test_paths_that_cannot_be_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        build_tree([(path, CID, 1) for path in paths], PROFILE, lambda _cid, _block: None)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "\x00", "\ud800"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        build_directory([Link(CID, name, 1)], PROFILE, lambda _cid, _block: None)
    with pytest.raises(InvalidRequest):
        build_directory([Link(CID, "twice", 1)] * 2, PROFILE, lambda _cid, _block: None)


def test_parts_of_a_path() -> None:
    assert split_path("/a/b/") == ["a", "b"]
    assert split_path("") == split_path("///") == []
    assert len(split_path("/".join("x" * MAX_PATH_PARTS))) == MAX_PATH_PARTS


def _two_names_of_one_slot() -> tuple[str, str]:
    seen: dict[int, str] = {}
    for number in range(5000):
        slot = hash_name(str(number)) >> 48  # two levels alike
        if slot in seen:
            return seen[slot], str(number)
        seen[slot] = str(number)
    raise AssertionError


def test_names_alike_in_their_first_bits_share_a_deeper_shard() -> None:
    first, second = _two_names_of_one_slot()
    dag = MemoryDag()
    links = [Link(CID, first, 1), Link(CID, second, 1)]
    root = build_directory(links, replace(PROFILE, shard_above_bytes=0), dag.blocks.__setitem__).cid
    assert len(dag.blocks) == 3
    assert {link.name for link in read_directory(root, dag.__getitem__)} == {first, second}


def test_names_of_one_hash_cannot_be_sharded() -> None:
    with pytest.raises(InvalidRequest, match="one hash"):
        build_shards([Link(CID, "a", 1), Link(CID, "a", 2)], 256)


def _slot(name: str, depth: int = 0, shift: int = 0) -> int:
    at = slot_of(hash_name(name), depth, 256)
    assert at is not None
    return (at + shift) % 256


def _refused(dag: MemoryDag, root: Cid, reason: str) -> None:
    with pytest.raises(BadBlock, match=reason):
        read_directory(root, dag.__getitem__)


def test_an_entry_in_the_wrong_slot_is_refused_by_reading_and_by_looking_up() -> None:
    dag = MemoryDag()
    root = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(_slot("a", shift=1), "a", CID, 1)], 256))
    _refused(dag, root, "wrong shard")
    with pytest.raises(BadBlock, match="wrong shard"):
        resolve(root, "a", dag.__getitem__)


def test_a_shard_in_the_wrong_place_is_refused() -> None:
    dag = MemoryDag()
    inner = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(_slot("a", 1), "a", CID, 1)], 256))
    right = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(_slot("a"), "", inner, 1)], 256))
    assert [link.name for link in read_directory(right, dag.__getitem__)] == ["a"]
    wrong = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(_slot("a", shift=1), "", inner, 1)], 256))
    _refused(dag, wrong, "wrong shard")
    twice = [HamtSlot(at, "", inner, 1) for at in sorted((_slot("a"), _slot("a", shift=1)))]
    _refused(dag, dag.add(Codec.DAG_PB, encode_shard(twice, 256)), "two places")


def test_what_cannot_be_a_shard_is_refused() -> None:
    dag = MemoryDag()
    for block, reason in (
        (encode_shard([], 256), "empty"),
        (encode_directory([]), "no part of a sharded"),
        (encode_file([]), "no part of a sharded"),
        (encode_shard([HamtSlot(0, "x", CID, 1)], 16), "fanout 16"),
    ):
        inner = dag.add(Codec.DAG_PB, block)
        _refused(dag, dag.add(Codec.DAG_PB, encode_shard([HamtSlot(_slot("a"), "", inner, 1)], 256)), reason)
    file = dag.add(Codec.DAG_PB, encode_file([]))
    _refused(dag, file, "no directory")
    assert read_directory(dag.add(Codec.DAG_PB, encode_shard([], 256)), dag.__getitem__) == []


def test_a_chain_of_shards_deeper_than_a_hash_is_refused() -> None:
    dag = MemoryDag()
    cid = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(0, "a", CID, 1)], 256))
    for _ in range(9):
        cid = dag.add(Codec.DAG_PB, encode_shard([HamtSlot(0, "", cid, 1)], 256))
    _refused(dag, cid, "deeper than the hash")


@settings(max_examples=20)
@given(st.integers(5, 40))
def test_limits_of_a_directory(count: int) -> None:
    dag = MemoryDag()
    links = [Link(CID, f"{n}", 1) for n in range(count)]
    for profile in (PROFILE, replace(SHARDED, shard_above_bytes=0)):
        root = build_directory(links, profile, dag.blocks.__setitem__).cid
        assert len(read_directory(root, dag.__getitem__, DirectoryLimits(entries=count))) == count
        with pytest.raises(BadBlock, match=f"{count - 1} entries"):
            read_directory(root, dag.__getitem__, DirectoryLimits(entries=count - 1))
    shards = sum(isinstance(decode_node(cid, block), HamtNode) for cid, block in dag.blocks.items()) - 1
    if shards:
        with pytest.raises(BadBlock, match=f"{shards - 1} shards"):
            read_directory(root, dag.__getitem__, DirectoryLimits(shards=shards - 1))


def test_a_block_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(BadBlock, match="not asked for"):
        DirectoryReader(CID).feed(Cid.of(Codec.RAW, b""), b"")
