"""Stretches of a text that were encoded are decoded here, to be looked at as well: base64, hex, percent signs, rot13.

Pure and bounded: so many stretches, so many characters, and stretches within stretches only to a small depth.
"""

import base64
import binascii
import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

MAX_STRETCHES: Final = 16
MAX_CHARS: Final = 16_384
"""Decoded characters of one text, all stretches together; what is beyond is cut: its encoded form stays visible."""
MAX_DEPTH: Final = 2

_BASE64: Final = re.compile(
    r"(?<![\w+/=-])(?:[A-Za-z0-9+/_-]{4}[\r\n]{0,2}){4,}(?:[A-Za-z0-9+/_-]{2,3}={0,2})?(?![\w+/-])"
)
_HEX: Final = re.compile(r"(?<!\w)(?:0x)?(?:[0-9a-fA-F]{2}[ :]?){12,}(?!\w)")
# A run is tried from its beginning only, and once: from each of its characters would take the square of its length.
_PERCENT: Final = re.compile(r"(?<![\w.~+-])(?:[\w.~+-]*+%[0-9A-Fa-f]{2}){3,}[\w.~%+-]*")
_COMMON: Final = re.compile(
    r"\b(?:the|and|to|of|you|a|in|is|that|for|it|on|are|with|this|be|as|have|not|your|or|all|can|me|my|what|how|do|i"
    r"|kill|make|people|we|from|they|will|say|write|ignore|instructions|tell)\b"
)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A decoded stretch: what it says, and where in the original text it stood."""

    text: str
    start: int
    end: int


def hidden(text: str) -> tuple[Hidden, ...]:
    """All that ``text`` hides, in order of depth, within the limits of this module."""
    found: list[Hidden] = []
    room = MAX_CHARS
    waiting = [Hidden(text, 0, len(text))]
    for depth in range(MAX_DEPTH):
        deeper: list[Hidden] = []
        for each in waiting:
            for start, end, said in _decoded(each.text):
                if len(found) == MAX_STRETCHES or room <= 0:
                    return tuple(found)
                place = (start, end) if depth == 0 else (each.start, each.end)
                deeper.append(Hidden(said[:room], *place))
                found.append(deeper[-1])
                room -= len(said)
        waiting = deeper
    return tuple(found)


def _decoded(text: str) -> Iterator[tuple[int, int, str]]:
    ways = ((_BASE64, _from_base64), (_HEX, _from_hex), (_PERCENT, unquote))
    for pattern, decode in ways:
        for match in pattern.finditer(text):
            said = decode(match[0])
            if said and said != match[0] and _readable(said):
                yield match.start(), match.end(), said
    turned = codecs.decode(text, "rot13")
    if _common(turned) >= 3 and _common(turned) > 2 * _common(text):
        yield 0, len(text), turned


def _from_base64(stretch: str) -> str:
    packed = stretch.replace("\n", "").replace("\r", "").replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _from_hex(stretch: str) -> str:
    try:
        return bytes.fromhex(stretch.removeprefix("0x").replace(":", " ")).decode()
    except ValueError:
        return ""


def _readable(text: str) -> bool:
    """Whether decoded bytes look like something written for a reader: mostly letters and spaces."""
    plain = sum(char.isalpha() or char in " .,!?'\n" for char in text)
    return len(text) >= 8 and plain >= 0.8 * len(text) and text.isprintable() | ("\n" in text)


def _common(text: str) -> int:
    """How many of its words are among the commonest of English."""
    return sum(1 for _ in _COMMON.finditer(text[:MAX_CHARS].lower()))
