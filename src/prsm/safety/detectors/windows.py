"""Long texts are read whole, in overlapping windows; a text beyond the limit is refused, never read in part.

Pure. Positions are of tokens; what a token is, the encoder says.
"""

from dataclasses import dataclass
from typing import Final

from prsm.core.errors import Kind, PrsmError

WINDOW_TOKENS: Final = 254
"""Tokens of one window: what the encoder reads besides its two markers."""
OVERLAP_TOKENS: Final = 24
"""Tokens that two neighbours share: a sentence of up to so many stands whole in one of them."""
MAX_CHARS: Final = 200_000
"""Characters of one text: of English some 45,000 tokens, which take a core some seven seconds."""


class TextTooLong(PrsmError):
    """A text that no detector reads whole, and that is therefore not let through."""

    kind = Kind.TOO_LARGE
    code = "text_too_long_to_screen"


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens ``start`` to ``end`` (half open)."""

    start: int
    end: int


def windows(tokens: int, size: int = WINDOW_TOKENS, overlap: int = OVERLAP_TOKENS) -> tuple[Window, ...]:
    """Windows that cover all of ``tokens``, each of ``size`` but the last; no tokens are one empty window."""
    if not 0 <= overlap < size:
        raise ValueError("windows overlap by less than their size")
    found = [Window(0, min(size, tokens))]
    while found[-1].end < tokens:
        start = found[-1].end - overlap
        found.append(Window(start, min(start + size, tokens)))
    return tuple(found)


def refuse_too_long(text: str) -> None:
    """Raises TextTooLong for a text beyond ``MAX_CHARS``."""
    if len(text) > MAX_CHARS:
        raise TextTooLong(
            f"A text of {len(text):,} characters cannot be screened; the limit is {MAX_CHARS:,}.",
            remedy="Send it in parts.",
        )
