"""Objects on disk: one folder of verified, immutable files, shared by any number of processes.

A file is ``objects/<xx>/<cid>``, its own bytes and no more, with ``<cid>.car`` beside it: the outboard, a CARv1 of the
blocks that hold no payload. A directory is a ``.car`` alone. Both appear by rename after they are whole, verified and
on the disk; the payload comes last and goes first, so that no payload is ever without its outboard. A name is only
ever a CID in canonical text.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self, final
from uuid import uuid4

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import BadCid, Cid
from prsm.data_layer.seams import Fault, StorageFault

OUTBOARD = ".car"
_LOCK = ".lock"
_FULL = frozenset({"ENOSPC", "EDQUOT", "EFBIG"})
# Larger writes make larger folios in the page cache, of memory that a virtual machine has often yet to be given by its
# host: a fetch of 1 GiB by whole 1 MiB leaves was measured to take 1 to 2 s more of system time.
_WRITE_BYTES = 256 * 1024


class NotStored(PrsmError):
    """No object of this CID is whole in this folder."""

    kind = Kind.NOT_FOUND
    code = "not_stored"


class InUse(PrsmError):
    """Another process or thread works on this very object now."""

    kind = Kind.CONFLICT
    code = "object_in_use"


class ObjectKind(StrEnum):
    """What an object is."""

    FILE = "file"
    DIRECTORY = "directory"


@final
class Verified:
    """A block whose bytes were hashed when this was made and are what its CID names: all that is ever written.

    Raises StorageFault (BAN) for other bytes. The buffer must not change while this is in use.
    """

    __slots__ = ("cid", "data")

    def __init__(self, cid: Cid, data: bytes | memoryview) -> None:
        if not cid.names(data):
            raise StorageFault(
                f"{len(data)} bytes given for {cid} are not what it names.", fault=Fault.BAN, code="wrong_bytes"
            )
        self.cid = cid
        self.data = data

    @classmethod
    def checked(cls, cid: Cid, data: bytes | memoryview) -> Self:
        """For what ``fetch_block`` just brought, and for nothing else: it has hashed these very bytes."""
        block = cls.__new__(cls)
        block.cid = cid
        block.data = data
        return block


@dataclass(frozen=True, slots=True)
class Found:
    """An object's files as they lie in the folder; a directory has no payload."""

    cid: Cid
    payload_bytes: int | None
    outboard: bool
    stored_bytes: int


class StoredFile:
    """An open published file. While it, or a map of it, is open no collector takes the object away."""

    def __init__(self, cid: Cid, fd: int) -> None:
        self.cid = cid
        self.fd = fd
        self.size_bytes = os.fstat(fd).st_size

    def read_into(self, into: memoryview, offset: int) -> int:
        """Fill ``into`` from ``offset``; fewer bytes only at the end of the file. Raises StorageFault (LOCAL_DISK)."""
        done = 0
        with disk(f"read {self.cid}"):
            while done < len(into) and (count := os.preadv(self.fd, [into[done:]], offset + done)):
                done += count
        return done

    def reader(self) -> Callable[[int], bytes]:
        """``read(n)`` from the beginning on, as a file's; none at the end."""
        place = 0

        def read(size_bytes: int) -> bytes:
            nonlocal place
            with disk(f"read {self.cid}"):
                data = os.pread(self.fd, size_bytes, place)
            place += len(data)
            return data

        return read

    def map(self) -> mmap.mmap:
        """The whole file as read-only memory, which stays valid when this is closed. An empty file has no map."""
        with disk(f"map {self.cid}"):
            return mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Let go of the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ObjectFiles:
    """The folder of objects. Every method may be called from any thread and any process at once."""

    def __init__(self, folder: Path, *, keep_free_bytes: int = 256 * 1024 * 1024) -> None:
        """``keep_free_bytes`` of the file system are never taken."""
        self.folder = folder
        self.keep_free_bytes = keep_free_bytes
        with disk(f"make {folder}"):
            for name in ("objects", "parts", "incoming"):
                (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def payload_path(self, cid: Cid) -> Path:
        """Where the file's own bytes are, or would be."""
        name = str(cid)
        return self.folder / "objects" / name[-2:] / name

    def outboard_path(self, cid: Cid) -> Path:
        """Where the object's other blocks are, or would be."""
        path = self.payload_path(cid)
        return path.with_name(path.name + OUTBOARD)

    def part_path(self, cid: Cid) -> Path:
        """Where an object's payload is while it is fetched."""
        return self.folder / "parts" / str(cid)

    def has_file(self, cid: Cid) -> bool:
        """Whether the file is here whole."""
        return self.payload_path(cid).exists() and self.outboard_path(cid).exists()

    def stored_bytes(self, cid: Cid) -> int:
        """What the disk gives for an object's files; 0 when there are none. Raises StorageFault (LOCAL_DISK)."""
        taken = 0
        with disk(f"look at {cid}"):
            for path in (self.payload_path(cid), self.outboard_path(cid)):
                with contextlib.suppress(FileNotFoundError):
                    taken += path.stat().st_blocks * 512
        return taken

    def open(self, cid: Cid) -> StoredFile:
        """The published file. Raises NotStored, StorageFault (LOCAL_DISK)."""
        return StoredFile(cid, self._open_shared(cid, self.payload_path(cid)))

    def open_outboard(self, cid: Cid) -> StoredFile:
        """The published outboard, held like the file itself. Raises NotStored, StorageFault (LOCAL_DISK)."""
        return StoredFile(cid, self._open_shared(cid, self.outboard_path(cid)))

    def free_bytes(self) -> int:
        """What may still be taken of the file system."""
        with disk(f"ask for the free space of {self.folder}"):
            state = os.statvfs(self.folder)
        return max(0, state.f_bavail * state.f_frsize - self.keep_free_bytes)

    def require_free(self, size_bytes: int) -> None:
        """Raise StorageFault (LOCAL_DISK) unless ``size_bytes`` may be taken."""
        if size_bytes > (free := self.free_bytes()):
            raise disk_full(f"{size_bytes:,} bytes are needed in {self.folder} and {free:,} may be taken.")

    def reserve(self, fd: int, size_bytes: int) -> None:
        """Give an open file its size and its room on the disk, without data. Raises StorageFault (LOCAL_DISK)."""
        taken = os.fstat(fd).st_blocks * 512
        self.require_free(size_bytes - taken)
        with disk(f"reserve {size_bytes:,} bytes in {self.folder}"):
            if size_bytes:
                os.posix_fallocate(fd, 0, size_bytes)
            os.ftruncate(fd, size_bytes)

    @contextmanager
    def incoming(self) -> Generator["Unnamed"]:
        """A payload and its outboard that have no CID yet; gone afterwards unless published."""
        path = self.folder / "incoming" / uuid4().hex
        # The folder's lock keeps ``sweep`` from taking a file between its creation and its own lock.
        with disk(f"make a file in {path.parent}"), _locked_folder(path.parent, fcntl.LOCK_SH):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        unnamed = Unnamed(path, fd)
        try:
            yield unnamed
        finally:
            unnamed.discard()
            os.close(fd)

    @contextmanager
    def part(self, cid: Cid) -> Generator["Unnamed"]:
        """The files of an object being fetched, empty or as an earlier attempt left them, held by the caller alone.

        They stay afterwards unless published or discarded. Raises InUse, StorageFault (LOCAL_DISK).
        """
        path = self.part_path(cid)
        lock = path.with_name(path.name + _LOCK)
        with disk(f"open {path}"):
            lock_fd = _take_lock(lock)
            if lock_fd is None:
                raise InUse(f"{cid} is being fetched already.", remedy="Wait for that transfer.", retry_after_s=1)
            try:
                for left in (path, path.with_name(path.name + OUTBOARD)):
                    with contextlib.suppress(FileNotFoundError):
                        left.chmod(0o600)  # killed while publishing, they are read-only already
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                os.close(lock_fd)
                raise
        part = Unnamed(path, fd)
        try:
            yield part
        finally:
            os.close(fd)
            if not (path.exists() or part.outboard.exists()):
                lock.unlink(missing_ok=True)  # while it is held: who waits sees that it is no longer the lock
            os.close(lock_fd)

    def publish(self, cid: Cid, unnamed: "Unnamed", *, payload: bool, replace: bool = False) -> bool:
        """Make the object visible, whole and durable; False when it was there already and stays as it was.

        The caller has verified all of it (``Incoming`` and ``Part`` do, and are the only callers). ``replace`` puts
        it in the place of a damaged one; who has that one open keeps it. Raises StorageFault (LOCAL_DISK).
        """
        final_payload, final_outboard = self.payload_path(cid), self.outboard_path(cid)
        with disk(f"publish {cid}"):
            if payload:
                os.fdatasync(unnamed.fd)
                os.fchmod(unnamed.fd, 0o444)
            shard = final_payload.parent
            if not shard.exists():
                shard.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(shard.parent)
            with _locked_folder(shard, fcntl.LOCK_EX) as folder_fd:
                there = final_outboard.exists() and (not payload or final_payload.exists())
                if there and not replace:
                    unnamed.discard()
                    return False
                unnamed.outboard.rename(final_outboard)
                if payload:
                    os.fsync(folder_fd)  # the outboard's name is on the disk before the payload's
                    unnamed.path.rename(final_payload)
                    fcntl.flock(unnamed.fd, fcntl.LOCK_UN)  # readers need not wait until the writer closes it
                else:
                    unnamed.path.unlink(missing_ok=True)
                os.fsync(folder_fd)
        return True

    def remove(self, cid: Cid) -> bool:
        """Take an object away; False when somebody reads it now. One that is not there is no error."""
        payload, outboard = self.payload_path(cid), self.outboard_path(cid)
        if not payload.parent.exists():
            return True
        with disk(f"remove {cid}"), _locked_folder(payload.parent, fcntl.LOCK_EX), contextlib.ExitStack() as stack:
            for path in (payload, outboard):
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, fd)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return False
            payload.unlink(missing_ok=True)
            outboard.unlink(missing_ok=True)
        return True

    def drop_lone_outboard(self, cid: Cid) -> None:
        """Delete what a publication of a file that was cut off left behind."""
        with disk(f"remove {cid}"), _locked_folder(self.payload_path(cid).parent, fcntl.LOCK_EX):
            if not self.has_file(cid):
                self.outboard_path(cid).unlink(missing_ok=True)

    def listing(self) -> Iterator[Found]:
        """Every object's files, in no order; names that are no canonical CID are passed over."""
        with disk(f"list {self.folder}"):
            for shard in os.scandir(self.folder / "objects"):
                for name in sorted({entry.name.removesuffix(OUTBOARD) for entry in os.scandir(shard.path)}):
                    if (cid := named(name)) is not None and name[-2:] == shard.name:
                        yield self._found(cid)

    def _found(self, cid: Cid) -> Found:
        payload_bytes = None
        with contextlib.suppress(FileNotFoundError):
            payload_bytes = self.payload_path(cid).stat().st_size
        return Found(cid, payload_bytes, self.outboard_path(cid).exists(), self.stored_bytes(cid))

    def sweep(self, *, parts_older_s: float = 7 * 24 * 3600) -> int:
        """Delete what killed processes left: unpublished files, and parts untouched for so long; answers how many."""
        gone = 0
        with disk(f"sweep {self.folder}"):
            incoming = self.folder / "incoming"
            with _locked_folder(incoming, fcntl.LOCK_EX):
                gone += sum(_delete_if_dead(path) for path in incoming.iterdir() if not path.suffix)
                # What is left without its payload file had lost it already.
                for path in incoming.glob("*.*"):
                    if not path.with_name(path.name.partition(".")[0]).exists():
                        path.unlink(missing_ok=True)
            for path in (self.folder / "parts").iterdir():
                cid = named(path.name)
                if cid is not None and time.time() - path.stat().st_mtime > parts_older_s:
                    gone += self.discard_part(cid)
        return gone

    def discard_part(self, cid: Cid) -> bool:
        """Delete what was fetched of an unfinished object; False when it is being fetched now."""
        try:
            with self.part(cid) as part:
                part.discard()
        except InUse:
            return False
        return True

    def parts(self) -> Iterator[Cid]:
        """The objects that are being fetched or were left unfinished."""
        with disk(f"list {self.folder / 'parts'}"):
            names = os.listdir(self.folder / "parts")  # noqa: PTH208 - names, not paths
        for name in names:
            if (cid := named(name)) is not None:
                yield cid

    def _open_shared(self, cid: Cid, path: Path) -> int:
        for _ in range(10):
            with disk(f"open {path}"):
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    break
                fcntl.flock(fd, fcntl.LOCK_SH)
                if os.fstat(fd).st_nlink:
                    return fd
                os.close(fd)  # removed or replaced between opening and locking
        raise NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A payload file that is being written, and its outboard's path beside it."""

    path: Path
    fd: int

    @property
    def outboard(self) -> Path:
        """Where the outboard is written."""
        return self.path.with_name(self.path.name + OUTBOARD)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data``. Raises StorageFault (LOCAL_DISK)."""
        view = memoryview(data)
        with disk(f"write {len(view)} bytes to {self.path}"):
            while view:
                count = os.pwrite(self.fd, view[:_WRITE_BYTES], offset)
                view, offset = view[count:], offset + count

    def start_write_back(self, offset: int, size_bytes: int) -> None:
        """Let the kernel begin to write this range, so that the sync at the end finds little left to do."""
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(self.fd, offset, size_bytes, os.POSIX_FADV_DONTNEED)

    def write_outboard(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the outboard durably, read-only. Raises StorageFault (LOCAL_DISK)."""
        with disk(f"write {self.outboard}"):
            fresh = self.outboard.with_name(self.outboard.name + ".new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fchmod(fd, 0o444)
                os.fdatasync(fd)
            fresh.rename(self.outboard)

    def append_log(self, piece: bytes, offset: int) -> int:
        """Put a piece at ``offset`` of the outboard; answers where it ends. Raises StorageFault (LOCAL_DISK).

        Not durable yet: a kill leaves whole pieces and maybe a torn one, which the next attempt writes over.
        """
        with disk(f"write to {self.outboard}"):
            fd = os.open(self.outboard, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "r+b", buffering=0) as file:
                file.seek(offset)
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
        return offset + len(piece)

    def discard(self) -> None:
        """Delete both."""
        self.path.unlink(missing_ok=True)
        self.outboard.unlink(missing_ok=True)
        self.outboard.with_name(self.outboard.name + ".new").unlink(missing_ok=True)


def named(text: str) -> Cid | None:
    """The CID whose one canonical text this is, if it is."""
    with contextlib.suppress(BadCid):
        if str(cid := Cid.parse(text)) == text:
            return cid
    return None


@contextmanager
def disk(doing: str) -> Generator[None]:
    """Turn what the operating system says about the disk into a StorageFault (LOCAL_DISK)."""
    try:
        yield
    except OSError as error:
        if errno.errorcode.get(error.errno or 0) in _FULL:
            raise disk_full(f"No room to {doing}: {error.strerror}.") from error
        raise StorageFault(
            f"The disk failed to {doing}: {error}.",
            fault=Fault.LOCAL_DISK,
            kind=Kind.UNAVAILABLE,
            code="disk_failed",
            remedy="Check the storage folder's disk and permissions.",
        ) from error


def disk_full(message: str) -> StorageFault:
    """The refusal for want of room."""
    return StorageFault(
        message,
        fault=Fault.LOCAL_DISK,
        kind=Kind.UNAVAILABLE,
        code="disk_full",
        remedy="Free space there, or remove objects with: prsm storage gc",
    )


@contextmanager
def _locked_folder(path: Path, how: int) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        os.close(fd)


def _take_lock(path: Path) -> int | None:
    """Hold the lock file, made where missing; None when another holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)  # its last holder removed it; another file has, or will have, the name


def _delete_if_dead(path: Path) -> bool:
    """Delete an unpublished file that no living process holds."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            Unnamed(path, fd).discard()
            return True
        finally:
            os.close(fd)
    return False


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
