"""Wall-clock time and time-ordered ids, in one place so that rules can be given them instead of reading them."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from asyncpg.pgproto import pgproto

Clock = Callable[[], datetime]


def now() -> datetime:
    """The current time, UTC and timezone-aware."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """A time-ordered UUID of version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big") & _RANDOM_BITS | _VERSION_7
    # The driver's subclass of UUID: made, written as text and sent in a tenth of the time.
    return pgproto.UUID(value.to_bytes(16, "big"))


_RANDOM_BITS = 0x0FFF_3FFFFFFFFFFFFFFF
_VERSION_7 = 0x7000_8000000000000000
"""Version 7 and the variant of RFC 9562."""
