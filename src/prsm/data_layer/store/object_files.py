"""Objects on disk: one folder of verified, immutable files, shared by any number of processes.

A file is ``objects/<xx>/<cid>``, its own bytes and no more, with ``<cid>.car`` beside it: the outboard, a CARv1 of the
blocks that hold no payload. A file whose CID is raw is one block and needs none; a directory is a ``.car`` alone. All
appear by rename after they are whole, verified and on the disk, and can be opened once their names are too. The payload
comes last and goes first; what a loss of power may leave of the one without the other is nothing until it is swept. A
name is only ever a CID in canonical text.
"""

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self, final
from uuid import uuid4

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.cid import BadCid, Cid, Codec
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.disk import Folders, disk, disk_full, locked_folder
from prsm.data_layer.store.unnamed import OUTBOARD, Unnamed

_LOCK = ".lock"


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

    def __init__(
        self, folder: Path, *, keep_free_bytes: int = 256 * 1024 * 1024, folders: Folders | None = None
    ) -> None:
        """``keep_free_bytes`` of the file system are never taken; ``folders`` of another one on this very folder."""
        self.folder = folder
        self.keep_free_bytes = keep_free_bytes
        self.folders = folders or Folders()
        if folders is None:
            with disk(f"make {folder}"):
                self.folders.make_root(folder)
                for name in ("objects", "parts", "incoming"):
                    self.folders.make(folder / name)

    def payload_path(self, cid: Cid) -> Path:
        """Where the file's own bytes are, or would be."""
        name = str(cid)
        return self.folder / "objects" / name[-2:] / name

    def outboard_path(self, cid: Cid) -> Path:
        """Where the object's other blocks are, or would be; a raw CID has none."""
        path = self.payload_path(cid)
        return path.with_name(path.name + OUTBOARD)

    def part_path(self, cid: Cid) -> Path:
        """Where an object's payload is while it is fetched."""
        return self.folder / "parts" / str(cid)

    def has_file(self, cid: Cid) -> bool:
        """Whether the file is here whole."""
        return self.payload_path(cid).exists() and self.has_outboard(cid)

    def has_outboard(self, cid: Cid) -> bool:
        """Whether the blocks of the object that hold no payload are here, if it has any."""
        return cid.codec is Codec.RAW or self.outboard_path(cid).exists()

    def settle(self, cid: Cid) -> None:
        """Have the names of an object that is here on the disk, whoever made them and was killed before he did this."""
        with disk(f"settle {cid}"):
            self.folders.sync(self.payload_path(cid).parent)

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
    def incoming(self) -> Generator[Unnamed]:
        """A payload and its outboard that have no CID yet; gone afterwards unless published."""
        path = self.folder / "incoming" / uuid4().hex
        # The folder's lock keeps ``sweep`` from taking a file between its creation and its own lock.
        with disk(f"make a file in {path.parent}"), locked_folder(path.parent, fcntl.LOCK_SH):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
        unnamed = Unnamed(path, fd)
        try:
            yield unnamed
        finally:
            try:
                unnamed.discard()
            finally:
                os.close(fd)

    @contextmanager
    def part(self, cid: Cid) -> Generator[Unnamed]:
        """The files of an object being fetched, empty or as an earlier attempt left them, held by the caller alone.

        They stay afterwards unless published or discarded, without the room for what has not come. Raises InUse,
        StorageFault (LOCAL_DISK).
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
            if path.exists():
                part.release()
            os.close(fd)
            try:
                if not (path.exists() or part.outboard.exists()):
                    with disk(f"delete {lock}"):
                        lock.unlink(missing_ok=True)  # while it is held: who waits sees that it is no longer the lock
            finally:
                os.close(lock_fd)

    def publish(self, cid: Cid, unnamed: Unnamed, *, payload: bool, replace: bool = False) -> bool:
        """Make the object visible, whole and durable; False when it was there already, and then stays as it was.

        The caller has verified all of it (``Intake`` and ``Part`` do, and are the only callers). ``replace`` puts it
        in the place of one that is there; who has that one open keeps it. Raises StorageFault (LOCAL_DISK).
        """
        with disk(f"publish {cid}"), contextlib.ExitStack() as stack:
            if payload:
                fd = unnamed.fd
                os.fchmod(fd, 0o444)
                os.fdatasync(fd)
            else:
                stack.callback(os.close, fd := os.open(unnamed.outboard, os.O_RDONLY | os.O_CLOEXEC))
            fcntl.flock(fd, fcntl.LOCK_EX)  # who opens the object waits until its name is on the disk
            shard = self.payload_path(cid).parent
            self.folders.make(shard)
            with locked_folder(shard, fcntl.LOCK_EX):
                there = self.has_outboard(cid) and (not payload or self.payload_path(cid).exists())
                if there and not replace:
                    unnamed.discard()
                else:
                    self._name(cid, unnamed, payload=payload)
            # Also when it was there: who published it may have been killed before this.
            self.folders.sync(shard)
            with locked_folder(shard, fcntl.LOCK_EX):  # no collector comes between the two locks
                fcntl.flock(fd, fcntl.LOCK_SH)
        return not there

    def _name(self, cid: Cid, unnamed: Unnamed, *, payload: bool) -> None:
        if cid.codec is not Codec.RAW:
            unnamed.outboard.rename(self.outboard_path(cid))
        if payload:
            unnamed.path.rename(self.payload_path(cid))
        else:
            unnamed.path.unlink(missing_ok=True)

    def remove(self, cid: Cid) -> bool:
        """Take an object away; False when somebody reads it now. One that is not there is no error."""
        return self._remove(cid, lambda: True)

    def drop_half(self, cid: Cid) -> bool:
        """Delete a file's payload or outboard that is without the other; False when it is not, or is read now.

        Such a half is left where a publication or a removal was cut off, and no index can be made of it.
        """
        return self._remove(cid, lambda: not self.has_file(cid))

    def _remove(self, cid: Cid, still: Callable[[], bool]) -> bool:
        payload, outboard = self.payload_path(cid), self.outboard_path(cid)
        if not payload.parent.exists():
            return True
        with disk(f"remove {cid}"), locked_folder(payload.parent, fcntl.LOCK_EX), contextlib.ExitStack() as stack:
            if not still():
                return False
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

    def listing(self) -> Iterator[Found]:
        """Every object's files, in no order; names that are no canonical CID are passed over."""
        with disk(f"list {self.folder}"):
            shards = [entry for entry in os.scandir(self.folder / "objects") if entry.is_dir(follow_symlinks=False)]
            for shard in shards:
                for name in sorted({entry.name.removesuffix(OUTBOARD) for entry in os.scandir(shard.path)}):
                    if (cid := named(name)) is not None and name[-2:] == shard.name:
                        yield self._found(cid)

    def _found(self, cid: Cid) -> Found:
        payload_bytes = None
        with contextlib.suppress(FileNotFoundError):
            payload_bytes = self.payload_path(cid).stat().st_size
        return Found(cid, payload_bytes, self.has_outboard(cid), self.stored_bytes(cid))

    def sweep(self, *, parts_older_s: float = 7 * 24 * 3600) -> int:
        """Delete what killed processes left: unpublished files, and parts untouched for so long; answers how many."""
        gone = 0
        with disk(f"sweep {self.folder}"):
            incoming = self.folder / "incoming"
            with locked_folder(incoming, fcntl.LOCK_EX):
                gone += sum(_delete_if_dead(path) for path in incoming.iterdir() if not path.suffix)
                # What is left without its payload file had lost it already.
                for path in incoming.glob("*.*"):
                    if not path.with_name(path.name.partition(".")[0]).exists():
                        path.unlink(missing_ok=True)
            parts = self.folder / "parts"
            # A kill can leave any of a part's files without the others.
            cids = {named(path.name.partition(".")[0]): path for path in sorted(parts.iterdir(), reverse=True)}
            for cid, path in cids.items():
                with contextlib.suppress(FileNotFoundError):  # published or discarded meanwhile
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


def named(text: str) -> Cid | None:
    """The CID whose one canonical text this is, if it is."""
    with contextlib.suppress(BadCid):
        if str(cid := Cid.parse(text)) == text:
            return cid
    return None


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
