"""Tiles: their names as the specification gives them, and the same hashes and proofs as the tree itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core.merkle.tiles import (
    WIDTH,
    Tile,
    TilePath,
    append,
    bundle,
    edge,
    needed,
    parse_path,
    path_of,
    reader,
    unbundle,
)
from prsm.core.merkle.tree import consistency_proof, consistent, includes, inclusion_proof, leaf_hash, root_at, root_of


def grown(sizes: list[int]) -> tuple[dict[Tile, bytes], list[bytes]]:
    """The tiles of a log that grew by each of ``sizes`` in turn, and its leaf hashes."""
    tiles: dict[Tile, bytes] = {}
    leaves: list[bytes] = []
    for count in sizes:
        kept = {tile: tiles[tile] for tile, _ in edge(len(leaves))}
        new = [leaf_hash(str(len(leaves) + n).encode()) for n in range(count)]
        tiles |= append(kept, len(leaves), new)
        leaves += new
    return tiles, leaves


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("0/x001/x234/067", TilePath(0, 1234067, WIDTH)),
        ("entries/000.p/9", TilePath(None, 0, 9)),
        ("1/999.p/255", TilePath(1, 999, 255)),
        ("63/x001/000", TilePath(63, 1000, WIDTH)),
    ],
)
def test_paths(path: str, parsed: TilePath) -> None:
    assert parse_path(path) == parsed
    assert path_of(*parsed) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "0/1", "0/0001", "00/001", "0/001.p/0", "0/001.p/256", "0/001.p/999", "64/000", "0/x000/001", "data/000",
        "0/x001/x1/000", "0/001/x002", "0/001.p/01", "0/001.p/9\n", "../0/001",
    ],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="names no tile"):
        parse_path(path)


def test_the_examples_of_the_specification() -> None:
    """A tree of 70,000 and one of 256, as C2SP tlog-tiles counts their tiles."""
    assert edge(70_000) == [(Tile(0, 273), 112), (Tile(1, 1), 17), (Tile(2, 0), 1)]
    assert edge(256) == [(Tile(1, 0), 1)]
    assert edge(0) == []


def test_a_large_tree_has_the_tiles_that_the_specification_counts() -> None:
    tiles, leaves = grown([70_000])
    levels = [[tile for tile in tiles if tile.level == level] for level in range(3)]
    assert [len(each) for each in levels] == [274, 2, 1]
    assert len(tiles[Tile(0, 273)]) == 112 * 32
    root = root_of(leaves)
    assert root_at(70_000, reader(tiles)) == root
    proof = inclusion_proof(69_999, 70_000, reader(tiles))
    assert includes(leaves[69_999], 69_999, 70_000, proof, root)
    wanted = needed(lambda at: inclusion_proof(1234, 70_000, at))
    assert len(wanted) <= 6
    proof = inclusion_proof(1234, 70_000, reader({tile: tiles[tile] for tile in wanted}))
    assert includes(leaves[1234], 1234, 70_000, proof, root)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.data())
def test_however_a_log_grew_its_proofs_are_the_trees(sizes: list[int], data: st.DataObject) -> None:
    tiles, leaves = grown(sizes)
    size = len(leaves)
    assert tiles == grown([size])[0] or size == 0
    at = reader(tiles)
    assert root_at(size, at) == root_of(leaves)
    if size:
        index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
        assert includes(leaves[index], index, size, inclusion_proof(index, size, at), root_of(leaves))
        proof = consistency_proof(first, size, at)
        assert consistent(first, root_of(leaves[:first]), size, root_of(leaves), proof)


def test_a_tile_that_is_missing_or_too_narrow_is_noticed() -> None:
    tiles, _ = grown([300])
    with pytest.raises(LookupError):
        root_at(300, reader({tile: hashes for tile, hashes in tiles.items() if tile.level}))
    narrow = dict(tiles)
    narrow[Tile(0, 1)] = narrow[Tile(0, 1)][:-32]
    with pytest.raises(LookupError, match="too narrow"):
        root_at(300, reader(narrow))


@given(st.lists(st.binary(max_size=300)))
def test_bundles(entries: list[bytes]) -> None:
    packed = bundle(entries)
    assert unbundle(packed) == entries
    if packed:
        with pytest.raises(ValueError, match="within an entry"):
            unbundle(packed + b"\x00")
        with pytest.raises(ValueError, match="within an entry"):
            unbundle(packed + b"\x00\x02a")
