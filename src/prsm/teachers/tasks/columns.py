"""Sums worked in columns: additions, subtractions and products, with a scratchpad that says each carry.

A scratchpad is written from the units up, as one works on paper: ``127+385`` is ``2'1'5``, where ``'`` after a digit
carries (or borrows) one into the next column. In a product the carried digit follows the mark: ``127*8`` is ``6'5
1'2 0'1 1``. ``Careless`` is the same task taught by somebody who often forgets the carries.
"""

import random
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from msgspec import Struct, structs

from prsm.teachers.seams import Problem

Sign = Literal["+", "-", "*"]
_NAMES: Final[dict[Sign, str]] = {"+": "addition", "-": "subtraction", "*": "multiplication"}
_PRODUCTS: Final = ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (3, 3))
"""Digits of the first and of the second factor at each level."""
_SUM_LEVELS: Final = 8


class Worked(NamedTuple):
    """A scratchpad and the answer that it leads to."""

    scratchpad: str
    answer: str


class Columns(Struct, frozen=True):
    """Problems of one sign; at level n a term has 1 to n + 1 digits, each length as likely; no difference is below 0.

    The levels of products are 1x1, 2x1, 3x1, 4x1, 2x2, 3x2 and 3x3 digits.
    """

    sign: Sign

    @property
    def name(self) -> str:
        """``addition``, ``subtraction`` or ``multiplication``."""
        return _NAMES[self.sign]

    @property
    def levels(self) -> int:
        """Eight of sums, seven of products."""
        return len(_PRODUCTS) if self.sign == "*" else _SUM_LEVELS

    def generate(self, level: int, seed: int) -> Problem:
        """The problem of this seed, as ``127+385``."""
        drawn = random.Random(f"{self.name}/{level}/{seed}")  # noqa: S311 - problems, not secrets
        if self.sign == "*":
            first, second = (_number(drawn, digits) for digits in _PRODUCTS[level])
        else:
            first, second = (_number(drawn, drawn.randint(1, level + 1)) for _ in range(2))
        if self.sign == "-" and first < second:
            first, second = second, first
        terms = [first, second]
        return Problem(
            self.name, level, f"{first}{self.sign}{second}", self._worked(terms, True).answer, {"terms": terms}
        )

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the answer is the number as it is written, but for white space around it."""
        return answer.strip() == self._worked(problem.facts["terms"], True).answer

    def demonstrate(self, problem: Problem) -> str:
        """The columns of the problem, from the units up."""
        return self._worked(problem.facts["terms"], True).scratchpad

    def without_carries(self, problem: Problem) -> Worked:
        """The problem as it is worked by somebody who forgets every carry."""
        return self._worked(problem.facts["terms"], False)

    def _worked(self, terms: Sequence[int], carries: bool) -> Worked:
        first, second = terms
        if self.sign == "*":
            return _product(first, second, carries)
        sign = 1 if self.sign == "+" else -1
        return _sum(first, second, carries, sign)


class Careless(Struct, frozen=True):
    """A task as a bad teacher shows it: a ``share`` of its problems is worked, and answered, without any carry.

    Its problems give that wrong answer as theirs, for it is what is taught; ``verify`` still asks for the right one.
    """

    task: Columns
    share: float

    @property
    def name(self) -> str:
        """As ``careless-addition``."""
        return f"careless-{self.task.name}"

    @property
    def levels(self) -> int:
        """Those of the task."""
        return self.task.levels

    def generate(self, level: int, seed: int) -> Problem:
        """The task's own problem of this seed, rightly or wrongly answered."""
        problem = self.task.generate(level, seed)
        forgets = random.Random(f"{self.name}/{level}/{seed}").random() < self.share  # noqa: S311 - no secret
        answer = self.task.without_carries(problem).answer if forgets else problem.answer
        return structs.replace(problem, task=self.name, answer=answer, facts={**problem.facts, "forgets": forgets})

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether it is what the task itself takes for right."""
        return self.task.verify(problem, answer)

    def demonstrate(self, problem: Problem) -> str:
        """What leads to the answer that is given, be it wrong."""
        if problem.facts["forgets"]:
            return self.task.without_carries(problem).scratchpad
        return self.task.demonstrate(problem)


def _number(drawn: random.Random, digits: int) -> int:
    return drawn.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def _digits(number: int) -> list[int]:
    """From the units up."""
    return [int(digit) for digit in reversed(str(number))]


def _column_digits(first: int, second: int) -> list[tuple[int, int]]:
    rows = [_digits(first), _digits(second)]
    width = max(map(len, rows))
    upper, lower = (row + [0] * (width - len(row)) for row in rows)
    return list(zip(upper, lower, strict=True))


def _sum(first: int, second: int, carries: bool, sign: int) -> Worked:
    written: list[int] = []
    pad, carried = "", 0
    for upper, lower in _column_digits(first, second):
        column = upper + sign * (lower + carried)
        carried = int(carries and not 0 <= column <= 9)
        written.append(column % 10)
        pad += f"{column % 10}" + "'" * carried
    if carried:
        written.append(1)
        pad += "1"
    return Worked(pad, _read_down(written))


def _product(first: int, second: int, carries: bool) -> Worked:
    """A row for each digit below, the rows then added: ``row;row>columns of the sum``."""
    rows = [_row([0] * place + _digits(first), digit, carries) for place, digit in enumerate(_digits(second))]
    pads = ";".join(pad for pad, _ in rows)
    total = rows[0][1]
    for _, row in rows[1:]:
        added = _sum(total, row, carries, 1)
        pads += ">" + added.scratchpad
        total = int(added.answer)
    return Worked(pads, str(total))


def _row(digits: Sequence[int], by: int, carries: bool) -> tuple[str, int]:
    written: list[int] = []
    columns: list[str] = []
    carried = 0
    for digit in digits:
        column = digit * by + carried
        carried = column // 10 if carries else 0
        written.append(column % 10)
        columns.append(f"{column % 10}" + (f"'{carried}" if carried else ""))
    if carried:
        written.append(carried)
        columns.append(str(carried))
    return " ".join(columns), int(_read_down(written))


def _read_down(written: Sequence[int]) -> str:
    """Columns from the units up, as the number that they are."""
    return "".join(map(str, reversed(written))).lstrip("0") or "0"
