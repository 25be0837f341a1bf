"""The nouns of the file of objectives, and its reader: what is wrong in it stops the start, by name."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from prsm.core.errors import ConfigError
from prsm.monitoring.objectives.selector import Selector

Severity = Literal["page", "ticket"]
FILE = Path(__file__).with_name("slo.toml")


@dataclass(frozen=True, slots=True)
class Burn:
    """A rule on error budgets: spent ``factor`` times too fast over ``long_s`` and still over ``short_s``.

    (Google, "The Site Reliability Workbook", chapter 5.)
    """

    factor: float
    long_s: int
    short_s: int
    severity: Severity


@dataclass(frozen=True, slots=True)
class Slo:
    """A share of good events that is to be kept. ``bad`` says whether ``part`` counts the bad ones or the good."""

    name: str
    objective: float
    means: str
    total: tuple[Selector, ...]
    part: tuple[Selector, ...]
    bad: bool
    min_events: int

    @property
    def allowed(self) -> float:
        """The share that may be bad."""
        return 1 - self.objective


@dataclass(frozen=True, slots=True)
class Level:
    """Each series of ``value`` beyond a threshold; of the two limits one is None."""

    value: Selector
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Each series of ``part`` as a share of that of ``whole`` with the same labels, beyond a threshold."""

    part: Selector
    whole: Selector
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """Counters growing faster than ``above`` a second over ``window_s``, and beyond a share of others, if named."""

    value: tuple[Selector, ...]
    window_s: int
    above: float
    of: tuple[Selector, ...] = ()
    share_above: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Each series of ``value`` that the straight line of the last ``window_s`` takes below ``below`` in ``ahead_s``.

    Only while it is below ``share_below`` of ``whole``: a line through noise says nothing while there is plenty.
    """

    value: Selector
    whole: Selector
    share_below: float
    window_s: int
    ahead_s: int
    below: float


Condition = Level | Share | Rate | Forecast


@dataclass(frozen=True, slots=True)
class AlertRule:
    """What somebody is told of when ``condition`` held for ``for_s``; ``summary`` may name labels: ``{disk}``."""

    name: str
    severity: Severity
    for_s: int
    summary: str
    condition: Condition


@dataclass(frozen=True, slots=True)
class Objectives:
    """The whole file."""

    budget_s: int
    burns: tuple[Burn, ...]
    slos: tuple[Slo, ...]
    alerts: tuple[AlertRule, ...]

    def selectors(self) -> Iterator[Selector]:
        """Every selector that is named anywhere."""
        for slo in self.slos:
            yield from (*slo.total, *slo.part)
        for rule in self.alerts:
            yield from of_condition(rule.condition)


def of_condition(condition: Condition) -> tuple[Selector, ...]:
    """The selectors of a condition."""
    match condition:
        case Level(value):
            return (value,)
        case Share(part, whole):
            return (part, whole)
        case Rate():
            return (*condition.value, *condition.of)
        case Forecast():
            return (condition.value, condition.whole)


@cache
def shipped() -> Objectives:
    """The file that comes with the node."""
    return parse(FILE.read_text(encoding="utf-8"))


def parse(text: str) -> Objectives:
    """Read a file of objectives. Raises ConfigError."""
    try:
        given = tomllib.loads(text)
        burns = tuple(Burn(**each) for each in given.pop("burn"))
        found = Objectives(
            given.pop("budget_days") * 86_400,
            burns,
            tuple(_slo(each, burns) for each in given.pop("slo")),
            tuple(_alert(each) for each in given.pop("alert")),
        )
        _check(found, given)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"The file of objectives is wrong: {error}.") from error
    return found


def _check(found: Objectives, left: Mapping[str, Any]) -> None:
    if left:
        raise ValueError(f"it has {', '.join(left)}, which nothing reads")
    names = [each.name for each in (*found.slos, *found.alerts)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{', '.join(twice)} stands there twice")
    for each in found.selectors():
        if re.search(r"_(bucket|count|sum)$", each.metric) and {one.label for one in each.matchers} - {"le"}:
            raise ValueError(f"{each} chooses among histograms, which the node has only summed over all labels but le")
    severities = {each.severity for each in (*found.burns, *found.alerts)}
    if severities - {"page", "ticket"}:
        raise ValueError("a severity is page or ticket")


def _slo(given: dict[str, Any], burns: tuple[Burn, ...]) -> Slo:
    bad, good = given.pop("bad", None), given.pop("good", None)
    if (bad is None) == (good is None):
        raise ValueError(f"{given['name']} needs either good or bad")
    total, part = _several(given.pop("total")), _several(bad or good)
    slo = Slo(total=total, part=part, bad=bad is not None, **given)
    if not 0 < slo.objective < 1:
        raise ValueError(f"{slo.name}: an objective is between 0 and 1")
    mute = [burn.factor for burn in burns if burn.factor * slo.allowed >= 1]
    if mute:
        raise ValueError(f"{slo.name}: at {mute[0]} times the budget more than everything would have to be bad")
    return slo


def _alert(given: dict[str, Any]) -> AlertRule:
    kinds = [name for name in ("level", "share", "rate", "forecast") if name in given]
    if len(kinds) != 1:
        raise ValueError(f"{given['name']} needs one of level, share, rate and forecast")
    return AlertRule(condition=_condition(kinds[0], given.pop(kinds[0])), **given)


def _condition(kind: str, given: dict[str, Any]) -> Condition:
    if kind == "rate":
        names = {name: _several(given.pop(name)) for name in ("value", "of") if name in given}
        return Rate(**names, **given)
    names = {name: Selector.parse(given.pop(name)) for name in ("value", "part", "whole") if name in given}
    made = {"level": Level, "share": Share, "forecast": Forecast}[kind](**names, **given)
    if not isinstance(made, Forecast) and (made.above is None) == (made.below is None):
        raise ValueError(f"{kind} of {', '.join(map(str, names.values()))} needs either above or below")
    return cast("Condition", made)


def _several(texts: list[str]) -> tuple[Selector, ...]:
    return tuple(Selector.parse(text) for text in texts)
