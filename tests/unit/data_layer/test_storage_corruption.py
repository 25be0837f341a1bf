"""Damage to stored blocks is found whatever it is; PRSM_TEST_CORRUPTIONS is how many are tried, 10,000 in `make soak`.

Damage that leaves a wrong hash (flips, cuts, swaps) and damage whose author made every hash right again up to the root
(claims of sizes that are not so) are both tried, at roots, interior blocks and leaves, raw and wrapped.
"""

import io
import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.memory_dag import MemoryDag

from prsm.core.errors import PrsmError
from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec, varint
from prsm.data_layer.codec.unixfs import Child, FileNode, decode_node, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, FileDagReader, Leaf

ROUNDS = int(os.environ.get("PRSM_TEST_CORRUPTIONS", "600"))
SEED = int.from_bytes(os.urandom(4))
SMALL = replace(PROFILES[DEFAULT_PROFILE], chunk_bytes=256, max_links=4)


class Missing(Exception):
    """A block is not there."""


def _raw_file(rng: random.Random) -> tuple[MemoryDag, Cid]:
    dag = MemoryDag()
    return dag, dag.add_file(io.BytesIO(rng.randbytes(rng.randrange(2000, 8000))), SMALL).cid


def _wrapped_file(rng: random.Random) -> tuple[MemoryDag, Cid]:
    dag = MemoryDag()
    return dag, dag.add_wrapped_file([rng.randbytes(256) for _ in range(rng.randrange(4, 20))]).cid


def _read(root: Cid, blocks: dict[Cid, bytes]) -> bytes:
    """Read a file as the store does: each hash, each claim, each leaf's size."""

    def verified(cid: Cid) -> bytes:
        if cid not in blocks or not cid.names(blocks[cid]):
            raise Missing
        return blocks[cid]

    reader = FileDagReader(root)
    payloads: dict[int, bytes] = {}
    while reader.wanted:
        fed = reader.feed(reader.wanted[0], verified(reader.wanted[0]))
        payloads |= {leaf.offset: bytes(data) for leaf, data in fed.known}
        for leaf in fed.to_fetch:
            payloads[leaf.offset] = _leaf(leaf, verified(leaf.cid))
    return b"".join(payloads[leaf.offset] for leaf in reader.leaves)


def _read_archive(archive: bytes | bytearray) -> bytes:
    reader = CarReader(io.BytesIO(archive).read)
    blocks = {block.cid: bytes(block.data) for block in reader}
    return _read(reader.roots[0], blocks)


def _is_refused(read: Callable[..., bytes], *given: object) -> bool:
    try:
        read(*given)
    except (PrsmError, Missing):
        return True
    return False


def _leaf(leaf: Leaf, block: bytes) -> bytes:
    if len(block) != leaf.size_bytes:
        raise Missing
    return block


def _flip(rng: random.Random, dag: MemoryDag) -> None:
    cid, block = rng.choice(list(dag.blocks.items()))
    damaged = bytearray(block)
    damaged[rng.randrange(len(block))] ^= 1 << rng.randrange(8)
    dag.blocks[cid] = bytes(damaged)


def _cut(rng: random.Random, dag: MemoryDag) -> None:
    cid, block = rng.choice(list(dag.blocks.items()))
    dag.blocks[cid] = block[: rng.randrange(len(block))]


def _lengthen(rng: random.Random, dag: MemoryDag) -> None:
    cid, block = rng.choice(list(dag.blocks.items()))
    dag.blocks[cid] = block + rng.randbytes(rng.randrange(1, 9))


def _swap(rng: random.Random, dag: MemoryDag) -> None:
    one, two = rng.sample(list(dag.blocks), 2)
    dag.blocks[one], dag.blocks[two] = dag.blocks[two], dag.blocks[one]


def _lose(rng: random.Random, dag: MemoryDag) -> None:
    del dag.blocks[rng.choice(list(dag.blocks))]


@pytest.mark.parametrize("make", [_raw_file, _wrapped_file])
def test_damaged_blocks_are_found(make: Callable[[random.Random], tuple[MemoryDag, Cid]]) -> None:
    rng = random.Random(SEED)
    for number in range(ROUNDS // 4):
        dag, root = make(rng)
        _read(root, dag.blocks)
        damage = rng.choice((_flip, _cut, _lengthen, _swap, _lose))
        damage(rng, dag)
        assert _is_refused(_read, root, dag.blocks), f"seed {SEED}, round {number}: {damage.__name__}"


def _lying_root(rng: random.Random, dag: MemoryDag, root: Cid) -> Cid:
    """Make one claim in the DAG a lie, with every hash right again up to a new root."""
    wrapped = [cid for cid in dag.blocks if cid.codec is Codec.DAG_PB]
    victim = rng.choice(wrapped)
    renamed = {victim: dag.add(Codec.DAG_PB, _lying_block(rng, dag[victim]))}
    cid = victim
    while cid != root:
        parent = next(p for p in wrapped if any(link.cid == cid for link in dag_pb.decode(dag[p]).links))
        node = dag_pb.decode(dag[parent])
        links = [dag_pb.Link(renamed.get(link.cid, link.cid), link.name, link.size) for link in node.links]
        renamed[parent] = dag.add(Codec.DAG_PB, dag_pb.encode(links, node.data))
        cid = parent
    return renamed[root]


def _lying_block(rng: random.Random, block: bytes) -> bytes:
    node = decode_node(Cid.of(Codec.DAG_PB, block), block)
    assert isinstance(node, FileNode)
    if not node.links:
        claim = node.size_bytes + rng.choice((-1, 1, 100))
        payload = bytes(node.inline)
        if rng.random() < 0.5:  # as many bytes as claimed, so that only the parent's claim is wrong
            payload = (payload + bytes(100))[:claim]
        around = leaf_envelope(claim)
        return around.prefix + payload + around.suffix
    children = [Child(link.cid, link.size_bytes, link.size_bytes) for link in node.links]
    at = rng.randrange(len(children))
    claim = max(0, children[at].size_bytes + rng.choice((-1, 1, -256, 256, 1 << 40)))
    children[at] = replace(children[at], size_bytes=claim)
    total = sum(child.size_bytes for child in children) if rng.random() < 0.5 else node.size_bytes
    data = b"\x08\x02\x18" + varint(total) + b"".join(b"\x20" + varint(child.size_bytes) for child in children)
    if rng.random() < 0.2:
        data = data[: data.rindex(b"\x20")]  # one size too few
    return dag_pb.encode([dag_pb.Link(child.cid, "", child.dag_bytes) for child in children], data)


@pytest.mark.parametrize("make", [_raw_file, _wrapped_file])
def test_lies_about_sizes_are_found_though_every_hash_is_right(
    make: Callable[[random.Random], tuple[MemoryDag, Cid]],
) -> None:
    rng = random.Random(SEED)
    for number in range(ROUNDS // 4):
        dag, root = make(rng)
        lying = _lying_root(rng, dag, root)
        assert _is_refused(_read, lying, dag.blocks), f"seed {SEED}, round {number}"


def test_damaged_archives_are_found() -> None:
    rng = random.Random(SEED)
    for number in range(ROUNDS):
        dag, root = (_raw_file if number % 2 else _wrapped_file)(rng)
        archive = bytearray(dag.car(root))
        at = rng.randrange(len(archive))
        if rng.random() < 0.3:
            del archive[at:]
        else:
            archive[at] ^= 1 << rng.randrange(8)
        assert _is_refused(_read_archive, archive), f"seed {SEED}, round {number}, byte {at}"
