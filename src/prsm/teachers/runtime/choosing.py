"""Which token comes next: the likeliest, or one drawn by temperature and top-p from a seed.

A row's draws depend on the seed and its number alone, never on what it is batched with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prsm.teachers.runtime.int8 import Array

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw: ``temperature`` above 0, from the likeliest tokens that together have ``top_p``, from 0 to 1.

    Raises ValueError out of these bounds.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.seed >= 0):
            raise ValueError("a temperature is above 0, a top_p above 0 and at most 1, a seed at least 0")


class Chooser(Protocol):
    """Chooses a token a row, step after step."""

    def __call__(self, scores: Array, rows: Sequence[int], step: int) -> Tokens:
        """From ``scores`` (rows, vocabulary) of these rows at this step."""
        ...


def likeliest(scores: Array, rows: Sequence[int], step: int) -> Tokens:
    """The token of the highest score; of equal ones the first."""
    return scores.argmax(axis=1)


def drawn(sampling: Sampling, rows: Sequence[int], steps: int) -> Chooser:
    """Draws for rows of these numbers, at most ``steps`` each."""
    fortunes = {row: np.random.default_rng([sampling.seed, row]).random(steps) for row in rows}

    def choose(scores: Array, rows: Sequence[int], step: int) -> Tokens:
        shares = _shares(scores, sampling)
        sums = shares.cumsum(axis=1)
        thresholds = np.array([fortunes[row][step] for row in rows]) * sums[:, -1]
        return (sums <= thresholds[:, None]).sum(axis=1).clip(max=scores.shape[1] - 1)

    return choose


def _shares(scores: Array, sampling: Sampling) -> NDArray[np.float64]:
    """The chances (rows, vocabulary), not normalised, 0 for what top-p leaves out; the likeliest always stays."""
    exponents = (scores - scores.max(axis=1, keepdims=True)).astype(np.float64) / sampling.temperature
    shares = np.exp(exponents)
    if sampling.top_p < 1:
        order = np.argsort(-shares, axis=1, kind="stable")
        falling = np.take_along_axis(shares, order, axis=1)
        before = falling.cumsum(axis=1) - falling
        out = before >= sampling.top_p * falling.sum(axis=1, keepdims=True)
        np.put_along_axis(shares, order, np.where(out, 0, falling), axis=1)
    return shares
