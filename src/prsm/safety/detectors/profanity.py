"""How profane the words of a text are, by the published weights of alt-profanity-check (MIT), as a table of hashes.

A linear model on TF-IDF (Zhou, 2018; trained on Davidson's tweets and Wikipedia's talk pages). It knows words only.
"""

import re
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_WORD: Final = re.compile(r"\w\w+")
Floats = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Profanity:
    """``words`` are CRC-32 of words, ascending; beside each its inverse document frequency and its weight."""

    words: npt.NDArray[np.uint32]
    frequencies: Floats
    weights: Floats

    def logit(self, text: str) -> float:
        """What the linear model says, without its bias; 0 for a text of unknown words."""
        counts = Counter(zlib.crc32(word.encode()) for word in _WORD.findall(text.lower()))
        asked = np.fromiter(counts, np.uint32, len(counts))
        places = np.minimum(np.searchsorted(self.words, asked), max(0, len(self.words) - 1))
        known = self.words[places] == asked if len(self.words) else np.zeros(len(asked), np.bool_)
        if not known.any():
            return 0.0
        values = np.fromiter(counts.values(), np.float32, len(counts))[known] * self.frequencies[places[known]]
        return float(values @ self.weights[places[known]].astype(np.float32) / np.sqrt(values @ values))
