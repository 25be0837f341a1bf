"""Taking in files and directories: right CIDs whatever the reader does, and nothing left behind when it fails."""

import io
import os
import random
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import PROFILES, FileDagBuilder, Profile
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.ingest import Intake, Stored, ingest
from prsm.data_layer.store.object_files import ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import kind_on_disk, read_index
from prsm.data_layer.store.scrub import scrub

DEFAULT = PROFILES["unixfs-v1-2025"]
TINY = Profile("tiny", chunk_bytes=100, max_links=4)


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path / "storage", keep_free_bytes=0)


def expected(data: bytes, profile: Profile) -> Cid:
    """The CID by one pass in one thread over bytes in memory."""
    builder = FileDagBuilder(profile, lambda _cid, _block: None)
    for start in range(0, len(data), profile.chunk_bytes):
        chunk = data[start : start + profile.chunk_bytes]
        builder.leaf(Cid.of(Codec.RAW, chunk), len(chunk))
    return builder.finish()


def left(files: ObjectFiles) -> list[Path]:
    return [path for path in files.folder.rglob("*") if path.is_file()]


class Dribble:
    """A reader that gives a random part of what is asked for each time."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = memoryview(data)
        self._random = random.Random(seed)

    def __call__(self, into: memoryview) -> int:
        size = min(len(self._data), self._random.randint(1, len(into)))
        into[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ObjectFiles:
    return ObjectFiles(tmp_path_factory.mktemp("shared"), keep_free_bytes=0)


@given(data=st.binary(max_size=5000), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_bytes_in_any_pieces_become_the_object_they_are(shared: ObjectFiles, data: bytes, seed: int) -> None:
    stored = ingest(Dribble(data, seed), shared, TINY)
    assert stored.cid == expected(data, TINY)
    assert stored.size_bytes == len(data)
    assert shared.payload_path(stored.cid).read_bytes() == data
    index = read_index(shared, stored.cid)
    assert (index.size_bytes, index.dag_bytes) == (stored.size_bytes, stored.dag_bytes)
    assert sum(leaf.size_bytes for leaf in index.leaves()) == len(data)
    assert scrub(shared, stored.cid).whole


def test_many_chunks_by_several_threads_keep_their_order(files: ObjectFiles) -> None:
    data = os.urandom(37 * DEFAULT.chunk_bytes + 11)
    stored = ingest(Dribble(data, 1), files, DEFAULT)
    assert stored.cid == expected(data, DEFAULT)
    assert files.payload_path(stored.cid).read_bytes() == data


def test_pace_and_progress_hear_of_every_byte(files: ObjectFiles) -> None:
    class Paced:
        taken = 0

        def take(self, size_bytes: int) -> None:
            self.taken += size_bytes

    pace, heard = Paced(), list[int]()
    data = bytes(3 * DEFAULT.chunk_bytes + 5)
    ingest(io.BytesIO(data).readinto, files, DEFAULT, pace=pace, progress=heard.append)
    assert pace.taken == sum(heard) == len(data)


@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_reader_that_fails_leaves_nothing(files: ObjectFiles, after: int) -> None:
    calls = 0

    def read_into(into: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls > after:
            raise ConnectionResetError("the client left")
        return len(into)

    with pytest.raises(ConnectionResetError):
        ingest(read_into, files, DEFAULT)
    assert left(files) == []


def test_a_pace_that_cancels_leaves_nothing(files: ObjectFiles) -> None:
    class Cancelling:
        def take(self, size_bytes: int) -> None:
            raise StorageFault("cancelled", fault=Fault.FATAL)

    with pytest.raises(StorageFault):
        ingest(io.BytesIO(b"some").readinto, files, DEFAULT, pace=Cancelling())
    assert left(files) == []


def test_an_intake_goes_on_after_a_failure(files: ObjectFiles) -> None:
    def failing(_into: memoryview) -> int:
        raise OSError("gone")

    data = os.urandom(5 * DEFAULT.chunk_bytes)
    with Intake(files, DEFAULT) as intake:
        for _ in range(20):
            with pytest.raises(OSError):
                intake.file(failing)
        assert intake.file(io.BytesIO(data).readinto).cid == expected(data, DEFAULT)


def test_several_writers_of_one_object_make_one(files: ObjectFiles) -> None:
    data = os.urandom(2 * DEFAULT.chunk_bytes)
    stored: list[Stored] = []
    threads = [
        threading.Thread(target=lambda: stored.append(ingest(io.BytesIO(data).readinto, files, DEFAULT)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.fresh for each in stored) == [False] * 5 + [True]
    assert len(left(files)) == 2


def test_a_tree_is_one_object_for_each_file_and_folder(files: ObjectFiles) -> None:
    with Intake(files, DEFAULT) as intake:
        stored = intake.tree(
            [
                ("model/b.bin", io.BytesIO(b"bb").readinto),
                ("model/a.bin", io.BytesIO(b"a").readinto),
                ("README", io.BytesIO(b"read").readinto),
                ("empty", None),
            ]
        )
    by_cid = {each.cid: each for each in stored}
    root = stored[-1]
    assert root.kind is ObjectKind.DIRECTORY
    names = dict(read_index(files, root.cid).children())
    assert list(names) == ["README", "empty", "model"]
    assert list(dict(read_index(files, names["model"]).children())) == ["a.bin", "b.bin"]
    assert list(read_index(files, names["empty"]).children()) == []
    assert set(names.values()) <= by_cid.keys()
    assert all(kind_on_disk(files, cid) is each.kind for cid, each in by_cid.items())


@pytest.mark.parametrize("paths", [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["../x"], ["/"], ["a//b"], ["a/./b"], [""]])
def test_paths_that_cannot_be_are_refused(files: ObjectFiles, paths: list[str]) -> None:
    with Intake(files, DEFAULT) as intake, pytest.raises(InvalidRequest):
        intake.tree([(path, io.BytesIO(b"x").readinto) for path in paths])


def test_a_local_folder_is_taken_in_by_name_without_hidden_files(files: ObjectFiles, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "sub" / "void").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "sub" / ".env").write_text("hidden")
    (folder / "sub" / "z").write_text("z")
    (folder / "a").write_text("a")
    with Intake(files, DEFAULT) as intake:
        plain = intake.path(folder)
        full = intake.path(folder, hidden=True)
        alone = intake.path(folder / "a")
    names = dict(read_index(files, plain[-1].cid).children())
    assert list(names) == ["a", "sub"]
    assert list(dict(read_index(files, names["sub"]).children())) == ["void", "z"]
    assert list(dict(read_index(files, full[-1].cid).children())) == [".git", "a", "sub"]
    assert [each.cid for each in alone] == [Cid.of(Codec.RAW, b"a")]


def test_links_and_devices_are_refused(files: ObjectFiles, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with Intake(files, DEFAULT) as intake:
            for path in (folder, folder / "link", tmp_path / "pipe", tmp_path / "socket", tmp_path / "absent"):
                with pytest.raises(InvalidRequest):
                    intake.path(path)
    assert left(files) == []
