"""Learns a Reader from tables of who answered what right: k-means, kernels at its centroids, ridge, and the rows.

Only the rows that are given are looked at, so what a caller holds out is held out of everything. No penalty is selected
(on 791 rows that is mostly luck): the weights are the mean over several. Nothing on the answer path imports this file.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.agents.routers import prompt_features
from prsm.agents.routers.difficulty import EXAMPLE_SCALE, Array, Reader, kernels, place, with_neighbours
from prsm.core.errors import InvalidRequest

FOLDS: Final = 5
SHARES: Final = np.linspace(0, 1, 101)
LANDMARKS, CLUSTERS = 512, 32
PENALTIES = tuple(itertools.product((1.0, 3.0, 10.0), (40.0, 80.0)))
"""Pairs of kernel and word penalty over which ``fit`` takes the mean."""

_ROUNDS = 15
_TINY = 1e-6
Float64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """N prompts as numbers, each with whether the weaker and the stronger model answered it right.

    ``table`` says which exam a row is of (0, 1, ...): gaps of different exams are never ranked against each other.
    """

    embedding: Array  # [N, 384]
    counted: Array  # [N, F]
    words: Array  # [N, W], 0 or 1
    weak: Array  # [N]
    strong: Array  # [N]
    table: npt.NDArray[np.intp]  # [N]
    fold: npt.NDArray[np.intp]  # [N]


def rows(
    prompts: Sequence[str],
    embedding: Array,
    weak: Sequence[int],
    strong: Sequence[int],
    table: Sequence[int],
) -> Rows:
    """Rows from prompts, their embeddings and marks; folds by SHA-256 of the prompt modulo FOLDS."""
    words = np.zeros((len(prompts), prompt_features.WORD_BUCKETS), np.float32)
    for row, prompt in enumerate(prompts):
        words[row, prompt_features.words(prompt)] = 1
    return Rows(
        embedding=embedding,
        counted=np.stack([prompt_features.count(prompt) for prompt in prompts]),
        words=words,
        weak=np.array(weak, np.float32),
        strong=np.array(strong, np.float32),
        table=np.array(table, np.intp),
        fold=np.array([int(hashlib.sha256(p.encode()).hexdigest(), 16) % FOLDS for p in prompts], np.intp),
    )


def pick(every: Rows, chosen: Flags) -> Rows:
    """The rows where ``chosen``."""
    return Rows(**{name: getattr(every, name)[chosen] for name in Rows.__slots__})


def gap_recovered(score: npt.ArrayLike, weak: npt.ArrayLike, strong: npt.ArrayLike) -> Float64:
    """Performance gap recovered when the top share s by ``score`` goes to the stronger model, for each s in SHARES.

    Rows of equal score are taken in no order: each counts as their mean. Its own mean is the APGR (arXiv:2406.18665).
    Raises InvalidRequest when the stronger model is not better on these rows.
    """
    gain = np.asarray(strong, np.float64) - np.asarray(weak, np.float64)
    if gain.sum() <= 0:
        raise InvalidRequest("The stronger model is not better on these rows, so there is no gap to recover.")
    _, group = np.unique(-np.asarray(score, np.float64), return_inverse=True)
    mean = np.bincount(group, gain) / np.bincount(group)
    reached = np.concatenate([[0.0], np.cumsum(mean[np.sort(group)])])
    return np.interp(SHARES * len(gain), np.arange(len(gain) + 1), reached) / gain.sum()


def apgr(score: npt.ArrayLike, weak: npt.ArrayLike, strong: npt.ArrayLike) -> float:
    """Average performance gap recovered: 0.5 for a blind router."""
    return float(gap_recovered(score, weak, strong).mean())


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to learn with. Deterministic by ``seed``."""

    seed: int = 0
    landmarks: int = LANDMARKS
    clusters: int = CLUSTERS
    penalties: Sequence[tuple[float, float]] = PENALTIES


def fit(train: Rows, recipe: Recipe) -> Reader:
    """The reader learnt from ``train``."""
    return _solve(_design(train, recipe), recipe.penalties)


def figures(reader: Reader, asked: Rows) -> Float64:
    """Gap and mean chance of each row, [N, 2]: what ``difficulty.read`` finds for one prompt, for many."""
    near = kernels(reader, place(reader, asked.embedding, asked.counted))
    words = _bags(asked.words, reader.word_rarity)
    regression = reader.intercept + near @ reader.kernel_weights + words @ reader.word_weights
    each = zip(asked.embedding, regression.astype(np.float32), strict=True)
    return np.stack([with_neighbours(reader, embedding, row) for embedding, row in each])


def k_means(points: Array, count: int, seed: int) -> Array:
    """``count`` centroids after Lloyd's algorithm, from distinct points drawn by ``seed``; an empty one stays."""
    chosen = np.random.default_rng(seed).choice(len(points), min(count, len(points)), replace=False)
    centroids = points[np.sort(chosen)].copy()
    for _ in range(_ROUNDS):
        nearest = (points @ centroids.T - 0.5 * (centroids**2).sum(1)).argmax(1)
        members = (nearest == np.arange(len(centroids))[:, None]).astype(np.float32)
        sizes = members.sum(1, keepdims=True)
        centroids = np.where(sizes > 0, members @ points / np.maximum(sizes, 1), centroids)
    return centroids


@dataclass(frozen=True, slots=True)
class _Design:
    """Normal equations of centred columns (K whitened kernels, then words), and a reader that lacks its weights."""

    reader: Reader
    whitening: Float64  # [landmarks, K]
    column_mean: Float64
    target_mean: Float64
    gram: Float64
    moment: Float64


def _design(train: Rows, recipe: Recipe) -> _Design:
    reader = _unweighted(train, recipe)
    within = kernels(reader, reader.landmarks).astype(np.float64)
    sizes, directions = np.linalg.eigh(within)
    kept = sizes > _TINY * sizes.max()
    whitening = directions[:, kept] / np.sqrt(sizes[kept])
    near = kernels(reader, place(reader, train.embedding, train.counted))
    columns = np.concatenate([near @ whitening, _bags(train.words, reader.word_rarity)], axis=1)
    targets = reader.outcomes.astype(np.float64)
    column_mean, target_mean = columns.mean(0), targets.mean(0)
    columns = columns - column_mean
    return _Design(
        reader, whitening, column_mean, target_mean, columns.T @ columns, columns.T @ (targets - target_mean)
    )


def _unweighted(train: Rows, recipe: Recipe) -> Reader:
    counted, words = train.counted, train.words
    nothing = np.zeros(2, np.float32)
    reference = [np.log(right.mean() / (1 - right.mean())) for right in (train.weak, train.strong)]
    reader = Reader(
        centroids=_half(k_means(train.embedding, recipe.clusters, recipe.seed)),
        landmarks=np.zeros((0, 0), np.float32),
        kernel_weights=nothing,
        word_weights=nothing,
        word_rarity=np.log((len(words) + 1) / (words.sum(0) + 1)).astype(np.float32),
        feature_mean=counted.mean(0),
        feature_scale=counted.std(0) + np.float32(_TINY),
        intercept=nothing,
        reference=np.array(reference, np.float32),
        examples=np.rint(np.clip(train.embedding * EXAMPLE_SCALE, -127, 127)).astype(np.int8),
        outcomes=np.stack([train.strong - train.weak, (train.strong + train.weak) / 2], axis=1).astype(np.float32),
    )
    points = place(reader, train.embedding, counted)
    return replace(reader, landmarks=_half(k_means(points, recipe.landmarks, recipe.seed)))


def _solve(design: _Design, penalties: Sequence[tuple[float, float]]) -> Reader:
    kernel_count = design.whitening.shape[1]
    weights = np.zeros_like(design.moment)
    for pair in penalties:
        penalty = np.repeat(pair, [kernel_count, len(design.gram) - kernel_count])
        weights += np.linalg.solve(design.gram + np.diag(penalty), design.moment) / len(penalties)
    return replace(
        design.reader,
        kernel_weights=(design.whitening @ weights[:kernel_count]).astype(np.float32),
        word_weights=weights[kernel_count:].astype(np.float32),
        intercept=(design.target_mean - design.column_mean @ weights).astype(np.float32),
    )


def _bags(words: Array, rarity: Array) -> Array:
    """Each row's words weighed by their rarity, of unit length."""
    weighed = words * rarity
    return weighed / np.maximum(np.linalg.norm(weighed, axis=1, keepdims=True), 1e-9)


def _half(values: Array) -> Array:
    """Rounded to what float16 holds: they are shipped so, and the weights must fit what is shipped."""
    return values.astype(np.float16).astype(np.float32)
