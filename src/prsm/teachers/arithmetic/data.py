"""The families and levels the teacher is trained and examined on, drawn from reasoning-gym (extra ``train``).

Which of its prompts are kept from training is decided by their hash (``tasks/held_out.py``), never by a seed.
``flat`` is this module's own family: sums and products of numbers of unlike length, as people type them.
"""

# reasoning-gym is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import reasoning_gym

from prsm.teachers.arithmetic.phrasing import Problem, read

_BATCH = 256
_DECIMAL_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Level:
    """One family at one difficulty; ``config`` goes to reasoning-gym as it is, ``weight`` is its share in training."""

    family: str
    name: str
    config: tuple[tuple[str, Any], ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer, in the teacher's range."""

    question: str
    answer: str
    problem: Problem


def _sized(low_terms: int, terms: int, low_digits: int, digits: int, **more: Any) -> tuple[tuple[str, Any], ...]:
    sizes = {"min_terms": low_terms, "max_terms": terms, "min_digits": low_digits, "max_digits": digits}
    return tuple((sizes | more).items())


def _decimal(terms: int, digits: int, places: int) -> tuple[tuple[str, Any], ...]:
    return _sized(2, terms, 1, digits, min_decimal_places=1, max_decimal_places=places)


def _animals(low: int, high: int) -> tuple[tuple[str, Any], ...]:
    return (("min_animals", low), ("max_animals", high), ("min_instances", 1), ("max_instances", 15))


_NO_DIVISION = ("+", "-", "*")

LEVELS: tuple[Level, ...] = (
    Level("chain_sum", "easy", _sized(2, 2, 1, 2), 0.5),
    Level("chain_sum", "medium", _sized(2, 4, 1, 3), 1.0),
    Level("chain_sum", "hard", _sized(4, 6, 4, 5), 1.0),
    Level("chain_sum", "negative", _sized(2, 4, 1, 4, allow_negation=True), 1.0),
    Level("decimal_chain_sum", "easy", _decimal(2, 1, 1), 0.3),
    Level("decimal_chain_sum", "medium", _decimal(3, 2, 2), 0.6),
    Level("decimal_chain_sum", "hard", _decimal(5, 3, 2), 0.6),
    Level("products", "easy", _sized(2, 2, 1, 1), 0.1),
    Level("products", "medium", _sized(2, 2, 2, 2), 1.0),
    Level("products", "hard", _sized(2, 2, 3, 3), 1.5),
    Level("products", "negative", _sized(2, 2, 1, 3, allow_negation=True), 0.8),
    Level("basic_arithmetic", "easy", _sized(2, 2, 1, 2, operators=_NO_DIVISION), 0.6),
    Level("basic_arithmetic", "medium", _sized(3, 3, 1, 2, operators=_NO_DIVISION), 0.6),
    Level("basic_arithmetic", "hard", _sized(4, 4, 1, 2, operators=_NO_DIVISION), 0.6),
    Level("leg_counting", "easy", _animals(1, 2), 0.4),
    Level("leg_counting", "medium", _animals(3, 4), 0.6),
    Level("leg_counting", "hard", _animals(5, 6), 0.6),
    Level("gcd", "easy", (("max_value", 99),), 0.7),
    Level("gcd", "hard", (("max_value", 999),), 1.2),
    Level("flat", "unlike lengths", (), 2.0),
)


def items(level: Level, seed: int) -> Iterator[Item]:
    """Endless questions of one level that the teacher's ranges admit, from ``seed`` on."""
    rng = random.Random(f"{level.family}/{level.name}/{seed}")  # noqa: S311 - draws questions, guards nothing
    while True:
        batch = _flat(rng) if level.family == "flat" else _gym(level, rng.randrange(2**31))
        for question, answer in batch:
            problem = read(question)
            if problem is not None:
                yield Item(question, answer, problem)


def _gym(level: Level, seed: int) -> Iterator[tuple[str, str]]:
    dataset = reasoning_gym.create_dataset(level.family, seed=seed, size=_BATCH, **dict(level.config))
    for entry in dataset:
        yield entry["question"], entry["answer"]


def _flat(rng: random.Random) -> Iterator[tuple[str, str]]:
    for _ in range(_BATCH):
        yield _flat_decimal(rng) if rng.random() < _DECIMAL_SHARE else _flat_whole(rng)


def _flat_whole(rng: random.Random) -> tuple[str, str]:
    terms = rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 6))
    parts: list[str] = []
    total = 0
    for index in range(terms):
        is_product = terms == 1 or rng.random() < 0.2
        value, text = _number(rng, 3 if is_product else 5)
        if is_product:
            factor, factor_text = _number(rng, 3)
            value, text = value * factor, f"{text} * {factor_text}"
        sign = rng.choice("+-")
        total += value if sign == "+" or not index else -value
        parts += [sign] * bool(index) + [text]
    return " ".join(parts), str(total)


def _flat_decimal(rng: random.Random) -> tuple[str, str]:
    places = rng.randint(1, 2)
    parts: list[str] = []
    total = Decimal(0)
    for index in range(rng.choice((2, 2, 3, 4, 5, 6))):
        value = Decimal(_number(rng, 3 + places)[0]).scaleb(-places)
        sign = rng.choice("+-")
        total += value if sign == "+" or not index else -value
        parts += [sign] * bool(index) + [f"{value:.{places}f}"]
    return " ".join(parts), f"{total:.{places}f}"


def _number(rng: random.Random, max_digits: int) -> tuple[int, str]:
    digits = rng.randint(1, max_digits)
    value = rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1)
    if rng.random() < 0.15:
        value = -value
    return value, str(value)
