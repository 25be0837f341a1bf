"""How local bytes become an object: one pass that reads, hashes and writes, and publishes only when all is on the disk.

The CID is made from the very buffers that are written, so what is published is what was hashed. Until then it has no
name, and whatever ends the work early (an error, a full disk, kill -9) leaves nothing that anyone could see.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from stat import S_ISDIR, S_ISREG
from typing import Self

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link
from prsm.data_layer.codec.directories import MAX_PATH_PARTS, Built, Folder, build_directory, folder_at, split_path
from prsm.data_layer.codec.unixfs import Child
from prsm.data_layer.codec.unixfs_dag import FileDagBuilder, Profile
from prsm.data_layer.seams import Pace
from prsm.data_layer.store.object_files import ObjectFiles, ObjectKind
from prsm.data_layer.store.object_index import write_outboard
from prsm.data_layer.store.publishing import Publishing
from prsm.data_layer.store.unnamed import Unnamed

ReadInto = Callable[[memoryview], int]
"""Fills a part of the buffer and answers how many bytes; 0 at the end."""
Progress = Callable[[int], object]
"""Told how many more bytes were taken in."""

MAX_ENTRIES = 1_000_000
_WORKERS = min(4, os.cpu_count() or 1)
_WRITE_BACK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A published object. ``dag_bytes`` counts all blocks under it (a link's Tsize); ``fresh`` unless it was there."""

    cid: Cid
    kind: ObjectKind
    profile: str
    size_bytes: int
    dag_bytes: int
    fresh: bool


class Intake:
    """Takes in files one after another, with the same buffers and threads; use it from one thread, as a context."""

    def __init__(
        self, files: ObjectFiles, profile: Profile, *, pace: Pace | None = None, progress: Progress | None = None
    ) -> None:
        self.files = files
        self.profile = profile
        self._pace = pace
        self._progress = progress
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._made = 0
        self._pool: ThreadPoolExecutor | None = None
        self._publishing = Publishing()

    def file(self, read_into: ReadInto, *, size_hint: int = 0, replace: bool = False) -> Stored:
        """Take in one file and publish it; ``size_hint`` bytes are required to be free before anything is read.

        ``replace`` renews an object of the same CID, for one that is damaged. Raises what ``read_into`` and the pace
        raise, and StorageFault (LOCAL_DISK); then nothing is left behind.
        """
        self.files.require_free(size_hint)
        with self.files.incoming() as unnamed:
            growing = _Growing(unnamed, self.profile)
            self._fill(growing, read_into)
            growing.finish()
            return growing.publish(self.files, replace=replace)

    def directory(self, entries: Iterable[Link]) -> Stored:
        """Publish a directory of objects, ``size`` being the ``dag_bytes`` of each. Raises also InvalidRequest."""
        blocks: dict[Cid, bytes] = {}
        root = build_directory(entries, self.profile, blocks.__setitem__)
        if self._pace:
            self._pace.take(sum(map(len, blocks.values())))
        with self.files.incoming() as unnamed:
            unnamed.write_outboard(write_outboard(root.cid, blocks.get))
            fresh = self.files.publish(root.cid, unnamed, payload=False)
        return Stored(root.cid, ObjectKind.DIRECTORY, self.profile.name, 0, root.dag_bytes, fresh)

    def tree(self, items: Iterable[tuple[str, ReadInto | Built | None]], *, most: int = MAX_ENTRIES) -> list[Stored]:
        """Take in a directory of ``(path, file)``; answers what it made, children first, the root last.

        A file is read, or with ``Built`` stands in the store already; a path with None is an empty folder. Each file
        or folder is one object, of which there are at most ``most`` below the root. Paths are relative, parts divided
        by ``/``. Raises as ``file``, and InvalidRequest for too many or a path that cannot be or stands twice; files
        that came before it are stored then.
        """
        stored: list[Stored] = []
        root: Folder = {}
        count = 0
        for path, content in items:
            *above, name = split_path(path) or [""]
            if content is None and name:
                above.append(name)
            folder, made = folder_at(root, above)
            count += made + (content is not None)
            if count > most:
                raise InvalidRequest(f"A directory has at most {most:,} files and folders below it.", param="path")
            if content is None:
                continue
            if not name or name in folder:
                raise InvalidRequest(f"The path {path[:80]!r} is empty or given twice.", param="path")
            if isinstance(content, Built):
                folder[name] = Link(content.cid, name, content.dag_bytes)
            else:
                file = self._file_soon(content, stored)
                folder[name] = Link(file.cid, name, file.dag_bytes)
        self._publishing.wait()
        self._folder(root, stored)
        return stored

    def path(self, path: Path, *, hidden: bool = False) -> list[Stored]:
        """Take in a local file or directory, its entries by name; the root last. ``hidden``: names with a dot too.

        Symbolic links and devices are refused (InvalidRequest), also where something is swapped for one meanwhile.
        """
        fd = _open_local(str(path), None)
        try:
            if not S_ISDIR(os.fstat(fd).st_mode):
                return [self.file(_reader_of(fd), size_hint=os.fstat(fd).st_size)]
            return self.tree(_walk(fd, "", hidden))
        finally:
            os.close(fd)

    def _folder(self, folder: Folder, stored: list[Stored]) -> Stored:
        links: list[Link] = []
        for name, inner in sorted(folder.items()):
            if not isinstance(inner, Link):
                below = self._folder(inner, stored)
                inner = Link(below.cid, name, below.dag_bytes)
            links.append(inner)
        stored.append(made := self.directory(links))
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._publishing.__exit__()
        if self._pool:
            self._pool.shutdown()

    def _file_soon(self, read_into: ReadInto, stored: list[Stored]) -> Child:
        """Take in a file and publish it meanwhile, which adds it to ``stored``."""
        with contextlib.ExitStack() as stack:
            growing = _Growing(stack.enter_context(self.files.incoming()), self.profile)
            self._fill(growing, read_into)
            root = growing.finish()
            held = stack.pop_all()

        self._publishing.soon(lambda: stored.append(growing.publish(self.files)), held)
        return root

    def _fill(self, growing: "_Growing", read_into: ReadInto) -> None:
        failures: list[BaseException] = []
        try:
            offset = 0
            while not failures:
                buffer = self._buffer()
                try:
                    count = self._read(read_into, buffer)
                except BaseException:
                    self._free.put(buffer)
                    raise
                self._place(growing, offset, buffer, count, failures)
                offset += count
                if count < len(buffer):
                    break
        finally:
            # The file stays open until no thread writes to it any more.
            for buffer in [self._free.get() for _ in range(self._made)]:
                self._free.put(buffer)
        if failures:
            raise failures[0]

    def _buffer(self) -> memoryview:
        """A free buffer, or a new one while there are few: two for each thread keep reader and writers busy."""
        if self._free.empty() and self._made < 2 * _WORKERS:
            self._made += 1
            return memoryview(bytearray(self.profile.chunk_bytes))
        return self._free.get()

    def _read(self, read_into: ReadInto, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer) and (count := read_into(buffer[done:])):
            done += count
        if done and self._pace:
            self._pace.take(done)
        if done and self._progress:
            self._progress(done)
        return done

    def _place(
        self, growing: "_Growing", offset: int, buffer: memoryview, count: int, failures: list[BaseException]
    ) -> None:
        def work() -> None:
            try:
                if count:
                    growing.place(offset, buffer[:count])
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads
                failures.append(error)
            finally:
                self._free.put(buffer)

        if count < len(buffer):
            work()  # the last chunk, and often the only one: a thread would only cost
            return
        self._pool = self._pool or ThreadPoolExecutor(_WORKERS, thread_name_prefix="ingest")
        self._pool.submit(work)


def ingest(
    read_into: ReadInto,
    files: ObjectFiles,
    profile: Profile,
    *,
    pace: Pace | None = None,
    progress: Progress | None = None,
    size_hint: int = 0,
    replace: bool = False,
) -> Stored:
    """Take in one file; see ``Intake.file``."""
    with Intake(files, profile, pace=pace, progress=progress) as intake:
        return intake.file(read_into, size_hint=size_hint, replace=replace)


class _Growing:
    """A file on its way in. Chunks come from several threads; the DAG grows in their order in the file."""

    def __init__(self, unnamed: Unnamed, profile: Profile) -> None:
        self._unnamed = unnamed
        self._profile = profile
        self._blocks: dict[Cid, bytes] = {}
        self._builder = FileDagBuilder(profile, self._blocks.__setitem__)
        self._lock = threading.Lock()
        self._early: dict[int, tuple[Cid, int]] = {}
        self._end = 0

    def place(self, offset: int, data: memoryview) -> None:
        """Write a chunk, hash it, and add it to the DAG when all before it are there."""
        self._unnamed.write(data, offset)
        cid = Cid.of(Codec.RAW, data)
        with self._lock:
            self._early[offset] = (cid, len(data))
            before = self._end
            while (leaf := self._early.pop(self._end, None)) is not None:
                self._builder.leaf(*leaf)
                self._end += leaf[1]
            after = self._end
        start = before - before % _WRITE_BACK_BYTES
        if after - start >= _WRITE_BACK_BYTES:
            self._unnamed.start_write_back(start, after - after % _WRITE_BACK_BYTES - start)

    def finish(self) -> Child:
        """The root, when every byte up to the end has been placed."""
        if self._early:
            raise InvalidRequest("A part of the file was never read.")
        self._builder.finish()
        return self._builder.root

    def publish(self, files: ObjectFiles, *, replace: bool = False) -> Stored:
        """Make it visible, after ``finish``."""
        root = self._builder.root
        fresh = replace or not files.has_file(root.cid)
        if not fresh:
            files.settle(root.cid)  # what is there already need not be written to the disk again
        else:
            if root.cid.codec is not Codec.RAW:
                self._unnamed.write_outboard(write_outboard(root.cid, self._blocks.get))
            fresh = files.publish(root.cid, self._unnamed, payload=True, replace=replace)
        return Stored(root.cid, ObjectKind.FILE, self._profile.name, root.size_bytes, root.dag_bytes, fresh)


def _open_local(name: str, folder_fd: int | None) -> int:
    """Open a file or folder itself, never what a link leads to, and never wait for a pipe."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError as error:
        raise InvalidRequest(
            f"{name!r} is a symbolic link; those are not followed."
            if error.errno == errno.ELOOP
            else f"{name!r} cannot be read: {error.strerror}.",
            param="path",
        ) from error
    mode = os.fstat(fd).st_mode
    if S_ISREG(mode) or S_ISDIR(mode):
        return fd
    os.close(fd)
    raise InvalidRequest(f"{name!r} is neither a file nor a folder.", param="path")


def _walk(folder_fd: int, above: str, hidden: bool) -> Generator[tuple[str, ReadInto | None]]:
    """Everything under an open folder; a file is open until the next one is asked for."""
    names = sorted(name for name in os.listdir(folder_fd) if hidden or not name.startswith("."))
    if not names:
        yield above, None
    if above.count("/") >= MAX_PATH_PARTS:
        raise InvalidRequest(f"{above[:80]!r} is more than {MAX_PATH_PARTS} folders deep.", param="path")
    for name in names:
        fd = _open_local(name, folder_fd)
        try:
            if S_ISDIR(os.fstat(fd).st_mode):
                yield from _walk(fd, f"{above}{name}/", hidden)
            else:
                yield above + name, _reader_of(fd)
        finally:
            os.close(fd)


def _reader_of(fd: int) -> ReadInto:
    with contextlib.suppress(OSError):  # advice only
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return lambda into: os.readv(fd, [into])
