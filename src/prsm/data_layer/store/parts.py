"""An object while it is fetched: blocks go in verified, in any order and from any thread, and it is published whole.

A part knows from the DAG itself which blocks it needs; only ``Verified`` ones are taken, and ``publish`` refuses while
any is missing. What an earlier attempt left is hashed again, never believed.
"""

import os
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec import car
from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import BadBlock, Link
from prsm.data_layer.codec.directories import DirectoryReader
from prsm.data_layer.codec.unixfs import DirectoryNode, HamtNode, Kind, decode_node, leaf_envelope
from prsm.data_layer.codec.unixfs_dag import DagLimits, Fed, FileDagReader, Leaf
from prsm.data_layer.seams import Pace, StorageFault
from prsm.data_layer.store.disk import disk
from prsm.data_layer.store.object_files import NotStored, ObjectFiles, ObjectKind, StoredFile, Verified
from prsm.data_layer.store.object_index import Home, rebuild, write_outboard
from prsm.data_layer.store.unnamed import Unnamed, data_ranges

DEFAULT_LIMITS = DagLimits()
_RECHECK_WORKERS = 2


@contextmanager
def begin(
    files: ObjectFiles, cid: Cid, limits: DagLimits = DEFAULT_LIMITS, *, repair: bool = False
) -> Generator["Part"]:
    """The part of ``cid``, new or as it was left, held by the caller alone; it stays unless published or discarded.

    Blocks above the leaves that were there are fed already; call ``recheck`` for the leaves. A ``repair`` begins with
    the damaged payload where the file system can share its bytes: then only what is bad takes room and is written.
    Raises InUse, BadBlock, StorageFault (LOCAL_DISK).
    """
    with files.part(cid) as unnamed:
        if repair:
            with suppress(NotStored), files.open(cid) as damaged:
                unnamed.share(damaged.fd)
        yield Part(files, unnamed, cid, limits)


class Part:
    """What is there of one object. ``put``, ``read`` and ``holds`` may be called from several threads at once.

    ``feed`` is for one thread: it gives the DAG its blocks until ``wanted`` is empty, then ``leaves`` is complete.
    """

    def __init__(self, files: ObjectFiles, unnamed: Unnamed, cid: Cid, limits: DagLimits) -> None:
        self.cid = cid
        self.kind: ObjectKind | None = None
        self._files = files
        self._unnamed = unnamed
        self._limits = limits
        self._reader = FileDagReader(cid, limits)
        self._directory: DirectoryReader | None = None
        self._blocks: dict[Cid, bytes] = {}
        self._blocks_bytes = 0
        self._plan: dict[int, Leaf] = {}
        self._have: set[int] = set()
        self._lock = threading.Lock()
        self._have_bytes = 0
        self._logged: frozenset[Cid] = frozenset()
        self._log_end = 0
        self._take_opening()
        self._resume()

    @property
    def wanted(self) -> list[Cid]:
        """Blocks to ``feed`` next; empty when the DAG is known."""
        return self._directory.wanted if self._directory else self._reader.wanted

    @property
    def leaves(self) -> list[Leaf]:
        """The file's leaves known so far, by offset; complete when nothing is wanted. Empty for a directory."""
        return [] if self._directory else self._reader.leaves

    @property
    def entries(self) -> list[Link]:
        """The directory's entries known so far; complete when nothing is wanted. Empty for a file."""
        return self._directory.entries if self._directory else []

    @property
    def size_bytes(self) -> int | None:
        """Of the file; None until its root was fed. 0 for a directory."""
        return 0 if self._directory else self._reader.size_bytes

    @property
    def have_bytes(self) -> int:
        """Bytes of the file that are here, verified."""
        return self._have_bytes

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.kind is not None and not self.wanted and len(self._have) == len(self._plan)

    def holds(self, leaf: Leaf) -> bool:
        """Whether a leaf is here, verified."""
        return leaf.offset in self._have

    def missing(self) -> list[Leaf]:
        """The known leaves that are not here, by offset."""
        return [leaf for leaf in self.leaves if leaf.offset not in self._have]

    def feed(self, block: Verified) -> Fed:
        """Take a wanted block above the leaves (or one that turns out to be a leaf) and say what it brought.

        Raises BadBlock where the content breaks a rule (the part is void then), StorageFault (LOCAL_DISK).
        """
        if block.cid == self.cid and block.cid.codec is Codec.DAG_PB and self.kind is None:
            node = decode_node(block.cid, block.data)
            if isinstance(node, DirectoryNode | HamtNode):
                self.kind = ObjectKind.DIRECTORY
                self._directory = DirectoryReader(self.cid)
        if self._directory:
            return self._feed_directory(self._directory, block)
        fed = self._reader.feed(block.cid, block.data)
        if self.kind is None:
            self.kind = ObjectKind.FILE
            self._files.reserve(self._unnamed.fd, self._reader.size_bytes or 0)
        self._absorb(fed)
        is_payload = any(leaf.cid == block.cid and (not leaf.envelope or _is_rebuilt(leaf)) for leaf, _ in fed.known)
        if not is_payload:
            self._log(block)
        return fed

    def put(self, leaf: Leaf, block: Verified) -> None:
        """Write a leaf in its place. Raises BadBlock when it has not the size claimed, StorageFault (LOCAL_DISK)."""
        if self._plan.get(leaf.offset) != leaf or block.cid != leaf.cid:
            raise InvalidRequest(f"{block.cid} is not the leaf at byte {leaf.offset} of {self.cid}.")
        if len(block.data) != leaf.size_bytes:
            raise BadBlock(f"Block {block.cid} has {len(block.data)} bytes; {leaf.size_bytes} were claimed.")
        self._write(leaf, block.data)

    def read(self, into: memoryview, offset: int) -> int:
        """Read from the file as it is here; the caller has seen that the leaves there are held."""
        with disk(f"read {self.cid}"):
            return os.preadv(self._unnamed.fd, [into], offset)

    def recheck(self, *, pace: Pace | None = None) -> int:
        """Hash the leaves that an earlier attempt may have written; answers how many bytes are here.

        Holes are passed over (SEEK_DATA). Raises what ``pace`` raises.
        """
        candidates = list(_within(self.missing(), data_ranges(self._unnamed.fd)))
        largest = max((leaf.size_bytes for leaf in candidates), default=0)
        coming = iter(candidates)
        lock = threading.Lock()

        def work() -> None:
            buffer = memoryview(bytearray(largest))
            while True:
                with lock:
                    leaf = next(coming, None)
                if leaf is None:
                    return
                if pace:
                    pace.take(leaf.size_bytes)
                view = buffer[: leaf.size_bytes]
                with suppress(StorageFault):  # a sector that cannot be read is a leaf to fetch
                    if self.read(view, leaf.offset) == leaf.size_bytes and leaf.cid.names(view):
                        self._mark(leaf)

        if len(candidates) > 1:
            with ThreadPoolExecutor(_RECHECK_WORKERS, thread_name_prefix="recheck") as pool:
                for worker in [pool.submit(work) for _ in range(_RECHECK_WORKERS)]:
                    worker.result()
        else:  # as for most files, of which nothing is there
            work()
        return self._have_bytes

    def publish(self, *, replace: bool = False) -> bool:
        """Make the whole object visible; False if it was there already. ``replace`` is for a damaged one.

        Raises InvalidRequest while anything is missing, StorageFault (LOCAL_DISK).
        """
        if not self.whole:
            raise InvalidRequest(f"{self.cid} is not whole: {len(self._plan) - len(self._have)} leaves are missing.")
        if self.cid.codec is not Codec.RAW:
            self._unnamed.write_outboard(write_outboard(self.cid, self._blocks.get))
        is_file = self.kind is ObjectKind.FILE
        return self._files.publish(self.cid, self._unnamed, payload=is_file, replace=replace)

    def salvage(self, old: StoredFile) -> int:
        """Take over those missing leaves that are sound in a damaged payload; answers how many bytes are here."""
        buffer = memoryview(bytearray(MAX_BLOCK_BYTES))
        for leaf in self.missing():
            view = buffer[: leaf.size_bytes]
            with suppress(StorageFault):  # a sector that cannot be read is a leaf to fetch
                if old.read_into(view, leaf.offset) == leaf.size_bytes and leaf.cid.names(view):
                    self._write(leaf, view)
        return self._have_bytes

    def discard(self) -> None:
        """Give up what is here."""
        self._unnamed.discard()

    def _take_opening(self) -> None:
        self._absorb(self._reader.opening)
        if not self._reader.wanted:  # the whole file stands in its CID
            self.kind = ObjectKind.FILE
            os.ftruncate(self._unnamed.fd, self._reader.size_bytes or 0)

    def _absorb(self, fed: Fed) -> None:
        for leaf in fed.to_fetch:
            self._plan[leaf.offset] = leaf
        for leaf, payload in fed.known:
            self._plan[leaf.offset] = leaf
            self._write(leaf, payload)

    def _feed_directory(self, directory: DirectoryReader, block: Verified) -> Fed:
        wanted: list[Cid] = []
        fresh = [block]
        while fresh:
            taken = fresh.pop()
            found = directory.feed(taken.cid, taken.data)
            self._log(taken)
            fresh += [Verified(cid, cid.digest) for cid in found if cid.identity]
            wanted += [cid for cid in found if not cid.identity]
        return Fed(wanted=wanted)

    def _write(self, leaf: Leaf, payload: bytes | memoryview) -> None:
        self._unnamed.write(payload, leaf.offset)
        self._mark(leaf)

    def _mark(self, leaf: Leaf) -> None:
        with self._lock:
            if leaf.offset not in self._have:
                self._have.add(leaf.offset)
                self._have_bytes += leaf.size_bytes

    def _log(self, block: Verified) -> None:
        """Keep a block for the outboard and for a later attempt."""
        if block.cid in self._blocks or block.cid.identity:
            return
        self._blocks_bytes += len(block.data)
        if self._blocks_bytes > (most := self._limits.outboard_bytes):
            raise BadBlock(f"{self.cid} has more than {most:,} bytes in blocks besides its payload.", param="cid")
        data = self._blocks[block.cid] = bytes(block.data)
        if block.cid not in self._logged:
            self._log_end = self._unnamed.append_log(car.car_section(block.cid, len(data)) + data, self._log_end)

    def _resume(self) -> None:
        """Feed what an earlier attempt, or an outboard left alone, has until something is wanted that neither has."""
        logged = dict(salvaged(self._unnamed.outboard))
        self._logged = frozenset(logged)
        self._log_end = len(car.car_header([self.cid]))
        self._log_end += sum(len(car.car_section(cid, len(block))) + len(block) for cid, block in logged.items())
        if not logged and self.cid.codec is not Codec.RAW:
            self._unnamed.append_log(car.car_header([self.cid]), 0)
        logged |= salvaged(self._files.outboard_path(self.cid))
        progressed = True
        while progressed:
            progressed = False
            for cid in self.wanted:
                block = logged[cid] if cid in logged else self._rebuilt(cid)
                if block is not None:
                    self.feed(Verified(cid, block))
                    progressed = True

    def _rebuilt(self, cid: Cid) -> bytes | memoryview | None:
        """A wanted block that is a leaf in a canonical envelope, from the payload of an earlier attempt."""
        for place in () if self._directory else self._reader.waiting.get(cid, ()):
            if place.size_bytes and place.size_bytes <= MAX_BLOCK_BYTES:
                buffer = memoryview(bytearray(place.size_bytes))
                if self.read(buffer, place.offset) == place.size_bytes:
                    return rebuild(cid, Home.WRAPPED, buffer)
        return None


def salvaged(outboard: Path) -> Iterator[tuple[Cid, bytes]]:
    """The whole blocks that a file of blocks begins with; one that is missing, torn or unreadable just has fewer."""
    with suppress(OSError, InvalidRequest), outboard.open("rb") as file:
        for block in car.CarReader(file.read):
            yield block.cid, bytes(block.data)


def _is_rebuilt(leaf: Leaf) -> bool:
    """Whether the leaf's block can be made again from its payload."""
    return any(leaf.envelope == leaf_envelope(leaf.size_bytes, kind) for kind in (Kind.FILE, Kind.RAW))


def _within(leaves: list[Leaf], ranges: Iterator[tuple[int, int]]) -> Iterator[Leaf]:
    """The leaves that lie wholly in one of the ranges; both in order."""
    start, stop = next(ranges, (0, 0))
    for leaf in leaves:
        while stop and leaf.offset >= stop:
            start, stop = next(ranges, (0, 0))
        if start <= leaf.offset and leaf.offset + leaf.size_bytes <= stop:
            yield leaf
