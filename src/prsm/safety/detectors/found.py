"""Patterns with a check behind each: what is found must also be able to be real, and of two finds the longer stands."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

from prsm.safety.detectors.normalise import folded
from prsm.safety.detectors.runs import Within

_re2: Any = re2  # it ships no types
_MEMORY: Final = 16 << 20


def _nothing_to_check(_: str) -> bool:
    return True


def _nothing_within(_: str) -> Iterator[tuple[int, int]]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Kind:
    """What is looked for: ``pattern`` in RE2's syntax; a group called ``it`` is what is told, else the whole match.

    Of a match that fails its check ``within`` gives the stretches that are real all the same: a neighbour may be in it.
    ``near`` asks for one of these words within ``NEAR_CHARS`` before or after: what may be anything is not told alone.
    """

    name: str
    pattern: str
    check: Callable[[str], bool] = _nothing_to_check
    near: str = ""
    any_case: bool = False
    within: Within = _nothing_within


NEAR_CHARS: Final = 48


@dataclass(frozen=True, slots=True)
class Find:
    """Characters ``start`` to ``end`` are of ``kind``."""

    kind: str
    start: int
    end: int


class Finder:
    """Looks for all kinds."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = [(kind, _compile(kind.pattern, kind.any_case), _near(kind.near)) for kind in kinds]

    def find(self, text: str) -> tuple[Find, ...]:
        """What stands in ``text``, whatever invisible is between its characters, in order, none within another.

        Of equal stretches the kind named first stands.
        """
        told = folded(text)
        finds = longest(find for each in self._kinds for find in _finds(told.text, *each))
        return tuple(Find(find.kind, *told.original(find.start, find.end)) for find in finds)


def longest(finds: Iterable[Find]) -> tuple[Find, ...]:
    """Those that no longer one overlaps, in order; of equally long ones the first."""
    chosen: list[Find] = []
    for find in sorted(finds, key=lambda find: find.start - find.end):
        at = bisect_left(chosen, find.start, key=lambda other: other.start)
        free_after = at == len(chosen) or find.end <= chosen[at].start
        if free_after and (at == 0 or chosen[at - 1].end <= find.start):
            chosen.insert(at, find)
    return tuple(chosen)


def _finds(text: str, kind: Kind, pattern: Any, near: Any) -> Iterator[Find]:
    for match in pattern.finditer(text):
        for start, end in _real(text, kind, *match.span(pattern.groupindex.get("it", 0))):
            if near is None or near.search(text[max(0, start - NEAR_CHARS) : end + NEAR_CHARS]):
                yield Find(kind.name, start, end)


def _real(text: str, kind: Kind, start: int, end: int) -> Iterator[tuple[int, int]]:
    if end <= start:
        return
    if kind.check(text[start:end]):
        yield start, end
        return
    for first, last in kind.within(text[start:end]):
        yield start + first, start + last


def _compile(pattern: str, any_case: bool) -> Any:
    options = _re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = not any_case, False, _MEMORY
    return _re2.compile(pattern, options)


def _near(words: str) -> Any:
    return _compile(rf"(?:^|\W)(?:{words})", any_case=True) if words else None
