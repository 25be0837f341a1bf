"""The tree against RFC 9162's definitions, written here as they stand there, and the vectors of transparency-dev."""

import hashlib
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.merkle.tree import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    consistent,
    includes,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    root_of,
)

# github.com/transparency-dev/merkle: the leaves, the roots over 1 to 8 of them, and proofs.
LEAVES = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
INCLUSION = [
    (0, 8, [A, B, C]),
    (5, 8, [D, E, ROOTS[3]]),
    (2, 3, [ROOTS[1]]),
    (1, 5, [ROOTS[0], B, D]),
    (0, 1, []),
]
CONSISTENCY = [
    (1, 8, [A, B, C]),
    (6, 8, ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a", E, ROOTS[3]]),
    (2, 5, [B, D]),
    (
        6,
        7,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            ROOTS[3],
        ],
    ),
    (1, 1, []),
]

trees = st.lists(st.binary(max_size=8), min_size=1, max_size=70, unique=True)


def mth(entries: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


def node_at(entries: list[bytes]):
    def at(level: int, index: int) -> bytes:
        part = entries[index << level : (index + 1) << level]
        assert len(part) == 1 << level, "only complete subtrees may be asked for"
        return mth(part)

    return at


def raw(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(step) for step in proof]


def test_the_roots_are_those_of_the_reference() -> None:
    for size, root in enumerate(ROOTS, 1):
        leaves = list(map(leaf_hash, LEAVES[:size]))
        assert root_of(leaves).hex() == root
        assert root_at(size, node_at(LEAVES)).hex() == root
    assert root_of([]) == root_at(0, node_at([])) == EMPTY_ROOT == Frontier().root()


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference(index: int, size: int, proof: list[str]) -> None:
    assert inclusion_proof(index, size, node_at(LEAVES)) == raw(proof)
    assert includes(leaf_hash(LEAVES[index]), index, size, raw(proof), bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference(first: int, second: int, proof: list[str]) -> None:
    assert consistency_proof(first, second, node_at(LEAVES)) == raw(proof)
    roots = bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1])
    assert consistent(first, roots[0], second, roots[1], raw(proof))


def test_a_vector_as_its_file_has_it() -> None:
    """testdata/consistency/1/happy-path.json."""
    proof = [
        "lqKW0iTyhcZ77pPDD4owkVfw2qNdxbh+QQt4YwoJz8c=",
        "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
        "a0eq8p7jwq+a+Im8H7klTavTEXfxYjLdaqsDXKOb9uQ=",
    ]
    roots = (
        b64decode("bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0="),
        b64decode("XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg="),
    )
    assert consistent(1, roots[0], 8, roots[1], list(map(b64decode, proof)))


def corrupted(proof: list[bytes], *roots: bytes) -> list[list[bytes]]:
    """What the reference's tests do to a proof: none of it may verify."""
    wrong = [[*proof, b""], [b"", *proof], *([*proof, root] for root in roots), *([root, *proof] for root in roots)]
    for place, step in enumerate(proof):
        wrong.append([*proof[:place], bytes([step[0] ^ 8]) + step[1:], *proof[place + 1 :]])
        wrong.append([*proof[:place], *proof[place + 1 :]])
    return wrong


@given(trees, st.data())
def test_a_leaf_is_shown_where_it_is_and_nowhere_else(entries: list[bytes], data: st.DataObject) -> None:
    size = len(entries)
    index = data.draw(st.integers(0, size - 1))
    proof, root, leaf = inclusion_proof(index, size, node_at(entries)), mth(entries), leaf_hash(entries[index])
    assert includes(leaf, index, size, proof, root)
    for other in {index - 1, index + 1, index ^ 2} - {index}:
        assert not includes(leaf, other, size, proof, root)
    for length in {size * 2, size // 2} - {size}:
        assert not includes(leaf, index, length, proof, root)
    for wrong in corrupted(proof, root):
        assert not includes(leaf, index, size, wrong, root)
    assert not includes(leaf_hash(b"no such entry"), index, size, proof, root)
    assert not includes(leaf, index, size, proof, EMPTY_ROOT)
    assert not includes(leaf[:-1], index, size, proof, root)


@given(trees, st.data())
def test_a_tree_is_consistent_with_its_beginning_only(entries: list[bytes], data: st.DataObject) -> None:
    second = len(entries)
    first = data.draw(st.integers(0, second))
    old, new = mth(entries[:first]), mth(entries)
    proof = consistency_proof(first, second, node_at(entries))
    assert consistent(first, old, second, new, proof)
    for wrong in corrupted(proof, old, new):
        assert not consistent(first, old, second, new, wrong)
    if first:  # every tree is consistent with the empty one
        assert not consistent(first, old, second, mth([*entries, b"no such entry"]), proof)
    assert not consistent(first, mth([*entries[:first], b"no such entry"]), second, new, proof)
    assert not consistent(second + 1, old, second, new, proof)
    assert not consistent(-1, old, second, new, proof)
    if 0 < first < second:
        assert not consistent(first, old, second, new, [])
        assert not consistent(first, new, second, old, proof)


@given(trees)
def test_a_frontier_tells_every_root_on_the_way(entries: list[bytes]) -> None:
    frontier = Frontier()
    for count, entry in enumerate(entries, 1):
        frontier.add(leaf_hash(entry))
        assert frontier.size == count
        assert frontier.root() == mth(entries[:count])


def test_nodes_and_leaves_are_told_apart() -> None:
    left, right = leaf_hash(b"l"), leaf_hash(b"r")
    assert node_hash(left, right) != leaf_hash(left + right)


def test_what_cannot_be_is_refused() -> None:
    at = node_at(LEAVES)
    for index, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(index, size, at)
        assert not includes(leaf_hash(b""), index, size, [], EMPTY_ROOT)
    for first, second in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="cannot have grown"):
            consistency_proof(first, second, at)
    some = bytes(32)
    assert not consistent(0, some, 0, EMPTY_ROOT, [])
    assert not consistent(0, some, 1, some, [])
    assert not consistent(0, EMPTY_ROOT, 1, some, [some])
    assert not consistent(1, some, 2, some, [])
    assert not consistent(3, some, 4, some, [])
