"""Patterns with a check behind each: what is found must also be able to be real, and of two finds the longer stands."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import re2

_re2: Any = re2  # it ships no types
_MEMORY: Final = 16 << 20


def _nothing_to_check(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Kind:
    """What is looked for: ``pattern`` in RE2's syntax; a group called ``it`` is what is told, else the whole match.

    ``near`` asks for one of these words within ``NEAR_CHARS`` before or after: what may be anything is not told alone.
    """

    name: str
    pattern: str
    check: Callable[[str], bool] = _nothing_to_check
    near: str = ""
    any_case: bool = False


NEAR_CHARS: Final = 48


@dataclass(frozen=True, slots=True)
class Find:
    """Characters ``start`` to ``end`` are of ``kind``."""

    kind: str
    start: int
    end: int


class Finder:
    """All kinds together; asks first which of them match at all."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = [(kind, _compile(kind.pattern, kind.any_case), _near(kind.near)) for kind in kinds]

    def find(self, text: str) -> tuple[Find, ...]:
        """What stands in ``text``, in order, none within another; of equal stretches the kind named first stands."""
        return _longest(find for each in self._kinds for find in _finds(text, *each))


def _finds(text: str, kind: Kind, pattern: Any, near: Any) -> Iterator[Find]:
    for match in pattern.finditer(text):
        start, end = match.span(pattern.groupindex.get("it", 0))
        if end <= start or not kind.check(text[start:end]):
            continue
        if near is None or near.search(text[max(0, start - NEAR_CHARS) : end + NEAR_CHARS]):
            yield Find(kind.name, start, end)


def _longest(finds: Iterable[Find]) -> tuple[Find, ...]:
    chosen: list[Find] = []
    ordered = sorted(enumerate(finds), key=lambda item: (item[1].start - item[1].end, item[0]))
    for _, find in ordered:
        if all(find.end <= other.start or other.end <= find.start for other in chosen):
            chosen.append(find)
    return tuple(sorted(chosen, key=lambda find: find.start))


def _compile(pattern: str, any_case: bool) -> Any:
    options = _re2.Options()
    options.case_sensitive, options.log_errors, options.max_mem = not any_case, False, _MEMORY
    return _re2.compile(pattern, options)


def _near(words: str) -> Any:
    return _compile(rf"(?:^|\W)(?:{words})", any_case=True) if words else None
