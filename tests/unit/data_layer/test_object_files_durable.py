"""Names on the disk: who waits shares a sync, nobody opens what may yet be lost, and nothing held is collected."""

import io
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.disk import Folders, sync_folder
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.keeping import HeldFiles
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.publishing import Publishing

PROFILE = PROFILES["unixfs-v1-2025"]


class SlowDisk:
    """Syncs folders when it is let; ``begun`` counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.error: OSError | None = None
        self._turns = threading.Semaphore(0)
        self._changed = threading.Condition()

    def sync(self, path: Path) -> None:
        with self._changed:
            self.begun += 1
            self._changed.notify_all()
        assert self._turns.acquire(timeout=30)
        if self.error:
            raise self.error
        sync_folder(path)

    def wait_for(self, begun: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= begun, timeout=30)

    def let(self, count: int = 1) -> None:
        self._turns.release(count)


def started(work: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_those_who_come_while_a_folder_is_synced_share_the_next_sync(tmp_path: Path) -> None:
    disk = SlowDisk()
    folders = Folders(disk.sync)
    first = started(folders.sync, tmp_path)
    disk.wait_for(1)
    others = [started(folders.sync, tmp_path) for _ in range(20)]
    disk.let()
    first.join()
    disk.wait_for(2)
    assert all(other.is_alive() for other in others), "the first sync had begun before they came"
    disk.let(20)
    for other in others:
        other.join()
    assert disk.begun <= 3  # one that came very late may have had to begin anew


def test_a_sync_that_fails_fails_for_all_who_shared_it_and_the_next_is_a_new_one(tmp_path: Path) -> None:
    disk = SlowDisk()
    folders = Folders(disk.sync)
    failed: list[OSError] = []

    def sync() -> None:
        try:
            folders.sync(tmp_path)
        except OSError as error:
            failed.append(error)

    disk.error = OSError(5, "Input/output error")
    threads = [started(sync) for _ in range(3)]
    disk.let(3)
    for thread in threads:
        thread.join()
    assert len(failed) == 3
    disk.error = None
    disk.let()
    folders.sync(tmp_path)


def test_an_object_can_be_opened_only_when_its_name_is_on_the_disk(tmp_path: Path) -> None:
    disk = SlowDisk()
    ObjectFiles(tmp_path, keep_free_bytes=0)
    files = ObjectFiles(tmp_path, keep_free_bytes=0, folders=Folders(disk.sync))
    data = os.urandom(1000)
    adding = started(ingest, io.BytesIO(data).readinto, files, PROFILE)
    disk.let()  # the folder that the object's own folder is made in
    disk.wait_for(2)
    (found,) = files.listing()
    opened: list[bytes] = []

    def read() -> None:
        with files.open(found.cid) as stored:
            opened.append(os.pread(stored.fd, 1000, 0))

    reading = started(read)
    reading.join(0.2)
    assert reading.is_alive()
    disk.let()
    reading.join()
    adding.join()
    assert opened == [data]


def test_what_is_held_is_not_taken_until_it_is_let_go(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path, keep_free_bytes=0)
    with HeldFiles(files) as held:
        cids = [ingest(io.BytesIO(data).readinto, held, PROFILE, replace=True).cid for data in (b"one", b"two", b"one")]
        assert [files.remove(cid) for cid in cids] == [False, False, False]
    assert [files.remove(cid) for cid in cids] == [True, True, True]
    before = len(list(Path("/proc/self/fd").iterdir()))
    ingest(io.BytesIO(b"too late").readinto, held, PROFILE)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_publication_that_fails_is_told_once_and_what_it_held_is_let_go() -> None:
    closed: list[int] = []

    def holding(number: int) -> ExitStack:
        stack = ExitStack()
        stack.callback(closed.append, number)
        return stack

    def fail() -> None:
        raise StorageFault("no room", fault=Fault.LOCAL_DISK)

    done: list[int] = []
    with Publishing() as publishing:
        for number in range(100):
            publishing.soon(lambda number=number: done.append(number), holding(number))
        publishing.wait()
        assert sorted(done) == sorted(closed) == list(range(100))
        publishing.soon(fail, holding(100))
        with pytest.raises(StorageFault):
            publishing.wait()
        publishing.wait()
        assert closed[-1] == 100
