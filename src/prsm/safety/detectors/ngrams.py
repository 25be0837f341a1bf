"""Words and stretches of letters become numbers of buckets here, by hashing: what a linear model reads of a text.

Pure and vectorised: a text of a thousand characters takes some tenths of a millisecond.
"""

import re
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

BITS: Final = 18
BUCKETS: Final = 1 << BITS

_LENGTHS: Final = (3, 4, 5)
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_FACTOR: Final = np.uint64(0x100000001B3)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(64 - BITS)

Buckets = npt.NDArray[np.int64]


def buckets(text: str) -> Buckets:
    """The distinct buckets, ascending, of the words, pairs of words and 3 to 5 bytes in a row of a text, lower case."""
    lowered = text.lower()
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(lowered)], np.uint64)
    found = [_spread(words, 1), _spread(words[:-1] * _FACTOR + words[1:], 2)]
    raw = np.frombuffer(f" {' '.join(lowered.split())} ".encode(), np.uint8).astype(np.uint64)
    for length in _LENGTHS:
        if len(raw) >= length:
            rolled = np.zeros(len(raw) - length + 1, np.uint64)
            for offset in range(length):
                rolled = rolled * _FACTOR + raw[offset : len(raw) - length + 1 + offset]
            found.append(_spread(rolled, length))
    return np.unique(np.concatenate(found))


def _spread(hashes: npt.NDArray[np.uint64], kind: int) -> Buckets:
    """Well mixed (Knuth's multiplicative hashing), other kinds of features elsewhere."""
    mixed = (hashes + np.uint64(kind * 0xD6E8FEB86659FD93 % 2**64)) * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MIX
    return (mixed >> _SHIFT).astype(np.int64)
