"""Pairs of answers of which somebody preferred one: split, and the baseline that what is learnt of them must beat.

A reward model that only likes long answers is common and worthless; so its accuracy always stands beside that of
preferring the longer one, on the same held-out pairs.
"""

import hashlib
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Meta, Struct

from prsm.teachers.curriculum import bounds
from prsm.teachers.tasks.held_out import is_held_out

_DEVIATIONS = 1.959963984540054
_LOG_HEAT = math.log(100)
_HALVINGS = 40


class Preference(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of two answers to a prompt, the one that ``who`` chose, and when (UTC, aware)."""

    prompt: str
    chosen: str
    rejected: str
    who: Annotated[str, Meta(min_length=1)]
    when: Annotated[datetime, Meta(tz=True)]

    def __post_init__(self) -> None:
        if self.chosen == self.rejected:
            raise ValueError("the two answers are the same")


class Compared(Protocol):
    """A prompt and two answers to it, of which somebody preferred the first."""

    @property
    def prompt(self) -> str: ...
    @property
    def chosen(self) -> str: ...
    @property
    def rejected(self) -> str: ...


P = TypeVar("P", bound=Compared)


class Split(NamedTuple, Generic[P]):
    """Pairs to learn from, and those that are kept."""

    train: list[P]
    held_out: list[P]


class Accuracy(NamedTuple):
    """How often the chosen answer was put first, a tie counting half, and between which shares the truth lies."""

    share: float
    low: float
    high: float
    pairs: int


class Validation(NamedTuple):
    """A reward model on held-out pairs, beside the baseline on the same.

    ``brier`` is the mean of (probability - outcome) squared over both orders of each pair, 0.25 a coin's; after
    ``calibrated`` as before, with the margins divided by ``temperature``. One half of the pairs says what that is, the
    figures are of the other one.
    """

    model: Accuracy
    longer: Accuracy
    brier: float
    calibrated: float
    temperature: float


class Bin(NamedTuple):
    """Pairs whose probability lay in one bin: the mean of it, and how often it came true."""

    predicted: float
    observed: float
    pairs: int


def split(pairs: Sequence[P]) -> Split[P]:
    """By the hash of the prompt (``tasks/held_out.py``), so that no prompt stands on both sides."""
    held = [is_held_out(pair.prompt) for pair in pairs]
    return Split(
        [pair for pair, kept in zip(pairs, held, strict=True) if not kept],
        [pair for pair, kept in zip(pairs, held, strict=True) if kept],
    )


def halves(pairs: Sequence[P]) -> Split[P]:
    """In two halves by the hash of the prompt, to learn from the one and validate on the other."""
    first = [pair for pair in pairs if _bit(pair.prompt, 0)]
    return Split(first, [pair for pair in pairs if not _bit(pair.prompt, 0)])


def validated(pairs: Sequence[Compared], chosen: Sequence[float], rejected: Sequence[float]) -> Validation:
    """What a reward model's rewards of the two answers of each pair are worth. Raises ValueError without a pair."""
    lengths = [float(len(pair.chosen) - len(pair.rejected)) for pair in pairs]
    margins = [ours - theirs for ours, theirs in zip(chosen, rejected, strict=True)]
    if not pairs or len(margins) != len(pairs):
        raise ValueError("one reward for each answer of each pair, and a pair at least")
    heat = temperature(pairs, chosen, rejected)
    told = [margin for pair, margin in zip(pairs, margins, strict=True) if not _bit(pair.prompt, 1)] or margins
    before, after = brier(_probabilities(told)), brier(_probabilities([margin / heat for margin in told]))
    return Validation(_accuracy(pairs, margins), _accuracy(pairs, lengths), before, after, heat)


def temperature(pairs: Sequence[Compared], chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """What rewards are to be divided by to be as sure as they are right (Guo et al. 2017, arXiv:1706.04599).

    The likeliest for the half of the pairs that ``validated`` does not judge by. One pair more that it puts last keeps
    it finite where a model puts all of them first. 1 where that half has no pair, or none that the rewards tell apart.
    """
    margins = [
        ours - theirs for pair, ours, theirs in zip(pairs, chosen, rejected, strict=True) if _bit(pair.prompt, 1)
    ]
    if not any(margins):
        return 1.0
    margins.append(-sum(map(abs, margins)) / len(margins))
    low, high = -_LOG_HEAT, _LOG_HEAT  # of the natural logarithm of what margins are multiplied by
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        # The slope of the negative log-likelihood, which is convex: negative where margins should count for more.
        likely = _probabilities([margin * math.exp(middle) for margin in margins])
        slope = -sum(margin * (1 - chance) for margin, chance in zip(margins, likely, strict=True))
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def preference_probabilities(chosen: Sequence[float], rejected: Sequence[float]) -> list[float]:
    """How likely the chosen answer was to be chosen (Bradley and Terry 1952): the logistic function of the margin."""
    return _probabilities([one - other for one, other in zip(chosen, rejected, strict=True)])


def brier(probabilities: Sequence[float]) -> float:
    """The mean squared error of the chosen answers' probabilities (Brier 1950); the other order gives the same."""
    return sum((1 - probability) ** 2 for probability in probabilities) / len(probabilities)


def reliability(probabilities: Sequence[float], bins: int = 10) -> list[Bin]:
    """Pairs by how sure the model was, from a coin's half to certainty: were it calibrated, both figures agree.

    Sureness is that of the answer it puts first, which came true where that is the chosen one. Empty bins are left out.
    """
    gathered: list[list[float]] = [[] for _ in range(bins)]
    for probability in probabilities:
        sure = max(probability, 1 - probability)
        gathered[min(int((sure - 0.5) * 2 * bins), bins - 1)].append(probability)
    return [
        Bin(sum(max(p, 1 - p) for p in each) / len(each), _right([p - 0.5 for p in each]), len(each))
        for each in gathered
        if each
    ]


def _probabilities(margins: Sequence[float]) -> list[float]:
    return [1 / (1 + math.exp(-max(-700.0, min(700.0, margin)))) for margin in margins]


def _bit(prompt: str, place: int) -> bool:
    """Independent of what is held out, and of other places."""
    return bool(hashlib.sha256(f"half/{prompt}".encode()).digest()[0] >> place & 1)


def _accuracy(pairs: Sequence[Compared], margins: Sequence[float]) -> Accuracy:
    """Pairs of one prompt are not independent: the bounds are those of as many answers as there are prompts."""
    share, prompts = _right(margins), len({pair.prompt for pair in pairs})
    return Accuracy(share, *bounds(share * prompts, prompts, _DEVIATIONS), len(margins))


def _right(margins: Sequence[float]) -> float:
    return sum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / len(margins)
