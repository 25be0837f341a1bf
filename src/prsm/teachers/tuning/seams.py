"""What a search over hyperparameters is asked and what it answers, whichever library does it. Less is better."""

import math
from collections.abc import Callable
from typing import Annotated, Final, Literal, Protocol

from msgspec import Meta, Struct

from prsm.core.errors import ConfigError
from prsm.teachers.training.plan import Positive
from prsm.teachers.tuning.space import Space, Value, Values

WORST: Final = 1e30
"""What stands for a value that is no finite number: worse than any, so that such a trial is pruned and counted."""


class Pruned(Exception):
    """Raised by a report: this trial is not worth going on with. Let it through."""


Report = Callable[[int, float], None]
"""Tells the value after so many steps; raises Pruned."""

Objective = Callable[[Values, Report], float]
"""Tries values, reporting on the way, and answers how good they were. For several workers it must be importable."""


class Study(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One search. It ends after ``trials``, those of earlier calls under its ``name`` included, or ``steps`` in all.

    ``max_steps`` is what a trial reports last; it may be pruned from ``min_steps`` on, and a third (``reduction``) of
    each round goes on. One worker's search is repeatable by its seed; several find as they come.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    trials: Positive
    max_steps: Positive
    min_steps: Positive = 1
    reduction: Annotated[int, Meta(ge=2)] = 3
    steps: Positive | None = None
    startup_trials: Positive = 10
    sampler: Literal["tpe", "random"] = "tpe"
    prunes: bool = True
    seed: Annotated[int, Meta(ge=0)] = 0
    workers: Annotated[int, Meta(ge=1, le=64)] = 1


class Trial(Struct, frozen=True, kw_only=True):
    """One tried set of values, how it came out (None where pruned or no finite number) and how many steps it had."""

    number: int
    values: dict[str, Value]
    value: float | None
    steps: int


class Found(Struct, frozen=True, kw_only=True):
    """All trials of a study that ended, in order, and the best of those that were not pruned."""

    best: Trial
    trials: tuple[Trial, ...]


class Search(Protocol):
    """A library that searches."""

    def run(self, study: Study, space: Space, objective: Objective) -> Found:
        """Search, or go on searching. Raises ConfigError where no trial came to its end."""
        ...


def comparable(value: float) -> float:
    """The value, or ``WORST``."""
    return value if math.isfinite(value) else WORST


def found(trials: list[Trial]) -> Found:
    """The outcome of these trials. Raises ConfigError where none came to its end."""
    whole = [trial for trial in trials if trial.value is not None]
    if not whole:
        raise ConfigError("No trial of the study came to its end.", remedy="Give more trials or steps.")
    return Found(best=min(whole, key=_value), trials=tuple(trials))


def _value(trial: Trial) -> float:
    assert trial.value is not None
    return trial.value
