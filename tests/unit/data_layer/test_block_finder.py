"""Blocks found by CID alone: without the catalog where an object is small, with little memory where it is large."""

import gc
import io
import os
from pathlib import Path

import pytest

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_walk import car_of
from prsm.data_layer.codec.unixfs_dag import Profile
from prsm.data_layer.store.block_finder import MAX_INDEX_BYTES, BlockFinder
from prsm.data_layer.store.catalog import Located
from prsm.data_layer.store.ingest import Intake, ingest
from prsm.data_layer.store.object_files import NotStored, ObjectFiles
from prsm.data_layer.store.object_index import read_index

FINE = Profile("fine", chunk_bytes=64, max_links=174)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path, keep_free_bytes=0)


def no_catalog(cid: Cid) -> Located | None:
    raise AssertionError(f"the catalog was asked for {cid}")


class Catalog:
    """What the catalog would say of these objects; counts how often it was asked."""

    def __init__(self, files: ObjectFiles, *roots: Cid) -> None:
        self.places = {
            place.cid.digest: Located(root, place) for root in roots for place in read_index(files, root).places()
        }
        self.asked = 0

    def locate(self, cid: Cid) -> Located | None:
        self.asked += 1
        return self.places.get(cid.digest)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_all_of_a_small_object_is_found_without_the_catalog(files: ObjectFiles) -> None:
    data = os.urandom(64 * 500)
    root = ingest(io.BytesIO(data).readinto, files, FINE).cid
    finder = BlockFinder(files, no_catalog)
    for place in read_index(files, root).places() if finder.get(root) else ():
        found, block = finder.find(place.cid)
        assert found == root
        assert place.cid.names(block)


def test_of_a_large_object_no_index_is_kept_and_the_catalog_is_asked(files: ObjectFiles) -> None:
    root = ingest(io.BytesIO(os.urandom(64 * 8000)).readinto, files, FINE).cid
    assert files.outboard_path(root).stat().st_size > MAX_INDEX_BYTES
    catalog = Catalog(files, root)
    finder = BlockFinder(files, catalog.locate)
    places = list(read_index(files, root).places())[:50]
    assert all(place.cid.names(finder.get(place.cid)) for place in places)
    assert catalog.asked == len(places)


def test_what_is_nowhere_or_gone_is_not_stored(files: ObjectFiles) -> None:
    root = ingest(io.BytesIO(os.urandom(64 * 10)).readinto, files, FINE).cid
    catalog = Catalog(files, root)
    with pytest.raises(NotStored):
        BlockFinder(files, catalog.locate).get(Cid.of(Codec.RAW, b"nowhere"))
    files.remove(root)
    with pytest.raises(NotStored):
        BlockFinder(files, catalog.locate).get(root)


def test_what_is_walked_is_held_until_the_walk_ends_or_is_given_up(files: ObjectFiles) -> None:
    root = ingest(io.BytesIO(os.urandom(64 * 400)).readinto, files, FINE).cid
    gc.collect()  # what other tests left open is not closed meanwhile
    before = open_files()
    walk = car_of(root, "", "all", None, BlockFinder(files, no_catalog).get)
    for _ in range(5):
        next(walk)
    assert not files.remove(root), "it is being read"
    del walk
    gc.collect()
    assert open_files() == before
    assert files.remove(root)


def test_a_walk_over_many_objects_holds_few_of_them_open(files: ObjectFiles) -> None:
    entries = [(f"{number}", io.BytesIO(os.urandom(200)).readinto) for number in range(40)]
    with Intake(files, FINE) as intake:
        root = intake.tree(entries)[-1].cid
    gc.collect()
    before, most = open_files(), 0
    for _ in car_of(root, "", "all", None, BlockFinder(files, no_catalog).get):
        most = max(most, open_files() - before)
    assert 0 < most <= 6
