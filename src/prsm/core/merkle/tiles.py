"""Tiles: how the hashes of a log's tree are cut, named and appended to (C2SP tlog-tiles, height 8).

A tile holds up to 256 hashes of one level; each hash of a higher level is the root of a full tile below. Only the tiles
at the right edge grow, so that a log of any length is appended to with a handful of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

from prsm.core.merkle.tree import HASH_BYTES, NodeAt, fold, node_hash

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
_PATH: Final = re.compile(r"(entries|0|[1-9]\d?)/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?")

T = TypeVar("T")


class Tile(NamedTuple):
    """Which tile: its level (0: leaf hashes) and its number in that level."""

    level: int
    number: int


class TilePath(NamedTuple):
    """What a path under ``tile/`` names; ``level`` is None for a bundle of entries, ``width`` WIDTH for a full tile."""

    level: int | None
    number: int
    width: int


def path_of(level: int | None, number: int, width: int = WIDTH) -> str:
    """The path of a tile, or of a bundle of entries, under ``tile/``."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    tail = "" if width == WIDTH else f".p/{width}"
    return f"{'entries' if level is None else level}/{'/'.join(reversed(groups))}{tail}"


def parse_path(path: str) -> TilePath:
    """What ``path_of`` wrote. Raises ValueError for anything else."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise ValueError(f"{path[:80]!r} names no tile")
    level = None if match[1] == "entries" else int(match[1])
    number, width = int(match[2].replace("x", "").replace("/", "")), int(match[3] or WIDTH)
    if path_of(level, number, width) != path or width > WIDTH or (level or 0) > 63:
        raise ValueError(f"{path[:80]!r} names no tile")
    return TilePath(level, number, width)


def edge(size: int) -> list[tuple[Tile, int]]:
    """The tiles at the right edge of a tree of ``size`` leaves that are not full, and how many hashes they have."""
    found: list[tuple[Tile, int]] = []
    level = 0
    while count := size >> HEIGHT * level:
        if width := count % WIDTH:
            found.append((Tile(level, count // WIDTH), width))
        level += 1
    return found


def append(kept: Mapping[Tile, bytes], size: int, leaves: Iterable[bytes]) -> dict[Tile, bytes]:
    """The tiles that change when ``leaves`` (hashes) join a tree of ``size``; ``kept`` are those of its edge."""
    changed: dict[Tile, bytes] = {}

    def push(level: int, count: int, value: bytes) -> None:
        tile = Tile(level, count // WIDTH)
        grown = changed.get(tile, kept.get(tile, b"")) + value
        changed[tile] = grown
        if len(grown) == WIDTH * HASH_BYTES:
            push(level + 1, count // WIDTH, _subtree(grown))

    for place, leaf in enumerate(leaves, size):
        push(0, place, leaf)
    return changed


def tile_of(level: int, index: int) -> Tile:
    """The tile from which the node ``index`` of ``level`` is known."""
    return Tile(level // HEIGHT, index >> HEIGHT - level % HEIGHT)


def reader(tiles: Mapping[Tile, bytes]) -> NodeAt:
    """The hashes in ``tiles``. It raises LookupError for a tile that is not there or is too narrow."""

    def at(level: int, index: int) -> bytes:
        tile = tile_of(level, index)
        wide = HASH_BYTES << level % HEIGHT
        begin = index % (1 << HEIGHT - level % HEIGHT) * wide
        part = tiles[tile][begin : begin + wide]
        if len(part) != wide:
            raise LookupError(f"tile {path_of(*tile)} is too narrow")
        return _subtree(part)

    return at


def needed(compute: Callable[[NodeAt], T]) -> set[Tile]:
    """The tiles from which ``compute`` will read."""
    found: set[Tile] = set()

    def note(level: int, index: int) -> bytes:
        found.add(tile_of(level, index))
        return bytes(HASH_BYTES)

    compute(note)
    return found


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as one bundle: each after its length in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises ValueError when it ends within one."""
    entries: list[bytes] = []
    place = 0
    while place < len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        if end > len(data) or place + 2 > len(data):
            raise ValueError("the bundle ends within an entry")
        entries.append(data[place + 2 : end])
        place = end
    return entries


def _subtree(hashes: bytes) -> bytes:
    """The root over a power of two of hashes, one after the other."""
    level = [hashes[place : place + HASH_BYTES] for place in range(0, len(hashes), HASH_BYTES)]
    while len(level) > 1:
        level = [node_hash(level[place], level[place + 1]) for place in range(0, len(level), 2)]
    return fold(level)
