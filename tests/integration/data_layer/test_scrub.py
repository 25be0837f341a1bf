"""Scrub and repair of objects on a real disk: every flipped byte is found, and only what is bad is fetched again."""

import io
import os
import random
from pathlib import Path

import pytest

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES, Profile
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.ingest import Intake, ingest
from prsm.data_layer.store.object_files import NotStored, ObjectFiles
from prsm.data_layer.store.object_index import read_block, read_index
from prsm.data_layer.store.scrub import repair, scrub

FLIPS = int(os.environ.get("PRSM_TEST_SCRUB_FLIPS", "60"))
TINY = Profile("tiny", chunk_bytes=64, max_links=3)
SIZES = (0, 1, 64, 65, 1000)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def add(files: ObjectFiles, data: bytes, profile: Profile = TINY) -> Cid:
    return ingest(io.BytesIO(data).readinto, files, profile).cid


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << random.Random(at).randrange(8)
    path.write_bytes(data)


class Network:
    """Gives blocks of a sound copy and counts them."""

    def __init__(self, files: ObjectFiles, cid: Cid) -> None:
        self._blocks = {place.cid: read_block(files, cid, place) for place in read_index(files, cid).places()}
        self.asked: list[Cid] = []

    def __call__(self, cid: Cid, into: memoryview) -> int:
        self.asked.append(cid)
        block = self._blocks[cid]
        into[: len(block)] = block
        return len(block)


@pytest.mark.parametrize("size", SIZES)
def test_a_sound_object_is_whole(files: ObjectFiles, size: int) -> None:
    heard = list[int]()
    cid = add(files, os.urandom(size))
    found = scrub(files, cid, progress=heard.append)
    assert found.whole
    assert found.read_bytes == sum(heard) == size


def test_every_flipped_byte_is_found_and_repaired(files: ObjectFiles) -> None:
    draw = random.Random(7)
    for number in range(FLIPS):
        data = draw.randbytes(draw.choice(SIZES[1:] if number % 2 == 0 else SIZES[3:]))  # one block has no outboard
        cid = add(files, data)
        network = Network(files, cid)
        paths = [path for path in (files.payload_path(cid), files.outboard_path(cid)) if path.exists()]
        sound = [path.read_bytes() for path in paths]
        path = paths[number % 2]
        at = draw.randrange(path.stat().st_size)
        flip(path, at)
        found = scrub(files, cid)
        assert not found.whole
        if path == paths[0]:
            assert [leaf.offset for leaf in found.leaves] == [at - at % 64]
        repaired = repair(files, cid, network)
        if path == paths[0]:
            assert network.asked == [found.leaves[0].cid]
            assert repaired.fetched_bytes == found.leaves[0].size_bytes
        assert scrub(files, cid).whole
        assert [path.read_bytes() for path in paths] == sound
        files.remove(cid)


@pytest.mark.parametrize("cut", [0, 1, 64, 500, 999])
def test_a_payload_of_another_length_is_damaged_and_repaired(files: ObjectFiles, cut: int) -> None:
    data = os.urandom(1000)
    cid = add(files, data)
    network = Network(files, cid)
    files.payload_path(cid).chmod(0o600)
    os.truncate(files.payload_path(cid), cut)
    assert not scrub(files, cid).whole
    repair(files, cid, network)
    assert files.payload_path(cid).read_bytes() == data


def test_a_damaged_directory_is_found_and_repaired(files: ObjectFiles) -> None:
    with Intake(files, PROFILES["kubo-v1"]) as intake:
        items = [(f"{'n' * 240}{number}", io.BytesIO(b"same").readinto) for number in range(1000)]
        cid = intake.tree(items)[-1].cid
    network = Network(files, cid)
    sound = files.outboard_path(cid).read_bytes()
    flip(files.outboard_path(cid), len(sound) - 5)
    found = scrub(files, cid)
    assert found.outboard_damaged
    repaired = repair(files, cid, network)
    assert repaired.blocks == 1
    assert files.outboard_path(cid).read_bytes() == sound


def test_a_repair_that_gets_wrong_bytes_changes_nothing_and_can_be_done_again(files: ObjectFiles) -> None:
    data = os.urandom(300)
    cid = add(files, data)
    network = Network(files, cid)
    flip(files.payload_path(cid), 70)
    flip(files.payload_path(cid), 200)
    damaged = files.payload_path(cid).read_bytes()

    def lying(wanted: Cid, into: memoryview) -> int:
        size = network(wanted, into)
        into[0] ^= len(network.asked) > 1
        return size

    with pytest.raises(StorageFault) as caught:
        repair(files, cid, lying)
    assert caught.value.fault is Fault.BAN
    assert files.payload_path(cid).read_bytes() == damaged
    repair(files, cid, network)
    assert files.payload_path(cid).read_bytes() == data


def test_who_maps_the_damaged_object_keeps_it_while_it_is_repaired(files: ObjectFiles) -> None:
    cid = add(files, os.urandom(300))
    network = Network(files, cid)
    flip(files.payload_path(cid), 0)
    damaged = files.payload_path(cid).read_bytes()
    with files.open(cid) as stored:
        mapped = stored.map()
    repair(files, cid, network)
    assert mapped[:] == damaged
    assert scrub(files, cid).whole
    mapped.close()


def test_what_is_not_stored_is_neither_scrubbed_nor_repaired(files: ObjectFiles) -> None:
    cid = add(files, b"gone")
    network = Network(files, cid)
    files.remove(cid)
    with pytest.raises(NotStored):
        scrub(files, cid)
    with pytest.raises(NotStored):
        repair(files, cid, network)


def test_a_repair_writes_only_what_is_bad_where_files_can_share_their_bytes(tmp_path: Path) -> None:
    folder = Path(os.environ.get("PRSM_TEST_REFLINK_FOLDER", tmp_path)) / "storage"
    files = ObjectFiles(folder, keep_free_bytes=0)
    (folder / "probe").write_bytes(b"shared")
    with (folder / "probe").open("rb") as probe, files.part(Cid.of(Codec.RAW, b"probe")) as part:
        part.share(probe.fileno())
        shared = os.fstat(part.fd).st_size > 0
        part.discard()
    if not shared:
        pytest.skip("this file system copies; set PRSM_TEST_REFLINK_FOLDER to a folder on btrfs or XFS")
    data = os.urandom(32 << 20)
    cid = add(files, data, PROFILES["unixfs-v1-2025"])
    network = Network(files, cid)
    flip(files.payload_path(cid), 5 << 20)
    os.sync()
    before = _written_bytes()
    assert repair(files, cid, network).fetched_bytes == 1 << 20
    assert _written_bytes() - before < 4 << 20
    assert files.payload_path(cid).read_bytes() == data
    files.remove(cid)


def _written_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split("\nwrite_bytes: ")[1].split()[0])
