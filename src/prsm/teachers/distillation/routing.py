"""Which teacher speaks for which family of problems: pure rules over what was measured of them."""

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from prsm.core.errors import ConfigError

Routing = Mapping[str, Mapping[str, float]]
"""What part each teacher, by name, has in what is taught of each family; the parts sum to 1."""
_Z = 1.96


class Measured(Struct, frozen=True):
    """How a teacher did on held-out problems of one family, and how many tokens it wrote in all."""

    right: int
    asked: int
    tokens: int

    @property
    def score(self) -> float:
        """The share that was right."""
        return self.right / self.asked

    def interval(self) -> tuple[float, float]:
        """The score's 95 % interval (Wilson 1927)."""
        spread = _Z * math.sqrt(self.score * (1 - self.score) / self.asked + (_Z / (2 * self.asked)) ** 2)
        middle, scale = self.score + _Z**2 / (2 * self.asked), 1 + _Z**2 / self.asked
        return (middle - spread) / scale, (middle + spread) / scale


def route(
    scores: Mapping[str, Mapping[str, Measured]],
    how: Literal["best", "mixture"],
    *,
    speakers: Mapping[str, str] | None = None,
    least: float = 0.5,
) -> dict[str, dict[str, float]]:
    """Who teaches each family: {family: {teacher: share}}, from {teacher: {family: measured}}.

    ``best`` is the one with the best score, the first by name among equals. ``mixture`` is all that cannot be told from
    it (their intervals meet), by the odds that each is right. A family that ``speakers`` gives to a teacher is that
    teacher's. Raises ConfigError for a family in which none of those asked reaches ``least``: nobody can
    teach what nobody knows.
    """
    routed: dict[str, dict[str, float]] = {}
    for family in sorted({family for measured in scores.values() for family in measured}):
        asked = {name: of[family] for name, of in sorted(scores.items()) if family in of}
        speaker = (speakers or {}).get(family)
        if speaker is not None:
            asked = {name: of for name, of in asked.items() if name == speaker}
        if not asked:
            raise ConfigError(f"The speaker of {family}, {speaker}, is no teacher of this job.", param="speakers")
        routed[family] = _shares(asked, family, how, least)
    return routed


def _shares(measured: Mapping[str, Measured], family: str, how: str, least: float) -> dict[str, float]:
    best = max(measured, key=lambda name: measured[name].score)
    if measured[best].score < least:
        raise ConfigError(
            f"No teacher reaches {least:.0%} in {family}; the best, {best}, has {measured[best].score:.1%}.",
            param="teachers",
            remedy="Add a teacher that knows it, or leave the family out.",
        )
    if how == "best":
        return {best: 1.0}
    floor = measured[best].interval()[0]
    odds = {name: _odds(of) for name, of in measured.items() if of.interval()[1] >= floor}
    return {name: value / sum(odds.values()) for name, value in odds.items()}


def _odds(measured: Measured) -> float:
    return (measured.right + 0.5) / (measured.asked - measured.right + 0.5)
