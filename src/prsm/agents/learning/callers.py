"""Which column of the law's evidence is whose: callers are known by a keyed hash, and as many as fit have one alone.

A caller is a ledger account, so that all keys of one principal are one caller. Pure: the key is handed in.
"""

import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.agents.routers.quality import CALLER_BUCKETS, Indices

FREE: Final = 0
"""The owner of a column that is nobody's."""
SPENT_LEFT: Final = 0.02
"""Evidence below which a caller's column may be given to another: a hundredth of what it may spend."""
Owners = npt.NDArray[np.int64]


def caller_id(key: bytes, account: str) -> int:
    """63 bits that stand for ``account`` and tell nothing of it without ``key``; never FREE."""
    digest = hashlib.blake2b(account.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return int.from_bytes(digest) >> 1 or 1


def seated(owners: Owners, callers: Owners) -> tuple[Indices, Owners]:
    """The column of each of ``callers`` [N], and who owns the columns then.

    A caller takes the next free column from its hash on. When none is free it shares the one its hash names, and the
    bound of that.
    """
    after = owners.copy()
    column_of = {int(owner): column for column, owner in enumerate(owners.tolist()) if owner != FREE}
    found = np.empty(len(callers), np.intp)
    for place, caller in enumerate(callers.tolist()):
        column = column_of.get(caller)
        if column is None:
            column = caller % CALLER_BUCKETS
            free = np.flatnonzero(after == FREE)
            if len(free):
                column = int(free[np.argmax(free >= column)])
                after[column] = caller
                column_of[caller] = column
        found[place] = column
    return found, after


def vacated(owners: Owners, spent: npt.NDArray[np.float64]) -> Owners:
    """Owners without those who have next to nothing spent on any model ([M, CALLER_BUCKETS])."""
    return np.where(spent.max(axis=0, initial=0.0) < SPENT_LEFT, FREE, owners)
