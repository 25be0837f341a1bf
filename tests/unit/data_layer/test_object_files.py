"""The folder of objects: what is visible, who holds what, and what a full disk or a killed process leaves."""

import fcntl
import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import InUse, NotStored, ObjectFiles, ObjectKind, Verified, named
from prsm.data_layer.store.object_index import kind_on_disk, write_outboard

PROFILE = PROFILES["unixfs-v1-2025"]


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def add(files: ObjectFiles, data: bytes) -> Cid:
    return ingest(io.BytesIO(data).readinto, files, PROFILE).cid


def everything(files: ObjectFiles) -> list[str]:
    return sorted(str(path.relative_to(files.folder)) for path in files.folder.rglob("*") if path.is_file())


def test_a_published_file_is_its_own_bytes_and_cannot_be_written(files: ObjectFiles) -> None:
    data = os.urandom(2_500_000)
    cid = add(files, data)
    path = files.payload_path(cid)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o444
    assert files.outboard_path(cid).stat().st_mode & 0o777 == 0o444
    assert everything(files) == sorted(f"objects/{str(cid)[-2:]}/{name}" for name in (str(cid), f"{cid}.car"))


def test_a_map_stays_valid_and_keeps_the_object_after_the_file_is_closed(files: ObjectFiles) -> None:
    data = os.urandom(100_000)
    cid = add(files, data)
    with files.open(cid) as stored:
        mapped = stored.map()
    assert not files.remove(cid)
    assert mapped[:] == data
    mapped.close()
    assert files.remove(cid)
    assert everything(files) == []


def test_an_open_object_is_not_removed_and_a_removed_one_is_not_opened(files: ObjectFiles) -> None:
    cid = add(files, b"x" * 1_100_000)
    with files.open_outboard(cid):
        assert not files.remove(cid)
    with files.open(cid) as stored:
        assert not files.remove(cid)
        buffer = memoryview(bytearray(2000))
        assert stored.read_into(buffer, 1_099_010) == 990
    assert files.remove(cid)
    assert files.remove(cid)
    with pytest.raises(NotStored):
        files.open(cid)
    assert kind_on_disk(files, cid) is None


def test_publishing_what_is_there_changes_nothing(files: ObjectFiles) -> None:
    data = os.urandom(1_500_000)
    cid = add(files, data)
    inode = files.payload_path(cid).stat().st_ino
    again = ingest(io.BytesIO(data).readinto, files, PROFILE)
    assert (again.cid, again.fresh) == (cid, False)
    assert files.payload_path(cid).stat().st_ino == inode
    renewed = ingest(io.BytesIO(data).readinto, files, PROFILE, replace=True)
    assert not renewed.fresh
    assert files.payload_path(cid).stat().st_ino != inode


def test_who_reads_an_object_that_is_replaced_keeps_the_old_one(files: ObjectFiles) -> None:
    data = os.urandom(1000)
    cid = add(files, data)
    with files.open(cid) as old:
        ingest(io.BytesIO(data).readinto, files, PROFILE, replace=True)
        view = memoryview(bytearray(1000))
        assert old.read_into(view, 0) == 1000
        assert view == data


def test_half_of_a_file_is_nothing_and_is_dropped_unless_it_is_read(files: ObjectFiles) -> None:
    for number in range(2):
        cid = add(files, os.urandom(1_100_000))
        assert not files.drop_half(cid)
        half = (files.payload_path(cid), files.outboard_path(cid))[number]
        half.unlink()
        assert kind_on_disk(files, cid) is None
        with files.open(cid) if number else files.open_outboard(cid):
            assert not files.drop_half(cid)
        assert files.drop_half(cid)
        assert everything(files) == []


def test_a_file_of_one_block_needs_no_outboard_and_one_from_before_goes_with_it(files: ObjectFiles) -> None:
    cid = add(files, b"small")
    assert everything(files) == [f"objects/{str(cid)[-2:]}/{cid}"]
    assert kind_on_disk(files, cid) is ObjectKind.FILE
    files.outboard_path(cid).write_bytes(b"".join(write_outboard(cid, {}.get)))
    assert [found.outboard for found in files.listing()] == [True]
    assert files.remove(cid)
    assert everything(files) == []


def test_a_part_is_held_by_one_at_a_time(files: ObjectFiles) -> None:
    cid = Cid.of(Codec.RAW, b"some block")
    with files.part(cid) as part:
        part.write(b"some", 0)
        with pytest.raises(InUse), files.part(cid):
            pass
        assert not files.discard_part(cid)
    assert list(files.parts()) == [cid]
    with files.part(cid) as part:
        assert os.pread(part.fd, 10, 0) == b"some"
        part.discard()
    assert everything(files) == []


def test_the_lock_of_a_part_passes_on_while_its_file_comes_and_goes(files: ObjectFiles) -> None:
    cid = Cid.of(Codec.RAW, b"contended")
    inside, most, done = [0], [0], [0]
    guard = threading.Lock()

    def contend() -> None:
        for _ in range(60):
            try:
                with files.part(cid) as part:
                    with guard:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    part.discard()
                    with guard:
                        inside[0] -= 1
                        done[0] += 1
            except InUse:
                pass

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert done[0] > 0


def test_sweep_takes_what_the_dead_left_and_not_what_the_living_hold(files: ObjectFiles) -> None:
    incoming = files.folder / "incoming"
    with files.incoming() as living:
        living.write(b"here", 0)
        (incoming / "dead").write_bytes(b"left")
        (incoming / "dead.car").write_bytes(b"left")
        (incoming / "dead.car.new").write_bytes(b"left")
        (incoming / "other.car.new").write_bytes(b"left")
        assert files.sweep() == 1
        assert list(incoming.iterdir()) == [living.path]
    assert everything(files) == []


def test_sweep_takes_parts_only_when_they_are_old_and_free(files: ObjectFiles) -> None:
    cid, held = Cid.of(Codec.RAW, b"1"), Cid.of(Codec.RAW, b"2")
    with files.part(cid) as part:
        part.write(b"1", 0)
    assert files.sweep() == 0
    with files.part(held) as part:
        part.write(b"2", 0)
        os.utime(files.part_path(cid), (1, 1))
        os.utime(files.part_path(held), (1, 1))
        assert files.sweep() == 1
        assert list(files.parts()) == [held]


def test_sweep_takes_what_is_left_of_a_part_whose_payload_is_gone(files: ObjectFiles) -> None:
    parts = files.folder / "parts"
    for number, suffix in enumerate((".car", ".car.new", ".lock")):
        left = parts / f"{Cid.of(Codec.RAW, bytes([number]))}{suffix}"
        left.touch()
        os.utime(left, (1, 1))
    recent = parts / f"{Cid.of(Codec.RAW, b'recent')}.lock"
    recent.touch()
    assert files.sweep() == 3
    assert list(parts.iterdir()) == [recent]


def test_what_does_not_belong_into_the_folder_of_objects_is_passed_over(files: ObjectFiles) -> None:
    cid = add(files, b"an object")
    (files.folder / "objects" / ".DS_Store").write_bytes(b"put there by hand")
    assert [found.cid for found in files.listing()] == [cid]


def test_the_wrong_bytes_are_never_verified() -> None:
    cid = Cid.of(Codec.RAW, b"right")
    assert Verified(cid, b"right").data == b"right"
    with pytest.raises(StorageFault) as caught:
        Verified(cid, b"wrong")
    assert caught.value.fault is Fault.BAN


def test_more_than_is_free_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "full", keep_free_bytes=1 << 60)
    with pytest.raises(StorageFault) as caught:
        ingest(io.BytesIO(b"x").readinto, files, PROFILE, size_hint=1)
    assert caught.value.fault is Fault.LOCAL_DISK
    assert caught.value.code == "disk_full"
    assert caught.value.remedy
    cid = Cid.of(Codec.RAW, b"x")
    with files.part(cid) as part:
        with pytest.raises(StorageFault):
            files.reserve(part.fd, 1)
        part.discard()
    assert everything(files) == []


def test_reserved_room_is_taken_and_still_a_hole(files: ObjectFiles) -> None:
    with files.part(Cid.of(Codec.RAW, b"big")) as part:
        files.reserve(part.fd, 1 << 20)
        stat = os.fstat(part.fd)
        assert stat.st_size == 1 << 20
        assert stat.st_blocks * 512 >= 1 << 20
        with pytest.raises(OSError):
            os.lseek(part.fd, 0, os.SEEK_DATA)


@given(
    st.text(max_size=80)
    | st.sampled_from(["..", "../x", "a/b", ".car", "b", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPVpm"])
)
@settings(max_examples=300)
def test_only_a_canonical_cid_is_a_name(text: str) -> None:
    cid = named(text)
    assert cid is None or (str(cid) == text and "/" not in text and not text.startswith("."))


def test_foreign_names_in_the_folder_are_passed_over(files: ObjectFiles) -> None:
    cid = add(files, b"mine")
    shard = files.payload_path(cid).parent
    (shard / "README").write_text("not an object")
    (shard / "README.car").write_text("nor this")
    other = str(Cid.of(Codec.RAW, b"elsewhere"))
    (shard / other).write_text("in the wrong folder")
    assert [found.cid for found in files.listing()] == [cid]


def test_a_writer_that_waits_for_the_shard_sees_the_object_that_came_first(files: ObjectFiles) -> None:
    data = os.urandom(5000)
    cid = Cid.of(Codec.RAW, data)
    shard = files.payload_path(cid).parent
    shard.mkdir()
    fd = os.open(shard, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fresh: list[bool] = []
    threads = [
        threading.Thread(target=lambda: fresh.append(ingest(io.BytesIO(data).readinto, files, PROFILE).fresh))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    os.close(fd)
    for thread in threads:
        thread.join()
    assert sorted(fresh) == [False, False, True]
    assert files.payload_path(cid).read_bytes() == data
