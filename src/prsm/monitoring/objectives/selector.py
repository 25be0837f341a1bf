"""Selectors of series, as Prometheus writes them: ``name{label="value",other=~"a|b"}``. Pure; a part of PromQL only.

One text is read by the node's alerter and stands in Prometheus' rules, so both mean the same series.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)(?:\{(.*)\})?")
_MATCHER = re.compile(r"\s*([a-z_][a-z0-9_]*)(=~|!~|!=|=)\"([^\"\\]*)\"\s*(?:,|$)")


class Sample(NamedTuple):
    """One value of a series as of now."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Matcher:
    """What a label is to be. Regular expressions match the whole value."""

    label: str
    op: str
    value: str

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether it is so; a label that is not there is empty."""
        found = labels.get(self.label, "")
        same = re.fullmatch(self.value, found) is not None if "~" in self.op else found == self.value
        return same != self.op.startswith("!")


@dataclass(frozen=True, slots=True)
class Selector:
    """The series of one metric whose labels are as the matchers say."""

    metric: str
    matchers: tuple[Matcher, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one. Raises ValueError."""
        match = _SELECTOR.fullmatch(text)
        if match is None:
            raise ValueError(f'{text!r} is no selector of the form name{{label="value"}}')
        inside, place, matchers = match[2] or "", 0, list[Matcher]()
        while place < len(inside):
            one = _MATCHER.match(inside, place)
            if one is None:
                raise ValueError(f'{text!r} has a matcher that is not of the form label="value"')
            matchers.append(Matcher(one[1], one[2], one[3]))
            place = one.end()
        return cls(match[1], tuple(matchers))

    @property
    def family(self) -> str:
        """The metric's name without the ending of a histogram's series or of a counter."""
        return re.sub(r"_(total|bucket|count|sum)$", "", self.metric)

    def of(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those of the samples that it selects."""
        return [
            sample
            for sample in samples
            if sample.name == self.metric and all(matcher.holds(sample.labels) for matcher in self.matchers)
        ]

    def __str__(self) -> str:
        inside = ",".join(f'{one.label}{one.op}"{one.value}"' for one in self.matchers)
        return f"{self.metric}{{{inside}}}" if inside else self.metric


def total(selectors: Iterable[Selector], samples: Sequence[Sample]) -> float | None:
    """The sum over all that any of the selectors selects; None where there is nothing."""
    found = [sample.value for selector in selectors for sample in selector.of(samples)]
    return sum(found) if found else None
