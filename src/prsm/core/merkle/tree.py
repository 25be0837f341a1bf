"""The hashes and proofs of an append-only Merkle tree (RFC 9162, section 2.1; SHA-256).

Only arithmetic stands here: where hashes are kept is the caller's, who gives them by ``NodeAt``. A proof is checked
without trusting anything in it: what is malformed is as false as what is wrong.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

NodeAt = Callable[[int, int], bytes]
"""The hash of the complete subtree over leaves ``index * 2**level`` to ``(index + 1) * 2**level``."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The complete subtrees along the right edge of a growing tree: enough to add leaves and to tell the root."""

    __slots__ = ("_edge", "size")

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Take in the hash of the next leaf."""
        full = self.size
        while full & 1:
            leaf = node_hash(self._edge.pop(), leaf)
            full >>= 1
        self._edge.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return fold(self._edge) if self._edge else EMPTY_ROOT


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees that get smaller from left to right; there is at least one."""
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.add(leaf)
    return frontier.root()


def root_at(size: int, at: NodeAt) -> bytes:
    """The root of the first ``size`` leaves."""
    return _range_hash(0, size, at) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, at: NodeAt) -> list[bytes]:
    """The path that shows leaf ``index`` in the tree of ``size`` leaves. Raises ValueError when it is not in it."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    begin, end, beside = 0, size, list[tuple[int, int]]()
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            beside.append((middle, end))
            end = middle
        else:
            beside.append((begin, middle))
            begin = middle
    return [_range_hash(*part, at) for part in reversed(beside)]


def consistency_proof(first: int, second: int, at: NodeAt) -> list[bytes]:
    """What shows that the tree of ``second`` leaves begins with that of ``first``. Raises ValueError on bad sizes."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {first} cannot have grown to {second}")
    if first in (0, second):
        return []
    begin, end, parts = 0, second, list[tuple[int, int]]()
    while end != first:
        middle = begin + _split(end - begin)
        if first <= middle:
            parts.append((middle, end))
            end = middle
        else:
            parts.append((begin, middle))
            begin = middle
    if begin:
        parts.append((begin, end))
    return [_range_hash(*part, at) for part in reversed(parts)]


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows ``leaf`` at ``index`` of the tree of ``size`` with ``root`` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or not _hashes((leaf, root, *proof)):
        return False
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def consistent(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether ``proof`` shows that the second tree begins with the first (RFC 9162, 2.1.4.2)."""
    if not 0 <= first <= second or not _hashes((first_root, second_root, *proof)):
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is more than one."""
    return 1 << (count - 1).bit_length() - 1


def _range_hash(begin: int, end: int, at: NodeAt) -> bytes:
    """The hash over leaves ``begin`` to ``end``; the complete subtrees in it, from the largest."""
    parts: list[bytes] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        parts.append(at(level, begin >> level))
        begin += 1 << level
    return fold(parts)


def _hashes(values: Iterable[bytes]) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
