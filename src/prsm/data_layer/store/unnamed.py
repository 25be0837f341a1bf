"""Files of an object that is not whole yet: they have no name among the objects, and nobody looks at them."""

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prsm.data_layer.store.disk import disk

OUTBOARD = ".car"
_FRESH = ".new"
_FICLONE = 0x40049409  # linux/fs.h
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
# Larger writes make larger folios in the page cache, of memory that a virtual machine has often yet to be given by its
# host: a fetch of 1 GiB by whole 1 MiB leaves was measured to take 1 to 2 s more of system time.
_WRITE_BYTES = 256 * 1024


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

    def share(self, fd: int) -> None:
        """Begin with the bytes of another file where the file system lets both have them in one place (FICLONE).

        Elsewhere, or when something is here already, nothing changes.
        """
        if not os.fstat(self.fd).st_size:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.fd, _FICLONE, fd)

    def start_write_back(self, offset: int, size_bytes: int) -> None:
        """Let the kernel begin to write this range, so that the sync at the end finds little left to do."""
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(self.fd, offset, size_bytes, os.POSIX_FADV_DONTNEED)

    def release(self) -> None:
        """Give back the room that was reserved and holds no data, where the file system can (FALLOC_FL_PUNCH_HOLE)."""
        end = os.fstat(self.fd).st_size
        stop = 0
        for start, after in [*data_ranges(self.fd), (end, end)]:
            if start > stop:
                _fallocate(self.fd, _KEEP_SIZE | _PUNCH_HOLE, stop, start - stop)
            stop = after

    def write_outboard(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the outboard durably, read-only. Raises StorageFault (LOCAL_DISK)."""
        with disk(f"write {self.outboard}"):
            fresh = self.outboard.with_name(self.outboard.name + _FRESH)
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
        """Delete both. Raises StorageFault (LOCAL_DISK)."""
        with disk(f"delete {self.path}"):
            self.path.unlink(missing_ok=True)
            self.outboard.unlink(missing_ok=True)
            self.outboard.with_name(self.outboard.name + _FRESH).unlink(missing_ok=True)


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data, as (start, end)."""
    end = os.fstat(fd).st_size
    start = 0
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:  # nothing but a hole until the end
            return
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, stop
        start = stop


# Python has no name for it. One that fails gives back nothing, and loses nothing.
_fallocate = ctypes.CDLL(None).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
