import io
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_dag import MemoryDag

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock
from prsm.data_layer.codec.unixfs import Child, Kind, encode_directory, encode_file, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import (
    DEFAULT_PROFILE,
    PROFILES,
    DagLimits,
    FileDagBuilder,
    FileDagReader,
    Leaf,
    Place,
    ShardBy,
)

TINY = replace(PROFILES[DEFAULT_PROFILE], chunk_bytes=4, max_links=3)


def _import(data: bytes) -> tuple[MemoryDag, Child]:
    dag = MemoryDag()
    return dag, dag.add_file(io.BytesIO(data), TINY)


def _expand(dag: MemoryDag, reader: FileDagReader, order: random.Random | None = None) -> None:
    while reader.wanted:
        cid = order.choice(reader.wanted) if order else reader.wanted[0]
        reader.feed(cid, dag[cid])


def test_the_profiles_are_those_of_ipip_499_and_of_kubo() -> None:
    modern, kubo = PROFILES["unixfs-v1-2025"], PROFILES["kubo-v1"]
    assert (modern.chunk_bytes, modern.max_links, modern.shard_by) == (1 << 20, 1024, ShardBy.BLOCK_BYTES)
    assert (kubo.chunk_bytes, kubo.max_links, kubo.shard_by) == (256 << 10, 174, ShardBy.LINKS_BYTES)
    assert all((p.shard_above_bytes, p.fanout) == (256 << 10, 256) for p in PROFILES.values())
    assert all(name == profile.name for name, profile in PROFILES.items())


@given(st.binary(max_size=200))
def test_a_file_reads_back_and_counts_its_bytes(data: bytes) -> None:
    dag, root = _import(data)
    assert dag.read_file(root.cid) == data
    assert root.size_bytes == len(data)
    interior = sum(len(block) for cid, block in dag.blocks.items() if cid.codec is Codec.DAG_PB)
    repeated = FileDagReader(root.cid)
    _expand(dag, repeated)
    if len({leaf.cid for leaf in repeated.leaves}) == len(repeated.leaves):  # no block stands at two places
        assert root.dag_bytes == len(data) + interior


@given(st.binary(min_size=1, max_size=200), st.randoms(use_true_random=False))
def test_leaves_come_out_in_order_whatever_the_order_of_blocks(data: bytes, order: random.Random) -> None:
    dag, root = _import(data)
    reader = FileDagReader(root.cid, size_claim=len(data))
    _expand(dag, reader, order)
    assert [leaf.offset for leaf in reader.leaves] == list(range(0, len(data), 4))
    assert sum(leaf.size_bytes for leaf in reader.leaves) == len(data)
    assert b"".join(dag[leaf.cid] for leaf in reader.leaves) == data


@given(st.integers(1, 400))
def test_all_leaves_hang_at_one_depth_and_no_node_is_wider_than_the_profile(count: int) -> None:
    blocks: dict[Cid, bytes] = {}
    builder = FileDagBuilder(TINY, blocks.__setitem__)
    for number in range(count):
        builder.leaf(Cid.of(Codec.RAW, str(number).encode()), 4)
    root = builder.finish()
    reader = FileDagReader(root)
    if root.codec is Codec.RAW:
        return
    while reader.wanted:
        feds = [reader.feed(cid, blocks.pop(cid)) for cid in reader.wanted]
        assert not any(fed.wanted for fed in feds) or not any(fed.to_fetch for fed in feds)
        assert all(len(fed.wanted) + len(fed.to_fetch) <= 3 for fed in feds)
    assert len(reader.leaves) == count
    assert not blocks


def test_blocks_are_emitted_children_first_and_the_root_last() -> None:
    emitted: list[Cid] = []
    builder = FileDagBuilder(TINY, lambda cid, _block: emitted.append(cid))
    for number in range(30):
        builder.leaf(Cid.of(Codec.RAW, bytes([number])), 4)
    assert builder.finish() == emitted[-1]
    assert len(emitted) == 10 + 4 + 2 + 1


def test_a_builder_holds_one_level_of_links_at_most() -> None:
    builder = FileDagBuilder(TINY, lambda _cid, _block: None)
    for number in range(5000):
        builder.leaf(Cid.of(Codec.RAW, str(number).encode()), 4)
        assert all(len(level) < 3 for level in builder._levels)


def test_only_the_last_leaf_may_be_short() -> None:
    builder = FileDagBuilder(TINY, lambda _cid, _block: None)
    cid = Cid.of(Codec.RAW, b"x")
    for size in (0, 5):
        with pytest.raises(ValueError, match=str(size)):
            builder.leaf(cid, size)
    builder.leaf(cid, 3)
    with pytest.raises(ValueError, match="4"):
        builder.leaf(cid, 4)
    builder.finish()
    with pytest.raises(ValueError, match="3"):
        builder.leaf(cid, 3)


def test_a_raw_root_is_wanted_because_only_it_knows_its_size() -> None:
    cid = Cid.of(Codec.RAW, b"hello")
    reader = FileDagReader(cid)
    fed = reader.feed(cid, b"hello")
    assert fed.known == [(Leaf(cid, 0, 5), memoryview(b"hello"))]
    assert (reader.size_bytes, reader.leaves, reader.wanted) == (5, [Leaf(cid, 0, 5)], [])


def test_a_root_inside_its_cid_needs_no_block() -> None:
    reader = FileDagReader(Cid.parse("bafkqaaa"))
    assert (reader.wanted, reader.size_bytes) == ([], 0)
    inline = Cid(Codec.RAW, b"abc", identity=True)
    assert FileDagReader(inline).opening.known == [(Leaf(inline, 0, 3), memoryview(b"abc"))]


def test_parts_inside_their_cids_need_no_block() -> None:
    around = leaf_envelope(2)
    parts = [
        Child(Cid(Codec.RAW, b"abc", identity=True), 3, 3),
        Child(Cid(Codec.DAG_PB, around.prefix + b"de" + around.suffix, identity=True), 2, 9),
    ]
    dag = MemoryDag()
    root = dag.add(Codec.DAG_PB, encode_file(parts))
    reader = FileDagReader(root)
    fed = reader.feed(root, dag[root])
    assert b"".join(bytes(data) for _, data in fed.known) == b"abcde"
    assert (reader.wanted, fed.to_fetch, reader.size_bytes) == ([], [], 5)


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.RAW])
def test_wrapped_leaves_carry_what_stands_around_their_payload(kind: Kind) -> None:
    dag = MemoryDag()
    chunks = [b"one ", b"two ", b"three"]
    root = dag.add_wrapped_file(chunks, kind)
    reader = FileDagReader(root.cid)
    _expand(dag, reader)
    for leaf, chunk in zip(reader.leaves, chunks, strict=True):
        assert leaf.envelope is not None
        block = leaf.envelope.prefix + chunk + leaf.envelope.suffix
        assert leaf.cid.names(block)
        assert leaf.block_bytes == len(block)
    assert reader.leaves[0].envelope is reader.leaves[1].envelope
    assert dag.read_file(root.cid) == b"".join(chunks)


def test_a_block_that_stands_at_many_places_is_asked_for_once() -> None:
    dag, root = _import(b"same" * 27)
    reader = FileDagReader(root.cid)
    fed_count = 0
    while reader.wanted:
        assert len(reader.wanted) == 1
        reader.feed(reader.wanted[0], dag[reader.wanted[0]])
        fed_count += 1
    assert fed_count == 3
    assert [leaf.offset for leaf in reader.leaves] == list(range(0, 108, 4))


def test_what_waits_says_where_it_stands() -> None:
    dag, root = _import(bytes(range(100)))
    reader = FileDagReader(root.cid)
    assert reader.waiting == {root.cid: [Place(0, None, 1)]}
    reader.feed(root.cid, dag[root.cid])
    assert [place.offset for places in reader.waiting.values() for place in places] == [0, 36, 72]
    assert [place.size_bytes for places in reader.waiting.values() for place in places] == [36, 36, 28]


def _root_of(*parts: tuple[Cid, int]) -> tuple[Cid, bytes]:
    block = encode_file([Child(cid, size, size) for cid, size in parts])
    return Cid.of(Codec.DAG_PB, block), block


def test_a_child_that_has_another_size_than_claimed_is_refused() -> None:
    leaf = leaf_envelope(3)
    wrapped = leaf.prefix + b"abc" + leaf.suffix
    inner_cid, inner = _root_of((Cid.of(Codec.RAW, b"abcd"), 4))
    for cid, block, size in ((Cid.of(Codec.DAG_PB, wrapped), wrapped, 4), (inner_cid, inner, 3)):
        root, top = _root_of((cid, size))
        reader = FileDagReader(root)
        reader.feed(root, top)
        with pytest.raises(BadBlock, match=f"{size} were claimed"):
            reader.feed(cid, block)


def test_one_block_claimed_with_two_sizes_is_refused() -> None:
    cid, block = _root_of((Cid.of(Codec.RAW, b"abcd"), 4))
    root, top = _root_of((cid, 4), (cid, 5))
    reader = FileDagReader(root)
    reader.feed(root, top)
    with pytest.raises(BadBlock, match="5 were claimed"):
        reader.feed(cid, block)


def test_a_root_that_has_another_size_than_claimed_is_refused() -> None:
    dag, root = _import(b"0123456789")
    with pytest.raises(BadBlock, match="11 were claimed"):
        FileDagReader(root.cid, size_claim=11).feed(root.cid, dag[root.cid])


def test_other_refusals() -> None:
    directory = encode_directory([])
    cid = Cid.of(Codec.DAG_PB, directory)
    with pytest.raises(BadBlock, match="directory"):
        FileDagReader(cid).feed(cid, directory)
    with pytest.raises(BadBlock, match="not asked for"):
        FileDagReader(cid).feed(Cid.of(Codec.RAW, b""), b"")
    big, block = _root_of((Cid.of(Codec.RAW, b""), 3 << 20))
    with pytest.raises(BadBlock, match="at most 2097152"):
        FileDagReader(big).feed(big, block)
    inline, block = _root_of((Cid(Codec.RAW, b"abc", identity=True), 4))
    with pytest.raises(BadBlock, match="4 were claimed"):
        FileDagReader(inline).feed(inline, block)


def _bomb(depth: int, width: int) -> tuple[MemoryDag, Cid]:
    """A few blocks that stand for ``width ** depth`` leaves."""
    dag = MemoryDag()
    child = Child(dag.add(Codec.RAW, b"x"), 1, 1)
    for _ in range(depth):
        block = encode_file([child] * width)
        child = Child(dag.add(Codec.DAG_PB, block), child.size_bytes * width, 1)
    return dag, child.cid


@pytest.mark.parametrize(
    ("depth", "width", "limits", "reason"),
    [
        (9, 100, DagLimits(), "bytes"),
        (6, 100, DagLimits(), "1048576 blocks"),
        (3, 10, DagLimits(nodes=1000), "1000 blocks"),
        (3, 10, DagLimits(size_bytes=999), "at most 999"),
        (16, 1, DagLimits(), "16 blocks deep"),
    ],
)
def test_a_small_dag_that_stands_for_a_huge_file_is_refused(
    depth: int, width: int, limits: DagLimits, reason: str
) -> None:
    dag, root = _bomb(depth, width)
    with pytest.raises(BadBlock, match=reason):
        _expand(dag, FileDagReader(root, limits))


def test_the_limits_themselves_are_allowed() -> None:
    dag, root = _bomb(3, 10)
    reader = FileDagReader(root, DagLimits(depth=4, nodes=10 + 100 + 1000, size_bytes=1000))
    _expand(dag, reader)
    assert len(reader.leaves) == 1000
    dag, root = _bomb(15, 1)
    _expand(dag, FileDagReader(root))
