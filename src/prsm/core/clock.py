"""Wall-clock time and time-ordered ids, in one place so that rules can be given them instead of reading them."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

Clock = Callable[[], datetime]


def now() -> datetime:
    """The current time, UTC and timezone-aware."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """A time-ordered UUID of version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    random_bits = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80
    value |= 0x7 << 76
    value |= (random_bits >> 68) << 64
    value |= 0x2 << 62
    value |= random_bits & ((1 << 62) - 1)
    return UUID(int=value)
