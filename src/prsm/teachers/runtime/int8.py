"""Matrices of eight bits: whole numbers with one scale for each run of a row, a third of float32 on the disk or less.

Symmetric, rounded to nearest; a run is short enough that one large weight coarsens few others. Rows of at most a run's
length have one scale each: per channel.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
RUN: Final = 128
"""Weights that share a scale: the fastest of 32, 64 and 128, and as exact (docs/decisions/0026)."""
LARGEST: Final = 127


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """``values`` (rows, columns), and ``scales`` (rows, runs) by which each run is multiplied."""

    values: NDArray[np.int8]
    scales: Array

    def restored(self) -> Array:
        """The matrix in float32."""
        scales = np.repeat(self.scales, RUN, axis=1)[:, : self.values.shape[1]]
        return self.values * scales


Matrix: TypeAlias = Array | Int8Matrix


def quantised(matrix: Array) -> Int8Matrix:
    """``matrix`` (rows, columns) in eight bits; no weight moves by more than half its run's scale."""
    rows, columns = matrix.shape
    runs = runs_of(columns)
    padded = np.zeros((rows, runs * RUN), np.float32)
    padded[:, :columns] = matrix
    parts = padded.reshape(rows, runs, RUN)
    scales = np.abs(parts).max(axis=2) / np.float32(LARGEST)
    whole = np.rint(parts / np.where(scales > 0, scales, 1)[:, :, None])
    return Int8Matrix(whole.astype(np.int8).reshape(rows, -1)[:, :columns].copy(), scales)


def runs_of(columns: int) -> int:
    """How many scales a row of so many weights has."""
    return -(-columns // RUN)


def stacked(matrices: list[Matrix]) -> Matrix:
    """Matrices of one width and one kind, one below the other."""
    eights = [matrix for matrix in matrices if isinstance(matrix, Int8Matrix)]
    if len(eights) == len(matrices):
        return Int8Matrix(np.concatenate([m.values for m in eights]), np.concatenate([m.scales for m in eights]))
    return np.concatenate([restored(matrix) for matrix in matrices])


def restored(matrix: Matrix) -> Array:
    """A matrix of either kind in float32."""
    return matrix.restored() if isinstance(matrix, Int8Matrix) else matrix
