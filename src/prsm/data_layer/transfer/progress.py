"""What a transfer tells about itself: a snapshot a few times a second, and the last one always."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from prsm.data_layer.codec.cid import Cid

REPORT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is. ``total_bytes`` is 0 until it is known."""

    cid: Cid
    done_bytes: int = 0
    """On the disk here, or at the node there, whoever put it there."""
    total_bytes: int = 0
    moved_bytes: int = 0
    """Of these, what this run has moved over the network."""
    files_done: int = 0
    files: int = 0
    seconds: float = 0.0

    @property
    def rate_bytes_s(self) -> float:
        """What this run has moved per second so far."""
        return self.moved_bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """How long the rest takes at this rate; None when that cannot be said yet."""
        if self.total_bytes <= 0 or self.moved_bytes <= 0:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.rate_bytes_s


class Meter:
    """Counts from any thread and tells ``tell`` of it, never from two threads at once."""

    def __init__(
        self,
        cid: Cid,
        tell: Callable[[Progress], None] | None = None,
        *,
        every_s: float = REPORT_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._every_s = every_s
        self._clock = clock
        self._started_s = clock()
        self._told_s = float("-inf")
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._now = Progress(cid)

    def add(
        self, *, done_bytes: int = 0, total_bytes: int = 0, moved_bytes: int = 0, files_done: int = 0, files: int = 0
    ) -> None:
        """Count what has happened since the last call."""
        with self._lock:
            now_s = self._clock()
            now = self._now
            self._now = replace(
                now,
                done_bytes=now.done_bytes + done_bytes,
                total_bytes=now.total_bytes + total_bytes,
                moved_bytes=now.moved_bytes + moved_bytes,
                files_done=now.files_done + files_done,
                files=now.files + files,
                seconds=now_s - self._started_s,
            )
            if now_s - self._told_s < self._every_s:
                return
            self._told_s = now_s
        self._report()

    def snapshot(self) -> Progress:
        """How far it is now."""
        with self._lock:
            return replace(self._now, seconds=self._clock() - self._started_s)

    def finish(self) -> Progress:
        """Tell the last of it; answers it too."""
        self._report()
        return self.snapshot()

    def _report(self) -> None:
        if self._tell is not None:
            with self._telling:
                self._tell(self.snapshot())
