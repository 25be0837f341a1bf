"""What the room of safety asks of detectors and tells of texts: categories, findings, and how sure they are.

Pure values. What to do about a finding is a policy's business and stands nowhere here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from prsm.core.errors import Kind, PrsmError


class Category(StrEnum):
    """What a text may be about. ``BANNED`` is what must never pass: an operator's hashes and patterns."""

    HATE = "hate"
    HARASSMENT = "harassment"
    SEXUAL = "sexual"
    SEXUAL_MINORS = "sexual/minors"
    VIOLENCE = "violence"
    SELF_HARM = "self-harm"
    ILLICIT = "illicit"
    JAILBREAK = "jailbreak"
    BIAS = "bias"
    PERSONAL_DATA = "personal-data"
    SECRETS = "secrets"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (half open) of the text as it was given; ``kind`` such as ``email``."""

    category: Category
    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found in one text: calibrated probabilities by category, and where spans could be told.

    A category without a score was not looked at. ``rules`` names the rules that matched.
    """

    scores: Mapping[Category, float] = field(default_factory=dict[Category, float])
    spans: tuple[Span, ...] = ()
    rules: tuple[str, ...] = ()


class Detector(Protocol):
    """Looks at texts. ``name`` carries a version, stands in receipts and changes with the detector's behaviour."""

    name: str
    categories: frozenset[Category]

    def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """One assessment a text, in order. Runs in a thread, may be called by several at once, changes nothing."""
        ...


class DetectorAway(PrsmError):
    """A detector failed, took too long or is overloaded: what it should have looked at is not let through."""

    kind = Kind.UNAVAILABLE
    code = "screening_unavailable"
