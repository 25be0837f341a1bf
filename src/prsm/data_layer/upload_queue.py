"""Which queued upload goes next, and when a failed one is tried again. Pure: the queue itself is kept in the catalog.

Nothing is given up because a node is away: that is what the queue is for. Only what no node can cure ends as failed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from prsm.core.errors import PrsmError
from prsm.data_layer.cancellation import Cancelled
from prsm.data_layer.cid import Cid
from prsm.data_layer.object_files import NotStored
from prsm.data_layer.seams import Fault, StorageFault

FIRST_PAUSE_S = 2.0
MAX_PAUSE_S = 600.0


@dataclass(frozen=True, slots=True)
class Queued:
    """An upload that waits. Times are seconds of one clock; ``attempts`` have failed so far."""

    cid: Cid
    node: str
    attempts: int
    next_try_s: float


class Outcome(StrEnum):
    """What becomes of an upload that failed."""

    AGAIN = "again"
    """Later, by ``pause_s``."""
    KEPT = "kept"
    """Nobody's failure (it was cancelled, the node stops): it stays as it is."""
    FAILED = "failed"
    """Trying again would change nothing until somebody repairs or fetches the object."""


def next_uploads(queue: Iterable[Queued], now_s: float, *, busy: Collection[str] = (), most: int = 1) -> list[Queued]:
    """Up to ``most`` uploads that are due, the longest due first, at most one for each node that is not busy."""
    taken = set(busy)
    chosen: list[Queued] = []
    for upload in sorted(queue, key=lambda upload: upload.next_try_s):
        if upload.next_try_s > now_s or len(chosen) == most:
            break
        if upload.node not in taken:
            taken.add(upload.node)
            chosen.append(upload)
    return chosen


def idle_s(queue: Iterable[Queued], now_s: float, *, busy: Collection[str] = ()) -> float | None:
    """How long nothing is due; None while every upload that waits is for a busy node, or none waits."""
    nexts = (upload.next_try_s for upload in queue if upload.node not in busy)
    soonest = min(nexts, default=None)
    return None if soonest is None else max(0.0, soonest - now_s)


def pause_s(attempts: int, drawn: float) -> float:
    """How long to wait after so many failures; ``drawn`` is uniform in [0, 1).

    Exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), but never less than a quarter: a
    node that is away should not be asked at once again.
    """
    longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts, 32))
    return longest * (0.25 + 0.75 * drawn)


def outcome_of(error: PrsmError) -> Outcome:
    """What follows from the error that an upload ended with."""
    if isinstance(error, Cancelled):
        return Outcome.KEPT
    if isinstance(error, NotStored):
        return Outcome.FAILED
    if isinstance(error, StorageFault):
        ours = error.fault in (Fault.FATAL, Fault.LOCAL_DISK)
        return Outcome.FAILED if ours else Outcome.AGAIN
    return Outcome.FAILED
