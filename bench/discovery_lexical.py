"""The baseline: BM25 (k1 1.2, b 0.75) over names and documents, words as they stand, with the same conditions."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_K1, _B = 1.2, 0.75


class Bm25:
    """Scores documents, each a list of words."""

    def __init__(self, documents: Sequence[list[str]]) -> None:
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, words in enumerate(documents):
            for word, count in Counter(words).items():
                postings[word].append((number, count))
        lengths = np.array([len(words) for words in documents], np.float32)
        self._norm = _K1 * (1 - _B + _B * lengths / lengths.mean())
        self._postings = {word: np.array(found, np.int32).T for word, found in postings.items()}

    def best(self, words: Sequence[str], passes: npt.NDArray[np.bool_], limit: int) -> list[int]:
        """The documents that pass with the highest scores; of equal ones the earlier first."""
        total = len(self._norm)
        scores = np.zeros(total, np.float32)
        for word in set(words):
            if (found := self._postings.get(word)) is None:
                continue
            numbers, counts = found
            idf = math.log(1 + (total - len(numbers) + 0.5) / (len(numbers) + 0.5))
            scores[numbers] += idf * counts * (_K1 + 1) / (counts + self._norm[numbers])
        scores[~passes] = 0
        order = np.argsort(-scores, kind="stable")[:limit]
        return [int(number) for number in order if scores[number] > 0]
