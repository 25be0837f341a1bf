"""Names of people, places, organisations and street addresses: told token by token, then put together into spans.

The encoder's branch says what a token means; it has no capitals, so the forms of words are weighed beside it. Of all
ways to tag a text that are well formed (a part of a name follows one of the same), the likeliest is taken (Viterbi).
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt

KINDS: Final = ("name", "place", "organisation", "street-address")
TAGS: Final = 1 + 2 * len(KINDS)
"""Outside; then for each kind where one begins, and where one goes on."""
FORM_BITS: Final = 13
FORMS: Final = 1 << FORM_BITS

_WORD: Final = re.compile(r"\w+(?:['’.-]\w+)*|[^\w\s]")
_NEVER: Final = -1e4
_JOINED: Final = {kind: ("",) if kind == "street-address" else ("", " ", ". ") for kind in KINDS}
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tagger:
    """Weights of forms [FORMS, TAGS], and of ways from one tag to the next [TAGS, TAGS]."""

    table: npt.NDArray[np.float16]
    ways: Floats

    def tag(self, logits: Floats, text: str, offsets: Sequence[tuple[int, int]]) -> list["Tagged"]:
        """The spans of a window, given what the branch says of its tokens, [tokens, TAGS]."""
        read = forms(text, offsets)
        inside = [index for index, numbers in enumerate(read) if numbers]
        if inside:
            logits = logits.copy()
            logits[inside] += self.table[np.array([read[index] for index in inside])].sum(1, dtype=np.float32)
        return spans(tags(logits, self.ways), offsets, text)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Characters ``start`` to ``end`` of the text that was tagged."""

    kind: str
    start: int
    end: int


def forms(text: str, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each token the numbers, below FORMS, of the forms of its word and of the words around it: ten, or none."""
    words = [(m.start(), m.end(), m[0]) for m in _WORD.finditer(text)]
    by_word = _word_forms([word for _, _, word in words])
    found: list[list[int]] = []
    at = 0
    for start, end in offsets:
        while at < len(words) and words[at][1] <= start:
            at += 1
        inside = at < len(words) and words[at][0] < end
        first = inside and words[at][0] == start
        found.append([*by_word[at], _number(f"first{first}")] if inside else [])
    return found


def tags(logits: Floats, ways: Floats) -> list[int]:
    """The likeliest well-formed sequence for logits [tokens, TAGS] and ways [TAGS, TAGS] from one tag to the next."""
    if not len(logits):
        return []
    allowed = ways + ALLOWED
    score, back = logits[0] + ALLOWED[0], np.zeros((len(logits), TAGS), np.int64)
    for index in range(1, len(logits)):
        each = score[:, None] + allowed
        back[index] = each.argmax(0)
        score = each.max(0) + logits[index]
    path = [int(score.argmax())]
    for index in range(len(logits) - 1, 0, -1):
        path.append(int(back[index, path[-1]]))
    return path[::-1]


def spans(sequence: Sequence[int], offsets: Sequence[tuple[int, int]], text: str) -> list[Tagged]:
    """Tags as spans; one that begins within a word, or right after another of its kind and a space, goes on with it."""
    found: list[Tagged] = []
    for tag, (start, end) in zip(sequence, offsets, strict=True):
        if tag == 0:
            continue
        kind = KINDS[(tag - 1) // 2]
        last = found[-1] if found else None
        goes_on = last and last.kind == kind and (tag % 2 == 0 or text[last.end : start] in _JOINED[kind])
        if last and goes_on:
            found[-1] = Tagged(kind, last.start, end)
        else:
            found.append(Tagged(kind, start, end))
    return found


def _allowed() -> Floats:
    ways = np.zeros((TAGS, TAGS), np.float32)
    for tag in range(2, TAGS, 2):
        ways[:, tag] = _NEVER
        ways[[tag - 1, tag], tag] = 0
    return ways


ALLOWED: Final = _allowed()
"""0 from a tag to one that may follow it, far below elsewhere; its first line is also for the first token."""


def _word_forms(words: Sequence[str]) -> list[list[int]]:
    lowered = ["^", *(word.lower() for word in words), "$"]
    shapes = [_shape(word) for word in ("^", *words, "$")]
    found: list[list[int]] = []
    for at in range(1, len(words) + 1):
        word, (left, shape, right) = lowered[at], shapes[at - 1 : at + 2]
        told = (
            *(f"w{word}", f"p{word[:3]}", f"e{word[-3:]}", f"b{lowered[at - 1]}", f"a{lowered[at + 1]}"),
            *(f"s{shape}", f"t{left}|{shape}|{right}", f"n{left}|{shape}", f"x{shape}|{right}"),
        )
        found.append([_number(each) for each in told])
    return found


def _shape(word: str) -> str:
    """``Xx`` for Paris, ``d`` for 42: runs of capitals, small letters, digits and others, each run once."""
    kinds = ("X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word[:24])
    return "".join(kind for kind, _ in groupby(kinds))


def _number(form: str) -> int:
    return zlib.crc32(form.encode()) >> (32 - FORM_BITS)
