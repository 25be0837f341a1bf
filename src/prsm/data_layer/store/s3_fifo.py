"""Which object leaves when the cache is full: S3-FIFO (Yang et al., FIFO Queues are All You Need for Cache Eviction,
SOSP 2023), weighted by bytes. Pure; nothing here knows files or the catalog.

The rules. A new object enters the *small* queue, or *main* if it is in the *ghost* queue. A read only counts, up to 3.
When more than the limit is there: if *small* has over a tenth of it, its oldest object goes to *main* with its count
cleared if it was read more than once, else it leaves and its name enters *ghost*; otherwise the oldest object of *main*
goes back to its young end with one read less if it has any, else it leaves. *Ghost* remembers as many bytes as *main*
may have. Objects in use or pinned (*held*) stand in no queue: they count as room taken and are never chosen. Each
operation costs constant time, amortized.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

MOST_READS = 3
_SMALL_PERCENT = 10
_MOST_GHOSTS = 100_000


class Queue(StrEnum):
    """Where an object stands."""

    SMALL = "small"
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Entry:
    """An object in the cache; ``reads`` since it came, or since it last stood at the end of its queue, at most 3."""

    key: str
    size_bytes: int
    queue: Queue = Queue.SMALL
    reads: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state: ``entries`` of each queue and ``ghosts`` (key and size) from old to young."""

    entries: tuple[Entry, ...] = ()
    ghosts: tuple[tuple[str, int], ...] = ()


class S3Fifo:
    """The queues. ``limit_bytes`` is for everything that is here, held or not."""

    def __init__(self, limit_bytes: int, state: Snapshot = Snapshot()) -> None:
        self.limit_bytes = limit_bytes
        self._queues: Mapping[Queue, OrderedDict[str, Entry]] = {queue: OrderedDict() for queue in Queue}
        self._bytes = dict.fromkeys(Queue, 0)
        self._held: dict[str, Entry] = {}
        self._held_bytes = 0
        self._ghosts: OrderedDict[str, int] = OrderedDict()
        self._ghost_bytes = 0
        for entry in state.entries:
            self._enter(entry)
        for key, size_bytes in state.ghosts:
            self._remember(key, size_bytes)

    @property
    def used_bytes(self) -> int:
        """Of all objects here."""
        return self._held_bytes + sum(self._bytes.values())

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def read(self, key: str) -> bool:
        """Count a read; False when it is not here."""
        entry = self._find(key)
        if entry is None:
            return False
        self._home(entry)[key] = replace(entry, reads=min(entry.reads + 1, MOST_READS))
        return True

    def add(self, key: str, size_bytes: int) -> None:
        """An object came (one that is here already stays as it is); take ``victims`` after."""
        if key in self:
            return
        seen = self._ghosts.pop(key, None)
        self._ghost_bytes -= seen or 0
        self._enter(Entry(key, size_bytes, Queue.SMALL if seen is None else Queue.MAIN))

    def hold(self, key: str) -> None:
        """Never choose this object until ``let_go``."""
        if (entry := self._find(key)) is not None:
            self._leave(entry)
            self._enter(replace(entry, held=True))

    def let_go(self, key: str) -> None:
        """It may be chosen again, as the youngest of its queue."""
        if (entry := self._held.get(key)) is not None:
            self._leave(entry)
            self._enter(replace(entry, held=False))

    def remove(self, key: str) -> None:
        """An object went for another reason."""
        if (entry := self._find(key)) is not None:
            self._leave(entry)

    def victims(self) -> Iterator[Entry]:
        """Take out what must leave until the rest is within the limit, or all of it is held."""
        while self.used_bytes > self.limit_bytes and (entry := self._evict()) is not None:
            yield entry

    def snapshot(self) -> Snapshot:
        """All of the state; ``S3Fifo(limit_bytes, snapshot)`` goes on from it."""
        queued = [entry for queue in self._queues.values() for entry in queue.values()]
        return Snapshot((*queued, *self._held.values()), tuple(self._ghosts.items()))

    def _evict(self) -> Entry | None:
        small, main = self._queues[Queue.SMALL], self._queues[Queue.MAIN]
        room_bytes = max(0, self.limit_bytes - self._held_bytes)
        while small or main:
            from_small = small and (not main or self._bytes[Queue.SMALL] * 100 > room_bytes * _SMALL_PERCENT)
            entry = next(iter((small if from_small else main).values()))
            self._leave(entry)
            if from_small and entry.reads > 1:
                self._enter(replace(entry, queue=Queue.MAIN, reads=0))
            elif from_small:
                self._remember(entry.key, entry.size_bytes)
                return entry
            elif entry.reads:
                self._enter(replace(entry, reads=entry.reads - 1))
            else:
                return entry
        return None

    def _remember(self, key: str, size_bytes: int) -> None:
        self._ghost_bytes += size_bytes - self._ghosts.pop(key, 0)
        self._ghosts[key] = size_bytes
        most_bytes = self.limit_bytes * (100 - _SMALL_PERCENT) // 100
        while self._ghost_bytes > most_bytes or len(self._ghosts) > _MOST_GHOSTS:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]

    def _find(self, key: str) -> Entry | None:
        places: Iterable[Mapping[str, Entry]] = (*self._queues.values(), self._held)
        return next((place[key] for place in places if key in place), None)

    def _home(self, entry: Entry) -> dict[str, Entry]:
        return self._held if entry.held else self._queues[entry.queue]

    def _enter(self, entry: Entry) -> None:
        self._home(entry)[entry.key] = entry
        self._count(entry, entry.size_bytes)

    def _leave(self, entry: Entry) -> None:
        del self._home(entry)[entry.key]
        self._count(entry, -entry.size_bytes)

    def _count(self, entry: Entry, size_bytes: int) -> None:
        if entry.held:
            self._held_bytes += size_bytes
        else:
            self._bytes[entry.queue] += size_bytes
