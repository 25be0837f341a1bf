"""Numbers among their neighbours: a run of groups, apart by spaces and the like, that is none itself may hold some.

Pure. Each function gives the stretches of a run that are real; they begin and end with a group. Time is linear in the
length of a run, since no number is long.
"""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from prsm.safety.detectors import checksums

Stretches = Iterator[tuple[int, int]]
Within = Callable[[str], Stretches]

_CARD_DIGITS: Final = range(13, 20)
_FIRST_DIGITS: Final = 4
"""A card among other numbers begins with a group of at least so many, as it is printed: small numbers are no card."""
_GROUP: Final = re.compile(r"[A-Za-z0-9]+")
_IBAN_BEGINS: Final = re.compile(r"[A-Za-z]{2}[0-9]{2}")
_PHONE_GROUP: Final = re.compile(r"[0-9]+\)?")


def cards(run: str) -> Stretches:
    """Payment cards, groups of digits one after the other; of those that begin with the same group the longest."""
    groups, packed, until = _groups(run)
    at = 0
    while at < len(groups):
        found = None
        if until[at + 1] - until[at] >= _FIRST_DIGITS:
            after = range(at + 1, min(at + _CARD_DIGITS.stop, len(groups)) + 1)
            whole = [each for each in after if until[each] - until[at] in _CARD_DIGITS]
            found = next((each for each in reversed(whole) if checksums.card(packed[until[at] : until[each]])), None)
        if found:
            yield groups[at][0], groups[found - 1][1]
        at = found or at + 1


def ibans(run: str) -> Stretches:
    """International bank account numbers, of as many characters as their country's have."""
    groups, packed, until = _groups(run)
    after = {characters: index for index, characters in enumerate(until)}
    at = 0
    while at < len(groups):
        found = None
        if _IBAN_BEGINS.match(run, groups[at][0]):
            found = after.get(until[at] + checksums.iban_characters(packed[until[at] : until[at] + 2]))
        if found and checksums.iban(packed[until[at] : until[found]]):
            yield groups[at][0], groups[found - 1][1]
            at = found
        else:
            at += 1


def beginning(check: Callable[[str], bool]) -> Within:
    """The longest beginning of a run that passes ``check``."""

    def within(run: str) -> Stretches:
        ends = [group.end() for group in _PHONE_GROUP.finditer(run)]
        longest = next((end for end in reversed(ends) if check(run[:end])), 0)
        if longest:
            yield 0, longest

    return within


def _groups(run: str) -> tuple[list[tuple[int, int]], str, list[int]]:
    """Where the groups stand, what they hold together, and how many characters the groups before each hold."""
    groups = [group.span() for group in _GROUP.finditer(run)]
    packed = "".join(run[start:end] for start, end in groups)
    return groups, packed, [0, *accumulate(end - start for start, end in groups)]
