"""The board that the router looks at: how likely each model answers a prompt well, by evaluation scores and outcomes.

A row stands for a registered model. One that nothing was learnt of stands on its evaluation scores as they are now, or
on what is thought of any model where it has none. What is learnt is handed in whole and replaces what was there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.agents.learning import exams
from prsm.agents.learning.exams import Evaluation
from prsm.agents.learning.fitted import Fitted, nothing
from prsm.agents.learning.prompts import PromptReader
from prsm.agents.routers.difficulty import item_law
from prsm.agents.routers.quality import Abilities, Item, Score, carry, draw, quality, start
from prsm.core.clock import Clock, now

INTERVAL_DEVIATIONS: Final = 1.96
"""Standard deviations to either side within which 95 % of a Gaussian lie."""

_USUAL = Item(0.0, 1.0, 0)
"""Any prompt: what is learnt of a model moves its chance at all of them."""


@dataclass(frozen=True, slots=True)
class ClusterStanding:
    """One model in one domain cluster: its ability there, in log-odds, and how far off it may be (95 %)."""

    cluster: int
    ability: float
    margin: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What is thought of one model: its chance at an average prompt, and its ability in log-odds, with 95 % intervals.

    ``scores`` counts the evaluation scores it started from, ``outcomes`` what it was learnt from since; ``evidence`` is
    the precision that outcomes have added and that is not forgotten yet. ``clusters`` are those it was seen in.
    """

    model: str
    chance: float
    chance_low: float
    chance_high: float
    ability: float
    margin: float
    scores: int
    outcomes: int
    evidence: float
    clusters: list[ClusterStanding]


class Board:
    """Implements ``agents/seams.py: QualityBoard``; used by one event loop."""

    def __init__(self, prompts: PromptReader, *, seed: int | None = None, clock: Clock = now) -> None:
        """``seed`` fixes the Thompson draws; None: a fresh one from the system for each process."""
        self._prompts = prompts
        self._reader = prompts.reader
        self._unknown = float(self._reader.reference[0])
        self._random = np.random.default_rng(seed)
        self._scores: dict[str, list[Score]] = {}
        self._fitted = nothing(self._reader.clusters, clock())
        self._models: tuple[str, ...] = ()
        self._line_up()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that rows stand for, in their order."""
        return self._models

    def follow(self, models: Sequence[str]) -> None:
        """The models that rows stand for from now on; what was learnt of a name is kept."""
        if self._models != tuple(models):
            self._models = tuple(models)
            self._line_up()

    def rate(self, evaluations: Mapping[str, Sequence[Evaluation]]) -> None:
        """The registered evaluation scores of all models, in place of those before."""
        found = {model: scores for model, given in evaluations.items() if (scores := exams.scores(given))}
        if found != self._scores:
            self._scores = found
            self._line_up()

    def take(self, fitted: Fitted) -> None:
        """What is learnt as of now; its clusters are the reader's."""
        self._fitted = fitted
        self._line_up()

    def prior(self, models: Sequence[str]) -> Abilities:
        """What ``models`` start from, one row each."""
        return start([self._scores.get(model, ()) for model in models], self._reader.clusters, self._unknown)

    async def item(self, text: str) -> Item:
        """The prompt as the law of ``routers/quality.py`` sees it; some milliseconds of a processor."""
        return await self._prompts.item(text)

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        """The chance of a good answer by each followed model at any prompt, [M]; what is learnt of one moves it."""
        return self._usual

    def chances(self, item: Item, *, explore: bool) -> npt.NDArray[np.float64]:
        """The chance of a good answer by each followed model, [M]; with ``explore`` a Thompson draw of it."""
        if not explore:
            return quality(self._rows, item)
        return draw(self._rows, item, self._random.standard_normal(len(self._models)))

    def standings(self) -> list[Standing]:
        """What is thought of each followed model, in the order of rows."""
        average = average_item(self._reader.intercept, self._reader.reference)
        rows = self._rows
        outcomes = dict(zip(self._fitted.models, self._fitted.outcomes.tolist(), strict=True))
        blank = self.prior(("",))
        return [
            _standing(rows, row, average, blank, model, len(self._scores.get(model, ())), outcomes.get(model, 0))
            for row, model in enumerate(self._models)
        ]

    def _line_up(self) -> None:
        """Rows in the order of the followed models, each from what was learnt of it, or from its scores."""
        place = {model: row for row, model in enumerate(self._fitted.models)}
        source = np.array([place.get(model, -1) for model in self._models], np.intp)
        self._rows: Abilities = carry(self._fitted.abilities, source, self.prior(self._models))
        self._usual = quality(self._rows, _USUAL)


def average_item(intercept: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> Item:
    """The prompt that is as hard, and tells models apart as well, as the average one of the estimate's tables."""
    difficulty, discrimination = item_law(intercept[None].astype(np.float64), reference)[0]
    return Item(float(difficulty), float(discrimination), 0)


def _standing(
    rows: Abilities, row: int, average: Item, blank: Abilities, model: str, scores: int, outcomes: int
) -> Standing:
    ability, deviation = float(rows.mean[row]), 1 / sqrt(float(rows.precision[row]))
    margin = INTERVAL_DEVIATIONS * deviation
    at = _chance_at(average)
    precision = rows.local_precision[:, row]
    seen = np.flatnonzero(precision > blank.local_precision[0, 0] + 1e-9)
    return Standing(
        model=model,
        chance=at(ability),
        chance_low=at(ability - margin),
        chance_high=at(ability + margin),
        ability=ability,
        margin=margin,
        scores=scores,
        outcomes=outcomes,
        evidence=float(rows.precision[row] - rows.prior_precision[row]),
        clusters=[
            ClusterStanding(
                cluster,
                ability + float(rows.local_mean[cluster, row]),
                INTERVAL_DEVIATIONS * sqrt(deviation**2 + 1 / float(precision[cluster])),
            )
            for cluster in seen.tolist()
        ],
    )


def _chance_at(item: Item) -> Callable[[float], float]:
    return lambda ability: float(0.5 * (1 + np.tanh(0.5 * (item.discrimination * ability - item.difficulty))))
