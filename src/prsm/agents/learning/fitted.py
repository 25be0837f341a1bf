"""What has been learnt of models so far, as one value with a time: it grows by evidence, ages, and is written as bytes.

Only models with evidence are in it; every other stands on its evaluation scores alone, as they are now. Pure.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from prsm.agents.learning.callers import Owners, seated, vacated
from prsm.agents.learning.outcomes import Evidence
from prsm.agents.routers.quality import (
    CALLER_BUCKETS,
    MAX_CALLER_EVIDENCE,
    Abilities,
    Outcomes,
    Score,
    carry,
    forget,
    start,
    update,
)
from prsm.core.errors import InvalidRequest

MAX_MODELS: Final = 4_096
"""Models that evidence is kept of; beyond, those with the least of it are dropped."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a fitted state, unpacked; 4,096 models of 64 clusters take 13 MB."""
IMPLIED_SHARE: Final = 0.25
"""Of what one caller may spend on a model, the share that it can spend without saying anything explicit."""

_BATCH, _WEAK_BATCH = 8, 64
"""Outcomes that one step of the law sums. Its size is cut, so that full ones go further in more and smaller steps."""
_NEGLIGIBLE = 1e-3
_ARRAYS = ("prior_mean", "prior_precision", "mean", "precision", "local_mean", "local_precision", "spent")
Prior = Callable[[Sequence[str]], Abilities]
"""Abilities that models start from, in the order of their names."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """``models`` are the rows of ``abilities``; ``outcomes`` [M] counts what each was ever learnt from."""

    models: tuple[str, ...]
    abilities: Abilities
    outcomes: npt.NDArray[np.int64]
    owners: Owners
    at: datetime

    @property
    def clusters(self) -> int:
        """How many domain clusters its local abilities have."""
        return len(self.abilities.local_mean)


def nothing(clusters: int, at: datetime) -> Fitted:
    """Before the first outcome."""
    return Fitted((), _blank(0, clusters), np.zeros(0, np.int64), np.zeros(CALLER_BUCKETS, np.int64), at)


def learn(
    known: Fitted,
    explicit: Sequence[Evidence],
    weak: Sequence[Evidence],
    prior: Prior,
    caller_evidence: float = MAX_CALLER_EVIDENCE,
) -> Fitted:
    """``known`` after more outcomes, each list in the order of time; ``caller_evidence`` is the law's bound.

    Weak ones count only while their caller has spent less than IMPLIED_SHARE of it, so that a verdict still counts of
    one who asks much and says little.
    """
    known = _with_rows(known, dict.fromkeys(each.model for each in (*explicit, *weak)), prior)
    for begin in range(0, len(explicit), _BATCH):
        known = _step(known, explicit[begin : begin + _BATCH], caller_evidence)
    for begin in range(0, len(weak), _WEAK_BATCH):
        known = _step(known, weak[begin : begin + _WEAK_BATCH], IMPLIED_SHARE * caller_evidence)
    return known


def aged(known: Fitted, at: datetime, half_life_s: float) -> Fitted:
    """``known`` as it is worth at a later time: half of all evidence is forgotten in each ``half_life_s``."""
    passed_s = max((at - known.at).total_seconds(), 0.0)
    abilities = forget(known.abilities, 0.5 ** (passed_s / half_life_s))
    owners = vacated(known.owners, abilities.spent)
    return _bounded(replace(known, abilities=abilities, owners=owners, at=max(at, known.at)))


def pack(known: Fitted) -> bytes:
    """All but names and time, as compressed safetensors."""
    arrays = {name: np.ascontiguousarray(getattr(known.abilities, name)) for name in _ARRAYS}
    return zlib.compress(save(arrays | {"outcomes": known.outcomes, "owners": known.owners}), 1)


def unpack(packed: bytes, models: Sequence[str], at: datetime) -> Fitted:
    """What ``pack`` wrote. Raises InvalidRequest when it is not that."""
    try:
        tensors = load(zlib.decompressobj().decompress(packed, MAX_BYTES))
        abilities = Abilities(**{name: tensors[name] for name in _ARRAYS})
        found = Fitted(tuple(models), abilities, tensors["outcomes"], tensors["owners"], at)
    except (zlib.error, SafetensorError, KeyError) as error:
        raise InvalidRequest(f"The fitted state cannot be read: {type(error).__name__}.", param="state") from error
    _check(found)
    return found


def general(known: Fitted, clusters: int) -> Fitted:
    """What is known of models in general, to go on with other domain clusters."""
    local = _blank(len(known.models), clusters)
    abilities = replace(known.abilities, local_mean=local.local_mean, local_precision=local.local_precision)
    return replace(known, abilities=abilities)


def _with_rows(known: Fitted, models: Sequence[str] | dict[str, None], prior: Prior) -> Fitted:
    new = [model for model in models if model not in known.models]
    if not new:
        return known
    names = (*known.models, *new)
    rows = np.array([*range(len(known.models)), *[-1] * len(new)], np.intp)
    outcomes = np.concatenate([known.outcomes, np.zeros(len(new), np.int64)])
    return replace(known, models=names, abilities=carry(known.abilities, rows, prior(names)), outcomes=outcomes)


def _step(known: Fitted, evidence: Sequence[Evidence], bound: float) -> Fitted:
    row_of = {model: row for row, model in enumerate(known.models)}
    callers, owners = seated(known.owners, np.array([each.caller for each in evidence], np.int64))
    rows = np.array([row_of[each.model] for each in evidence], np.intp)
    outcomes = Outcomes(
        model=rows,
        cluster=np.array([each.item.cluster for each in evidence], np.intp),
        difficulty=np.array([each.item.difficulty for each in evidence], np.float64),
        discrimination=np.array([each.item.discrimination for each in evidence], np.float64),
        success=np.array([each.success for each in evidence], np.float64),
        weight=np.array([each.weight for each in evidence], np.float64),
        caller=callers,
    )
    counted = known.outcomes + np.bincount(rows, minlength=len(known.models))
    return replace(known, abilities=update(known.abilities, outcomes, bound), outcomes=counted, owners=owners)


def _bounded(known: Fitted) -> Fitted:
    """Without the models of which next to nothing is known any more, and at most MAX_MODELS."""
    abilities = known.abilities
    evidence = abilities.precision - abilities.prior_precision + abilities.spent.sum(axis=1)
    kept = np.sort(np.argsort(-evidence, kind="stable")[:MAX_MODELS])
    kept = kept[evidence[kept] > _NEGLIGIBLE]
    if len(kept) == len(known.models):
        return known
    rows: list[int] = kept.tolist()
    return replace(
        known,
        models=tuple(known.models[row] for row in rows),
        abilities=carry(abilities, kept, _blank(len(rows), known.clusters)),
        outcomes=known.outcomes[kept],
    )


def _blank(models: int, clusters: int) -> Abilities:
    """Rows of which nothing is known."""
    nothing_known: list[list[Score]] = [[] for _ in range(models)]
    return start(nothing_known, clusters, 0.0)


def _check(known: Fitted) -> None:
    count, clusters = len(known.models), known.clusters if known.abilities.local_mean.ndim == 2 else 0
    shapes = dict.fromkeys(_ARRAYS, (count,)) | dict.fromkeys(("local_mean", "local_precision"), (clusters, count))
    shapes["spent"] = (count, CALLER_BUCKETS)
    arrays = [getattr(known.abilities, name) for name in _ARRAYS]
    fits = [array.shape == shapes[name] for name, array in zip(_ARRAYS, arrays, strict=True)]
    fits += [known.outcomes.shape == (count,), known.owners.shape == (CALLER_BUCKETS,)]
    if not (all(fits) and all(np.isfinite(array).all() for array in arrays)):
        raise InvalidRequest("The fitted state does not fit its models.", param="state")
