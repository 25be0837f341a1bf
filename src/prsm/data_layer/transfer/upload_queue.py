"""What becomes of an upload that failed, and when it is tried again. Pure: the queue itself is kept in the catalog.

Nothing is given up because a node is away: that is what the queue is for. Only what no node can cure ends as failed.
"""

from enum import StrEnum

from prsm.core.errors import PrsmError
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.transfer.cancellation import Cancelled

FIRST_PAUSE_S = 2.0
MAX_PAUSE_S = 600.0


class Outcome(StrEnum):
    """What becomes of an upload that failed."""

    AGAIN = "again"
    """Later, by ``pause_s``."""
    KEPT = "kept"
    """Nobody's failure (it was cancelled, the node stops): it stays as it is."""
    FAILED = "failed"
    """Trying again would change nothing until somebody repairs or fetches the object."""


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
