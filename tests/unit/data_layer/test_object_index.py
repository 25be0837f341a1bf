"""Where blocks lie: each found once, each verified when it is given out, and no damaged outboard believed."""

import io
import os
import random
from pathlib import Path

import pytest

from prsm.data_layer.codec import car
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.unixfs_dag import Profile
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import Damaged, Home, read_block, read_index, write_outboard

TINY = Profile("tiny", chunk_bytes=10, max_links=3)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def add(files: ObjectFiles, data: bytes) -> Cid:
    return ingest(io.BytesIO(data).readinto, files, TINY).cid


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def test_leaves_are_in_order_and_cover_the_file(files: ObjectFiles) -> None:
    data = os.urandom(137)
    cid = add(files, data)
    leaves = list(read_index(files, cid).leaves())
    assert [leaf.offset for leaf in leaves] == list(range(0, 137, 10))
    assert b"".join(read_block(files, cid, leaf) for leaf in leaves) == data


def test_a_block_that_stands_at_many_places_has_one(files: ObjectFiles) -> None:
    cid = add(files, bytes(10) * 27)
    index = read_index(files, cid)
    assert len(list(index.leaves())) == 27
    places = list(index.places())
    assert len(places) == len({place.cid.digest for place in places}) == 4
    assert [place.home for place in places].count(Home.PAYLOAD) == 1


def test_the_outboard_is_a_car_with_the_root_first(files: ObjectFiles) -> None:
    cid = add(files, os.urandom(200))
    reader = car.CarReader(io.BytesIO(files.outboard_path(cid).read_bytes()).read)
    blocks = {block.cid: bytes(block.data) for block in reader}
    assert reader.roots == (cid,)
    assert next(iter(blocks)) == cid
    shuffled = dict(random.Random(1).sample(list(blocks.items()), len(blocks)))
    assert b"".join(write_outboard(cid, shuffled.get)) == files.outboard_path(cid).read_bytes()


def test_an_outboard_that_was_cut_anywhere_is_damaged_or_a_block_is(files: ObjectFiles) -> None:
    cid = add(files, os.urandom(200))
    whole = files.outboard_path(cid).read_bytes()
    blocks = set(read_index(files, cid).blocks)
    for end in range(len(whole)):
        rewrite(files.outboard_path(cid), whole[:end])
        try:
            index = read_index(files, cid)
        except Damaged:
            continue
        # Cut between two blocks: what is missing is taken for a leaf, which its bytes are not.
        lost = [leaf for leaf in index.leaves() if leaf.home is Home.WRAPPED]
        assert lost
        assert {leaf.cid for leaf in lost} <= blocks
        for leaf in lost:
            with pytest.raises(Damaged):
                read_block(files, cid, leaf)


def test_bytes_after_or_for_another_root_are_damage(files: ObjectFiles) -> None:
    cid, other = add(files, os.urandom(50)), add(files, os.urandom(50))
    whole = files.outboard_path(cid).read_bytes()
    for wrong in (whole + b"\0", files.outboard_path(other).read_bytes(), b"", whole[1:]):
        rewrite(files.outboard_path(cid), wrong)
        with pytest.raises(Damaged):
            read_index(files, cid)


def test_a_damaged_block_is_not_given_out(files: ObjectFiles) -> None:
    data = os.urandom(50)
    cid = add(files, data)
    leaves = list(read_index(files, cid).leaves())
    rewrite(files.payload_path(cid), data[:25] + bytes((data[25] ^ 1,)) + data[26:])
    assert read_block(files, cid, leaves[1]) == data[10:20]
    with pytest.raises(Damaged):
        read_block(files, cid, leaves[2])
