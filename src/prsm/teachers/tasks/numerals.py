"""Questions about numbers as they are written: binary, Roman, put in order, divided.

A scratchpad is what one writes on paper: ``37:1 18:0 9:1 4:0 2:0 1:1`` halves a number and keeps what is left over,
``12>1'5 53>7'4`` divides from the left by 7 and brings down the next digit.
"""

import random
from typing import Final, Literal

from msgspec import Struct

from prsm.teachers.seams import Problem

Asked = Literal["binary", "roman", "roman-value", "number-order", "division"]
_ROMAN_TO: Final = (20, 100, 1000, 3999)
_ORDERED: Final = ((2, 2), (3, 2), (4, 3), (5, 3))
"""At most so many numbers, of at most so many digits."""
_DIVIDENDS: Final = (2, 3, 4, 6)
_LEVELS: Final = 4
_SIGNS: Final = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),
    (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


class Numerals(Struct, frozen=True):
    """Problems of one kind at four levels.

    Binary: numbers of up to 1, 2, 3 and 4 digits. Roman, both ways: up to 20, 100, 1,000 and 3,999. Order: up to 2 and
    3 numbers of two digits, 4 and 5 of three. Division: up to 2, 3, 4 and 6 digits by 2 to 12, with the remainder.
    """

    name: Asked

    @property
    def levels(self) -> int:
        """Four."""
        return _LEVELS

    def generate(self, level: int, seed: int) -> Problem:
        """The problem of this seed, as ``Write 37 in binary.``"""
        drawn = random.Random(f"{self.name}/{level}/{seed}")  # noqa: S311 - problems, not secrets
        match self.name:
            case "binary":
                number = _number(drawn, level + 1)
                prompt, answer, numbers = f"Write {number} in binary.", f"{number:b}", [number]
            case "roman" | "roman-value":
                number = drawn.randint(1, _ROMAN_TO[level])
                said, numbers = roman(number), [number]
                if self.name == "roman":
                    prompt, answer = f"Write {number} in Roman numerals.", said
                else:
                    prompt, answer = f"What number is {said}?", str(number)
            case "number-order":
                count, digits = _ORDERED[level]
                numbers = [_number(drawn, digits) for _ in range(drawn.randint(2, count))]
                prompt = f"Sort {', '.join(map(str, numbers))}."
                answer = ", ".join(map(str, sorted(numbers)))
            case "division":
                numbers = [_number(drawn, _DIVIDENDS[level]), drawn.randint(2, 12)]
                whole, rest = divmod(*numbers)
                prompt = f"What is {numbers[0]} / {numbers[1]}?"
                answer = f"{whole} remainder {rest}" if rest else str(whole)
        return Problem(self.name, level, prompt, answer, {"numbers": numbers})

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether it is the answer, but for white space around it."""
        return answer.strip() == problem.answer

    def demonstrate(self, problem: Problem) -> str:
        """The halves or the digits brought down; empty where nothing is worked."""
        numbers: list[int] = problem.facts["numbers"]
        if self.name == "binary":
            return " ".join(f"{half}:{half % 2}" for half in _halves(numbers[0]))
        return _divided(*numbers) if self.name == "division" else ""


def roman(number: int) -> str:
    """A number from 1 to 3,999 in Roman numerals."""
    said = ""
    for value, sign in _SIGNS:
        said += sign * (number // value)
        number %= value
    return said


def _number(drawn: random.Random, digits: int) -> int:
    """Above 0, each length as likely."""
    length = drawn.randint(1, digits)
    return drawn.randrange(10 ** (length - 1), 10**length)


def _halves(number: int) -> list[int]:
    halves = [number]
    while halves[-1] > 1:
        halves.append(halves[-1] // 2)
    return halves


def _divided(dividend: int, divisor: int) -> str:
    steps: list[str] = []
    rest = 0
    for digit in str(dividend):
        brought = 10 * rest + int(digit)
        whole, rest = divmod(brought, divisor)
        steps.append(f"{brought}>{whole}'{rest}")
    return " ".join(steps)
