"""A stored object sent to an own node: it is asked what it has, gets the rest, pins it, and is asked once more.

Blocks go out after they were hashed on this side, those below before those above, the root last; so a node that has the
root was given everything. An upload that was broken off is begun again: what the node has is not sent twice.
"""

import mmap
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.seams import BlockSink, Fault, StorageFault
from prsm.data_layer.store.object_files import ObjectFiles, StoredFile
from prsm.data_layer.store.object_index import Damaged, Home, ObjectIndex, Place, read_index, rebuild
from prsm.data_layer.transfer.cancellation import Cancellation
from prsm.data_layer.transfer.crew import work_together
from prsm.data_layer.transfer.progress import Meter, Progress
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic

BATCH_BYTES = 4 * 1024 * 1024
BATCH_BLOCKS = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What an upload may cost. ``patience_s`` is how long one step may go on failing in a passing way."""

    workers: int = 3
    ask_s: float = 30.0
    put_s: float = 900.0
    pin_s: float = 900.0
    patience_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An upload that ended well: the node has ``blocks`` of ``size_bytes`` in all; this run sent ``moved_bytes``."""

    cid: Cid
    node: str
    blocks: int
    size_bytes: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where blocks go, at what pace, and who can end it."""

    sink: BlockSink
    bandwidth: Bandwidth
    traffic: Traffic = Traffic.BULK
    cancelled: Cancellation = field(default_factory=Cancellation)
    limits: UploadLimits = field(default_factory=UploadLimits)
    draw: Callable[[], float] = random.random


def upload(
    root: Cid, files: ObjectFiles, outlet: Outlet, *, tell: Callable[[Progress], None] | None = None
) -> Uploaded:
    """Bring a published file or directory, with all under it, to the node and have it pinned there.

    Raises StorageFault (Cancelled and Damaged among them), NotStored when the object or a part of it is not here.
    """
    meter = Meter(root, tell)
    try:
        return _Sending(root, files, outlet, meter).run()
    finally:
        meter.finish()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of one of the objects that are sent."""

    owner: Cid
    place: Place


class _Sending:
    def __init__(self, root: Cid, files: ObjectFiles, outlet: Outlet, meter: Meter) -> None:
        self._root = root
        self._files = files
        self._outlet = outlet
        self._meter = meter
        self._stop = Cancellation(outlet.cancelled)
        self._pace = outlet.bandwidth.pace(outlet.traffic, self._stop)
        self._lock = threading.Lock()

    def run(self) -> Uploaded:
        outlet, limits, root = self._outlet, self._outlet.limits, self._root
        pieces = list(_pieces_of(root, self._files))
        total = sum(piece.place.size_bytes for piece in pieces)
        self._meter.add(total_bytes=total, files=len({piece.owner for piece in pieces}))
        last = [piece for piece in pieces if piece.place.cid == root]
        batches = list(_batches([piece for piece in pieces if piece.place.cid != root]))
        if batches:
            workers = range(min(limits.workers, len(batches)))
            work_together(partial(self._work, iter(batches)), workers, self._stop)
        self._send(last, _Reading(self._files))
        self._patiently(lambda: outlet.sink.pin(root, deadline_s=time.monotonic() + limits.pin_s))
        if last and not self._has(last[0]):
            raise StorageFault(
                f"{outlet.sink.name} pinned {root} and does not have it.", fault=Fault.RETRY, endpoint=outlet.sink.name
            )
        return Uploaded(root, outlet.sink.name, len(pieces), total, self._meter.snapshot().moved_bytes)

    def _work(self, batches: Iterator[list[_Piece]], _: int) -> None:
        reading = _Reading(self._files)
        while True:
            self._stop.check()
            with self._lock:
                batch = next(batches, None)
            if batch is None:
                return
            self._send(batch, reading)

    def _send(self, batch: list[_Piece], reading: "_Reading") -> None:
        missing = [piece for piece in batch if not self._has(piece)]
        missing_bytes = sum(piece.place.size_bytes for piece in missing)
        self._meter.add(done_bytes=sum(piece.place.size_bytes for piece in batch) - missing_bytes)
        if not missing:
            return
        blocks = reading.blocks(missing)
        put_s = self._outlet.limits.put_s
        sent = self._patiently(
            lambda: self._outlet.sink.put(blocks, deadline_s=time.monotonic() + put_s, pace=self._pace)
        )
        self._meter.add(done_bytes=missing_bytes, moved_bytes=sent)

    def _has(self, piece: _Piece) -> bool:
        ask_s = self._outlet.limits.ask_s
        return self._patiently(lambda: self._outlet.sink.has(piece.place.cid, deadline_s=time.monotonic() + ask_s))

    def _patiently(self, step: Callable[[], T]) -> T:
        """Do one step, again after a while where its failure may pass."""
        until_s = time.monotonic() + self._outlet.limits.patience_s
        tries = 0
        while True:
            self._stop.check()
            try:
                return step()
            except StorageFault as fault:
                wait_s = max(fault.retry_after_s or 0.0, self._outlet.draw() * min(5.0, 0.2 * 2.0**tries))
                if fault.fault is not Fault.RETRY or time.monotonic() + wait_s > until_s:
                    raise
            tries += 1
            self._stop.pause(wait_s)


class _Reading:
    """Reads blocks of stored objects into one buffer, verified; for one thread."""

    def __init__(self, files: ObjectFiles) -> None:
        self._files = files
        self._buffer = memoryview(mmap.mmap(-1, BATCH_BYTES))

    def blocks(self, pieces: list[_Piece]) -> list[Block]:
        """The blocks, good until the next call. Raises NotStored, Damaged, StorageFault (LOCAL_DISK)."""
        blocks: list[Block] = []
        with ExitStack() as stack:
            opened: dict[tuple[Cid, bool], StoredFile] = {}
            start = 0
            for piece in pieces:
                place = piece.place
                outboard = place.home is Home.OUTBOARD
                key = (piece.owner, outboard)
                if key not in opened:
                    file = self._files.open_outboard(piece.owner) if outboard else self._files.open(piece.owner)
                    opened[key] = stack.enter_context(file)
                view = self._buffer[start : start + place.size_bytes]
                start += place.size_bytes
                count = opened[key].read_into(view, place.offset)
                data = rebuild(place.cid, place.home, view[:count])
                if data is None:
                    raise Damaged(piece.owner, f"Block {place.cid}")
                blocks.append(Block(place.cid, data))
        return blocks


def _pieces_of(root: Cid, files: ObjectFiles) -> Iterator[_Piece]:
    """Every block under ``root`` once, those below before those above, the root's last."""
    seen: set[bytes] = set()
    above: dict[Cid, ObjectIndex] = {}
    done: set[Cid] = set()
    stack = [root]
    while stack:
        cid = stack[-1]
        if cid not in above and cid not in done:
            above[cid] = index = read_index(files, cid)
            stack.extend(child for _, child in index.children() if child not in done)
            continue
        stack.pop()
        if cid in done:
            continue
        done.add(cid)
        index = above.pop(cid)
        places, count = list(index.places()), len(index.blocks)
        for place in (*places[count:], *reversed(places[:count])):
            if place.cid.digest not in seen and not place.cid.identity:
                seen.add(place.cid.digest)
                yield _Piece(cid, place)


def _batches(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        if batch and (size + piece.place.size_bytes > BATCH_BYTES or len(batch) == BATCH_BLOCKS):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.place.size_bytes
    if batch:
        yield batch
