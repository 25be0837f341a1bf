"""The file system, asked so that nothing is believed before it is on the disk, and its refusals in storage's words.

A name is on the disk when its folder was synced after it was made; a folder, when the folder above it was. Threads that
wait for the same folder share one sync.
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from prsm.core.errors import Kind
from prsm.data_layer.seams import Fault, StorageFault

_FULL = frozenset({"ENOSPC", "EDQUOT", "EFBIG"})


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
def locked_folder(path: Path, how: int) -> Generator[None]:
    """Hold a folder's lock (``fcntl.LOCK_SH`` or ``LOCK_EX``), among threads as among processes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


class Folders:
    """Folders made and synced, from any thread; each object of this class shares syncs among its own callers."""

    def __init__(self, sync: Callable[[Path], object] | None = None) -> None:
        self._sync = sync or sync_folder
        self._lock = threading.Lock()
        self._turns: dict[Path, tuple[Future[None], Future[None] | None]] = {}
        self._durable: set[Path] = set()

    def sync(self, path: Path) -> None:
        """Bring every name that stands in a folder now to the disk. Raises OSError.

        Who comes while a sync of it runs, which may have begun before his name was made, shares the next one.
        """
        mine = Future[None]()
        with self._lock:
            running, coming = self._turns.get(path, (None, None))
            if coming is None:
                self._turns[path] = (running, mine) if running else (mine, None)
        if coming is not None:
            coming.result()
            return
        if running is not None:
            running.exception()  # wait for its end, however it ended
            with self._lock:
                self._turns[path] = (mine, None)
        try:
            self._sync(path)
            mine.set_result(None)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                if self._turns[path] == (mine, None):
                    del self._turns[path]

    def make(self, path: Path) -> None:
        """Have a folder there, on the disk, under one that is; for its owner only. Raises OSError."""
        if path in self._durable and path.exists():
            return
        path.mkdir(mode=0o700, exist_ok=True)
        with os.scandir(path.parent) as entries:
            there = [Path(entry.path) for entry in entries]
        # Also where it was there already: who made it may have been killed before he synced it.
        self.sync(path.parent)
        self._durable.update(there)

    def make_root(self, path: Path) -> None:
        """As ``make``, for a folder and all that is missing above it; of what others own we may have no sight."""
        if not path.parent.exists():
            self.make_root(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(PermissionError):
            self.sync(path.parent)


def sync_folder(path: Path) -> None:
    """Bring every name that stands in a folder now to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
