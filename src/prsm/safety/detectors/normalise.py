"""Disguises come off here: what a reader sees in a text is written out, and every character knows where it came from.

Pure. Two views are made: ``plain`` reads like a sentence and is what the models see; ``skeleton`` is letters and digits
only and is what rules compare. Neither loses its way back: positions of both map to characters of the original.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prsm.safety.detectors.lookalikes import LEET, LETTERS, SCRIPTS, emoji_word

_INVISIBLE: Final = frozenset({"Cf", "Cc", "Cs", "Co", "Cn"})
_KEPT: Final = frozenset("\n\t\r")
MAX_MARKS: Final = 30
"""Marks on one character that are read, as of UAX 15's stream-safe text: NFKC takes the square of their number."""
_VARIATION: Final = frozenset("\ufe0e\ufe0f\u20e3\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5")
_ASCII_RUN: Final = re.compile(r"[\t\n\r\x20-\x7e]+")
_WORD: Final = re.compile(r"[^\W\d_]+")
_SPACED: Final = re.compile(r"(?<!\w)(?!I [a-z] )[^\W_]([ .,_*~|/+-]{1,2})[^\W_](?:\1[^\W_]){2,}(?!\w)")
_LEET_INSIDE: Final = re.compile(
    r"(?<=[^\W\d_])(?:[013457$!€]|@(?![\w.-]*\.\w))+(?=[^\W\d_])|(?<![\w$])\$(?=[^\W\d_]{2,}(?!\w))"
)
_REPEATED: Final = re.compile(r"([^\W\d_])\1{2,}|([!?.,'\"-])\2{3,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A text with, for each of its characters, the half-open stretch of the original that it came from."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the original under characters ``start`` to ``end``, which are not none."""
        return min(self.starts[start:end]), max(self.ends[start:end])


def folded(text: str) -> Mapped:
    """NFKC cluster by cluster, invisible characters left out, emoji in words; stretches of ASCII are copied."""
    if text.isascii() and _ASCII_RUN.fullmatch(text):
        return identity(text)
    pieces: list[tuple[str, int, int]] = []
    at = 0
    while at < len(text):
        run = _ASCII_RUN.match(text, at)
        if run and (run.end() == len(text) or not _joins(text[run.end()])):
            pieces.extend((text[i], i, i + 1) for i in range(at, run.end()))
            at = run.end()
            continue
        if run and run.end() - at > 1:
            pieces.extend((text[i], i, i + 1) for i in range(at, run.end() - 1))
            at = run.end() - 1
        end = at + 1
        while end < len(text) and _joins(text[end]):
            end += 1
        pieces.extend(_cluster(text, at, end))
        at = end
    return _mapped(pieces)


def plain(text: str) -> Mapped:
    """``text`` as it is read: NFKC, nothing invisible, look-alikes Latin, emoji in words, spelt-out words joined."""
    told = folded(text)
    if not told.text.isascii():
        told = _with_latin_words(told)
    told = _join_spaced(told)
    told = _replaced(told, ((m.start(), m.end(), m[0].translate(LEET)) for m in _LEET_INSIDE.finditer(told.text)))
    return _replaced(told, ((m.start(), m.end(), m[0][:2]) for m in _REPEATED.finditer(told.text)))


def skeleton(told: Mapped) -> Mapped:
    """Only letters and digits of a plain view, lower case, without accents, leetspeak read, no letter doubled."""
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for index, char in enumerate(told.text):
        for each in unicodedata.normalize("NFD", char.translate(LEET).casefold()):
            if not each.isalnum():
                continue
            if chars and chars[-1] == each:
                ends[-1] = max(ends[-1], told.ends[index])
                continue
            chars.append(each)
            starts.append(told.starts[index])
            ends.append(told.ends[index])
    return Mapped("".join(chars), tuple(starts), tuple(ends))


def identity(text: str) -> Mapped:
    """``text`` as a view of itself."""
    return Mapped(text, tuple(range(len(text))), tuple(range(1, len(text) + 1)))


def _cluster(text: str, start: int, end: int) -> Iterable[tuple[str, int, int]]:
    """One base character with all that joins it, in normal form; an emoji as words with spaces around.

    Of marks beyond ``MAX_MARKS`` nothing is left but their place; letters of Hangul all stay.
    """
    word = emoji_word(text[start]) if text[start] not in LETTERS else ""
    if word:
        spaced = f" {word} "
        yield from ((char, start, end) for char in spaced)
        return
    seen = "".join(c for c in text[start:end] if c in _KEPT or not _unseen(c))
    letters = (c for c in seen[1 + MAX_MARKS :] if not _is_mark(c))
    for char in unicodedata.normalize("NFKC", seen[: 1 + MAX_MARKS] + "".join(letters)):
        if not _unseen(char) or char in _KEPT:
            yield char, start, end


def _unseen(char: str) -> bool:
    return char in _VARIATION or unicodedata.category(char) in _INVISIBLE


def _joins(char: str) -> bool:
    """Whether a character belongs to the one before it: marks, selectors, and letters of Hangul syllables."""
    return char in _VARIATION or _is_mark(char) or "\u1160" <= char <= "\u11ff"


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in {"Mn", "Mc", "Me"}


def _with_latin_words(told: Mapped) -> Mapped:
    """Words that mix scripts, or stand among Latin ones and are made of look-alikes only, in Latin letters."""
    latin = sum(char.isascii() and char.isalpha() for char in told.text)
    mostly_latin = latin * 2 > sum(char.isalpha() for char in told.text)
    chars = [each if (each := LETTERS.get(c)) and c not in SCRIPTS else c for c in told.text]
    for word in _WORD.finditer("".join(chars)):
        others = [c for c in word[0] if not c.isascii()]
        disguised = mostly_latin or len(others) < len(word[0])
        if others and disguised and all(c in SCRIPTS or _is_latin(c) for c in others):
            for index in range(*word.span()):
                chars[index] = LETTERS.get(chars[index], chars[index])
    return Mapped("".join(chars), told.starts, told.ends)


def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")


def _join_spaced(told: Mapped) -> Mapped:
    """``h a t e`` and ``h.a.t.e`` as one word."""
    if not (found := list(_SPACED.finditer(told.text))):
        return told
    dropped = {i for m in found for i in range(*m.span()) if not told.text[i].isalnum()}
    kept = [i for i in range(len(told.text)) if i not in dropped]
    return _mapped((told.text[i], told.starts[i], told.ends[i]) for i in kept)


def _replaced(told: Mapped, changes: Iterable[tuple[int, int, str]]) -> Mapped:
    """Stretches of ``told`` put differently; what replaces one comes from all of it."""
    pieces: list[tuple[str, int, int]] | None = None
    at = 0
    for start, end, text in changes:
        pieces = [] if pieces is None else pieces
        pieces.extend((told.text[i], told.starts[i], told.ends[i]) for i in range(at, start))
        first, last = told.original(start, end)
        pieces.extend((char, first, last) for char in text)
        at = end
    if pieces is None:
        return told
    pieces.extend((told.text[i], told.starts[i], told.ends[i]) for i in range(at, len(told.text)))
    return _mapped(pieces)


def _mapped(pieces: Iterable[tuple[str, int, int]]) -> Mapped:
    rows = list(pieces)
    return Mapped("".join(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))
