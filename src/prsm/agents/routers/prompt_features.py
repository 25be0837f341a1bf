"""What can be counted in a prompt's text: shape, digits, formulas, code, answer options, and which words it has.

Cheap and pure: only the first MAX_CHARS characters are read, and every count is bounded by them.
"""

import re
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

MAX_CHARS: Final = 4_096
"""Characters read of one prompt."""
WORD_BUCKETS: Final = 1_024

_WORD = re.compile(r"[a-z]+|\d|[^\w\s]")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_CODE = re.compile(r"[{};]|==|\bdef |\breturn\b|print\(")
_NEGATION = re.compile(r"\b(?:not|except|least|false|incorrect)\b")
_OPTION = re.compile(r"^[a-j][.)] ?(.*)$", re.MULTILINE)
_NUMERIC_OPTION = re.compile(r"[-$(\s]*[\d.,/]+")
_COMPOUND_OPTION = re.compile(r"all of|none of|both |neither|i and|i, ii|ii only")
_CLASSES = ("0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", ",;:()", "+-*/=<>^%|", "$\\^_")


def _class_table() -> npt.NDArray[np.uint8]:
    """One bit per class of _CLASSES for each byte: "^" is both arithmetic and LaTeX."""
    table = np.zeros(256, np.uint8)
    for place, members in enumerate(_CLASSES):
        table[list(members.encode())] |= 1 << place
    return table


_CLASS_BITS: Final = _class_table()
_CLASSES_OF_BITS: Final = np.arange(1 << len(_CLASSES))[:, None] >> np.arange(len(_CLASSES)) & 1
COUNTED: Final = (
    "characters", "words", "word_length", "lines", "longest_line", "sentences", "numbers", "latex",
    "digit_share", "upper_share", "punctuation_share", "arithmetic_share",
    "code", "question_mark", "blank", "negation", "statements", "which_of", "quotes",
    "options", "option_length", "option_spread", "numeric_options", "compound_option", "stem_length",
)  # fmt: skip
"""Names of what ``count`` gives, in its order; lengths and counts are log(1 + n)."""


def count(text: str) -> npt.NDArray[np.float32]:
    """One number per name in COUNTED."""
    text = text[:MAX_CHARS]
    size = max(len(text), 1)
    words = text.split()
    lines = text.split("\n")
    kinds = _CLASS_BITS[np.frombuffer(text.encode("utf-8", "replace"), np.uint8)]
    found = np.bincount(kinds, minlength=len(_CLASSES_OF_BITS)) @ _CLASSES_OF_BITS
    digits, upper, punctuation, arithmetic, latex = found.tolist()
    logs = np.log1p(
        [len(text), len(words), sum(map(len, words)) / max(len(words), 1), len(lines), max(map(len, lines)),
         len(_SENTENCE_END.findall(text)), len(_NUMBER.findall(text)), latex]
    )  # fmt: skip
    shares = [digits / size, upper / size, punctuation / size, arithmetic / size]
    lower = text.lower()
    return np.array([*logs, *shares, *_marks(text, lower), *_options(lower)], np.float32)


def words(text: str) -> npt.NDArray[np.intp]:
    """Which of WORD_BUCKETS the words, digits and signs of ``text`` fall into (CRC-32), each once, in order."""
    tokens = set(_WORD.findall(text[:MAX_CHARS].lower()))
    return np.array(sorted({zlib.crc32(token.encode("utf-8", "replace")) % WORD_BUCKETS for token in tokens}), np.intp)


def _marks(text: str, lower: str) -> list[float]:
    found = (
        _CODE.search(text), "?" in text, "___" in text, _NEGATION.search(lower),
        "Statement" in text or "Scenario" in text, "which of the following" in lower, '"' in text or "“" in text,
    )  # fmt: skip
    return [float(bool(mark)) for mark in found]


def _options(lower: str) -> list[float]:
    """Answer options in lines of their own: number, length, spread, figures, "all of the above"; length of the rest."""
    options = _OPTION.findall(lower)
    if not options:
        return [0.0, 0.0, 0.0, 0.0, 0.0, float(np.log1p(len(lower)))]
    lengths = np.array([len(option) for option in options])
    numeric = sum(1 for option in options if _NUMERIC_OPTION.match(option)) / len(options)
    compound = any(_COMPOUND_OPTION.search(option) for option in options)
    logs = np.log1p([lengths.mean(), lengths.std(), len(lower) - lengths.sum()])
    return [float(len(options)), float(logs[0]), float(logs[1]), numeric, float(compound), float(logs[2])]
