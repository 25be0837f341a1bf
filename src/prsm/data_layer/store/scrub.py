"""Whether what is on the disk is still what was published: every byte is read from the disk and hashed again.

What is found damaged is listed leaf by leaf, so that a repair fetches those and no more. A repair builds the object
anew beside the damaged one, of the same bytes on the disk where the file system can share them, and takes its place by
rename: who reads the old one meanwhile keeps it as it was.
"""

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.seams import Pace, StorageFault
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind, StoredFile, Verified
from prsm.data_layer.store.object_index import Damaged, Home, ObjectIndex, Place, read_index, rebuild
from prsm.data_layer.store.parts import begin

FetchBlock = Callable[[Cid, memoryview], int]
"""Puts a block into the buffer and answers how many bytes; it need not be trusted."""
_AHEAD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What a scrub found. ``leaves`` are to be fetched again; without a sound outboard they cannot be told."""

    cid: Cid
    index: ObjectIndex | None
    outboard_damaged: bool
    leaves: tuple[Place, ...]
    read_bytes: int

    @property
    def whole(self) -> bool:
        """Whether all is as it was published."""
        return not self.outboard_damaged and not self.leaves


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair fetched; the rest was sound."""

    cid: Cid
    blocks: int
    fetched_bytes: int


def scrub(
    files: ObjectFiles, cid: Cid, *, pace: Pace | None = None, progress: Callable[[int], object] | None = None
) -> Scrubbed:
    """Hash all of a published object. Raises NotStored, and what ``pace`` raises."""
    try:
        index = read_index(files, cid)
    except Damaged:
        return Scrubbed(cid, None, True, (), 0)
    if index.kind is ObjectKind.DIRECTORY:
        return Scrubbed(cid, index, False, (), 0)
    buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
    bad: list[Place] = []
    read_bytes = 0
    with files.open(cid) as payload:
        for leaf in index.leaves():
            if pace:
                pace.take(leaf.size_bytes)
            if read_bytes % _AHEAD_BYTES + leaf.size_bytes >= _AHEAD_BYTES or not read_bytes:
                _forget(payload, leaf.offset)
            view = buffer[: leaf.size_bytes]
            if not _sound(payload, index, leaf, view):
                bad.append(leaf)
            read_bytes += leaf.size_bytes
            if progress:
                progress(leaf.size_bytes)
    return Scrubbed(cid, index, False, tuple(bad), read_bytes)


def repair(files: ObjectFiles, cid: Cid, fetch: FetchBlock) -> Repaired:
    """Put a sound object in the place of a damaged one, fetching only what is not sound here.

    Raises NotStored, InUse, StorageFault (BAN for wrong bytes), and what ``fetch`` raises; then the object stays as it
    was, and what was fetched stays for another attempt.
    """
    if not files.payload_path(cid).exists() and not files.outboard_path(cid).exists():
        raise NotStored(f"{cid} is not in this node's storage.", remedy=f"Fetch it with: prsm storage get {cid}")
    buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
    blocks = fetched_bytes = 0

    def fetched(wanted: Cid) -> Verified:
        nonlocal blocks, fetched_bytes
        size_bytes = fetch(wanted, buffer)
        blocks += 1
        fetched_bytes += size_bytes
        return Verified(wanted, buffer[:size_bytes])

    with begin(files, cid, repair=True) as part, _opened(files, cid) as old:
        while part.wanted:
            for wanted in part.wanted:
                part.feed(_own_leaf(old, wanted) or fetched(wanted))
        part.recheck()
        if old:
            part.salvage(old)
        for leaf in part.missing():
            part.put(leaf, fetched(leaf.cid))
        part.publish(replace=True)
    return Repaired(cid, blocks, fetched_bytes)


def _sound(payload: StoredFile, index: ObjectIndex, leaf: Place, view: memoryview) -> bool:
    try:
        if payload.read_into(view, leaf.offset) != leaf.size_bytes:
            return False
        if leaf.home is Home.OUTBOARD:
            return view == index.inline(leaf.cid)
        return rebuild(leaf.cid, leaf.home, view) is not None
    except StorageFault:  # a sector that cannot be read is as bad as wrong bytes
        return False


def _forget(payload: StoredFile, offset: int) -> None:
    """Drop what memory has of the next bytes, or the disk would not be read at all; pages that are mapped stay."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(payload.fd, offset, 2 * _AHEAD_BYTES, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _opened(files: ObjectFiles, cid: Cid) -> Generator[StoredFile | None]:
    """The damaged payload, if there is one."""
    try:
        stored = files.open(cid)
    except NotStored:
        yield None
        return
    with stored:
        yield stored


def _own_leaf(old: StoredFile | None, cid: Cid) -> Verified | None:
    """A file of one leaf is its own root; it may be sound although its outboard is not."""
    if old is None or cid != old.cid or old.size_bytes > MAX_BLOCK_BYTES:
        return None
    data = memoryview(bytearray(old.size_bytes))
    old.read_into(data, 0)
    block = rebuild(cid, Home.PAYLOAD if cid.codec is Codec.RAW else Home.WRAPPED, data)
    return None if block is None else Verified(cid, block)
