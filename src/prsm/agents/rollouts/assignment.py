"""Which version of a model a session gets: the same one for as long as a trial lasts, whichever worker answers.

Pure. Sessions are dealt by a hash of the trial and the session, so that two trials divide them independently and more
traffic for the candidate only ever moves sessions to it, never back.
"""

import hashlib
from typing import Final

from prsm.core.money import BASIS_POINTS

STABLE: Final = "stable"
CANDIDATE: Final = "candidate"
SHADOW: Final = "shadow"


def place(trial: str, session: str) -> int:
    """Where a session stands in a trial: 0 to 9,999, evenly spread."""
    digest = hashlib.blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8, key=_key(trial)).digest()
    return int.from_bytes(digest) % BASIS_POINTS


def _key(trial: str) -> bytes:
    return hashlib.blake2b(trial.encode(), digest_size=32).digest()
