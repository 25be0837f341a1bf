"""How likely each model answers a prompt well: item response theory over abilities that outcomes correct.

p(good | model, prompt) = sigmoid(discrimination * ability - difficulty). An ability is what a model is in general plus
what it is in the prompt's cluster, each a Gaussian that starts from evaluation scores and tightens with outcomes. No
caller moves a model further than its evidence allows, and no scores are so good that outcomes cannot undo them. Pure:
no clock, no input or output; random numbers are handed in.

The law is the two-parameter logistic model (Birnbaum 1968); an update is one damped Newton step on its likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.core.errors import InvalidRequest

CALLER_BUCKETS: Final = 256
"""Callers are counted by a keyed hash of their account modulo this; those who share a bucket share its bound."""
MAX_CALLER_EVIDENCE: Final = 2.0
"""Evidence that one caller may spend on one model, about three outcomes in full; ``forget`` gives it back slowly."""
MAX_STEP: Final = 0.5
"""The furthest that one batch moves a Gaussian's mean, in log-odds."""
MAX_ABILITY: Final = 6.0
MAX_DRAW: Final = 3.0
"""Standard deviations within which a Thompson draw stays."""

_UNKNOWN_PRECISION = 1.0
_SCORE_VARIANCE = 0.25
"""How far a score is from what a model does here, however many items it has: the most that a score proves."""
_MAX_PRIOR_PRECISION = 4.0
_LOCAL_PRECISION = 4.0
_PROBIT = np.pi / 8
Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt as the law sees it; ``difficulty`` in log-odds, ``discrimination`` above 0, ``cluster`` its domain."""

    difficulty: float
    discrimination: float
    cluster: int


@dataclass(frozen=True, slots=True)
class Score:
    """One evaluation: share of ``items`` answered right; how much harder than the reference exam it is, in log-odds."""

    accuracy: float
    items: int
    hardness: float = 0.0


@dataclass(frozen=True, slots=True)
class Abilities:
    """Gaussians of M models over C clusters, as mean and precision, with the evidence each caller has spent.

    ``prior_*`` are what ``forget`` returns to. Local ones are deviations from the overall ability, prior mean 0.
    """

    prior_mean: Array  # [M]
    prior_precision: Array  # [M]
    mean: Array  # [M]
    precision: Array  # [M]
    local_mean: Array  # [C, M]
    local_precision: Array  # [C, M]
    spent: Array  # [M, CALLER_BUCKETS]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N observed answers: ``success`` and ``weight`` are 0 to 1 (a regeneration is worth less than a verdict)."""

    model: Indices
    cluster: Indices
    difficulty: Array
    discrimination: Array
    success: Array
    weight: Array
    caller: Indices


def start(scores: Sequence[Sequence[Score]], clusters: int, unknown: float) -> Abilities:
    """Abilities of models that have only evaluation scores; ``unknown`` is the mean of those that have none."""
    priors = np.array([_prior(each, unknown) for each in scores], np.float64).reshape(-1, 2)
    count = len(scores)
    return Abilities(
        prior_mean=priors[:, 0],
        prior_precision=priors[:, 1],
        mean=priors[:, 0],
        precision=priors[:, 1],
        local_mean=np.zeros((clusters, count)),
        local_precision=np.full((clusters, count), _LOCAL_PRECISION),
        spent=np.zeros((count, CALLER_BUCKETS)),
    )


def carry(old: Abilities, rows: Indices, fresh: Abilities) -> Abilities:
    """``fresh`` with what ``old`` has learnt: row i goes on from ``old``'s row ``rows[i]``, or is new where that is -1.

    Evidence is kept against the prior it was gathered on, so a changed evaluation score counts for new models only.
    """
    if rows.shape != fresh.mean.shape or len(old.local_mean) != len(fresh.local_mean):
        raise InvalidRequest("carry takes one row per fresh model and the same clusters.", param="rows")
    if len(rows) and not (rows.min() >= -1 and rows.max() < len(old.mean)):
        raise InvalidRequest(f"A row is not between -1 and {len(old.mean) - 1}.", param="rows")
    known = np.flatnonzero(rows >= 0)
    source = rows[known]

    def rowwise(was: Array, new: Array) -> Array:
        mixed = new.copy()
        mixed[..., known] = was[..., source]
        return mixed

    names = ("prior_mean", "prior_precision", "mean", "precision", "local_mean", "local_precision")
    moved = {name: rowwise(getattr(old, name), getattr(fresh, name)) for name in names}
    return Abilities(**moved, spent=rowwise(old.spent.T, fresh.spent.T).T.copy())


def quality(abilities: Abilities, item: Item) -> Array:
    """The expected chance of a good answer by each model, [M], each between 0 and 1."""
    mean, variance = _ability(abilities, item.cluster)
    slope = item.discrimination
    # The mean of a sigmoid over a Gaussian, to within 0.02 (MacKay 1992): the less is known, the nearer to one half.
    return _sigmoid((slope * mean - item.difficulty) / np.sqrt(1 + _PROBIT * slope**2 * variance))


def draw(abilities: Abilities, item: Item, normals: Array) -> Array:
    """One Thompson draw of each model's chance, [M], from standard ``normals`` [M]; cut at MAX_DRAW deviations."""
    if normals.shape != abilities.mean.shape:
        raise InvalidRequest(f"A draw takes {len(abilities.mean)} normals, one per model.", param="normals")
    mean, variance = _ability(abilities, item.cluster)
    drawn = mean + np.sqrt(variance) * np.clip(normals, -MAX_DRAW, MAX_DRAW)
    return _sigmoid(item.discrimination * drawn - item.difficulty)


def update(abilities: Abilities, outcomes: Outcomes, caller_evidence: float = MAX_CALLER_EVIDENCE) -> Abilities:
    """Abilities after a batch, whatever its order.

    With and without one caller, a batch's means differ by at most what the caller had left over the precision before.
    A node whose only callers are its owner's may raise ``caller_evidence``. Raises InvalidRequest on bad outcomes.
    """
    _check(abilities, outcomes)
    model, cell = outcomes.model, (outcomes.cluster, outcomes.model)
    slope = outcomes.discrimination
    ability = abilities.mean[model] + abilities.local_mean[cell]
    chance = _sigmoid(slope * ability - outcomes.difficulty)
    pull = outcomes.weight * slope * (outcomes.success - chance)
    # Steps are damped by the largest curvature (Boehning 1992), so that none overshoots, but certainty grows by the
    # true one: a model that fails where success was certain is not better known for it, and goes on falling fast.
    firmness = outcomes.weight * slope**2 / 4
    proof = outcomes.weight * slope**2 * chance * (1 - chance)
    share, spent = _shares(abilities.spent, outcomes, np.abs(pull) + MAX_STEP * firmness, caller_evidence)
    # Half of each outcome speaks of the model in general, half of it in this cluster.
    parts = np.stack([share * pull / 2, share * firmness, share * proof / 2])
    mean, precision = _stepped(abilities.mean, abilities.precision, model, parts)
    local_mean, local_precision = _stepped(abilities.local_mean, abilities.local_precision, cell, parts)
    return replace(
        abilities,
        mean=mean,
        precision=precision,
        local_mean=local_mean,
        local_precision=local_precision,
        spent=spent,
    )


def forget(abilities: Abilities, keep: float) -> Abilities:
    """All evidence, and what callers have spent, times ``keep`` (0 to 1): models change, and trust grows back."""
    if not 0 <= keep <= 1:
        raise InvalidRequest("What forget keeps lies between 0 and 1.", param="keep")
    prior = abilities.prior_precision
    precision = prior + keep * (abilities.precision - prior)
    evidence = keep * (abilities.precision * abilities.mean - prior * abilities.prior_mean)
    local_precision = _LOCAL_PRECISION + keep * (abilities.local_precision - _LOCAL_PRECISION)
    return replace(
        abilities,
        mean=(prior * abilities.prior_mean + evidence) / precision,
        precision=precision,
        local_mean=keep * abilities.local_precision * abilities.local_mean / local_precision,
        local_precision=local_precision,
        spent=keep * abilities.spent,
    )


def _prior(scores: Sequence[Score], unknown: float) -> tuple[float, float]:
    """Mean and precision: scores weighed by what they prove, on top of the little that holds of any model."""
    weighted, precision = _UNKNOWN_PRECISION * unknown, _UNKNOWN_PRECISION
    for score in scores:
        if not (0 <= score.accuracy <= 1 and score.items > 0 and abs(score.hardness) <= MAX_ABILITY):
            raise InvalidRequest(f"{score} is no evaluation score.", param="scores")
        right = (score.accuracy * score.items + 0.5) / (score.items + 1)
        proof = 1 / (1 / (score.items * right * (1 - right)) + _SCORE_VARIANCE)
        weighted += proof * (np.log(right / (1 - right)) + score.hardness)
        precision += proof
    mean = float(np.clip(weighted / precision, -MAX_ABILITY, MAX_ABILITY))
    return mean, min(precision, _MAX_PRIOR_PRECISION)


def _ability(abilities: Abilities, cluster: int) -> tuple[Array, Array]:
    mean = abilities.mean + abilities.local_mean[cluster]
    return mean, 1 / abilities.precision + 1 / abilities.local_precision[cluster]


def _stepped(
    mean: Array, precision: Array, where: Indices | tuple[Indices, Indices], parts: Array
) -> tuple[Array, Array]:
    """One damped Newton step: pulls, firmness and proof summed per Gaussian, the mean moved by at most MAX_STEP."""
    pull, firmness, proof = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    for total, part in zip((pull, firmness, proof), parts, strict=True):
        np.add.at(total, where, part)
    step = np.clip(pull / (precision + firmness), -MAX_STEP, MAX_STEP)
    return np.clip(mean + step, -MAX_ABILITY, MAX_ABILITY), precision + proof


def _shares(spent: Array, outcomes: Outcomes, cost: Array, limit: float) -> tuple[Array, Array]:
    """How much of each outcome counts, so that no caller's cost on a model passes ``limit``, and what is spent then."""
    pairs, pair = np.unique(outcomes.model * CALLER_BUCKETS + outcomes.caller, return_inverse=True)
    asked = np.bincount(pair, cost, len(pairs))
    granted = np.minimum(asked, np.maximum(limit - spent.flat[pairs], 0.0))
    share = np.divide(granted, asked, out=np.zeros(len(pairs)), where=asked > 0)
    after = spent.copy()
    after.flat[pairs] += granted
    return share[pair], after


def _check(abilities: Abilities, outcomes: Outcomes) -> None:
    clusters, models = abilities.local_mean.shape
    limits = {"model": models - 1, "cluster": clusters - 1, "caller": CALLER_BUCKETS - 1, "success": 1, "weight": 1}
    columns: dict[str, Array] = {name: getattr(outcomes, name) for name in Outcomes.__slots__}
    for name, column in columns.items():
        if column.shape != (len(outcomes.model),):
            raise InvalidRequest(f"Outcomes have {len(outcomes.model)} models but {column.size} {name}.", param=name)
        if name in limits and not np.all((column >= 0) & (column <= limits[name])):
            raise InvalidRequest(f"Each outcome's {name} lies between 0 and {limits[name]}.", param=name)
    if not np.all(np.isfinite(outcomes.difficulty)):
        raise InvalidRequest("Each outcome's difficulty is finite.", param="difficulty")
    if not np.all((outcomes.discrimination > 0) & (outcomes.discrimination < np.inf)):
        raise InvalidRequest("Each outcome's discrimination is above 0 and finite.", param="discrimination")


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))
