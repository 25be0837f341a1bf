"""Questions about letters and numerals: right, readable, the same again, and of the forms that their teachers know."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.alphabet import is_readable
from prsm.teachers.seams import Demonstrated
from prsm.teachers.tasks import letters, numerals
from prsm.teachers.tasks.letters import Letters
from prsm.teachers.tasks.numerals import Numerals

TASKS: tuple[Demonstrated, ...] = (
    *map(Letters, get_args(letters.Asked)),
    *map(Numerals, get_args(numerals.Asked)),
)
SIGNS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def value(said: str) -> int:
    """A Roman number, each sign taken away where a larger one follows."""
    values = [SIGNS[sign] for sign in said]
    return sum(-this if this < max(values[at:]) else this for at, this in enumerate(values))


def expected(prompt: str) -> str:
    """The answer, found in another way than the tasks find it."""
    words = prompt.rstrip("?.").split()
    match words:
        case ["Spell", word, "backwards"]:
            return "".join(reversed(word))
        case ["How", "many", "times", "is", letter, "in", word]:
            return str(len(word.split(letter)) - 1)
        case ["Which", "letter", "of", word, "is", "number", place]:
            return (dict(enumerate(word, 1))).get(int(place), "none")
        case ["Write", number, "in", "binary"]:
            return bin(int(number))[2:]
        case ["Write", number, "in", "Roman", "numerals"]:
            return next(said for n in range(1, 4000) if value(said := numerals.roman(n)) == int(number))
        case ["What", "number", "is", said]:
            return str(value(said))
        case ["Sort", *numbers]:
            return ", ".join(sorted((number.rstrip(",") for number in numbers), key=int))
        case ["What", "is", dividend, "/", divisor]:
            whole = int(dividend) // int(divisor)
            rest = int(dividend) - whole * int(divisor)
            return f"{whole} remainder {rest}" if rest else f"{whole}"
        case _:
            raise AssertionError(prompt)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@given(st.data(), st.integers(0, 2**48))
def test_a_problem_is_right_readable_and_the_same_again(task: Demonstrated, data: st.DataObject, seed: int) -> None:
    level = data.draw(st.integers(0, task.levels - 1))
    problem = task.generate(level, seed)
    assert problem == task.generate(level, seed)
    assert problem.answer == expected(problem.prompt)
    assert is_readable(problem.prompt + task.demonstrate(problem) + problem.answer)
    assert task.verify(problem, f" {problem.answer}\n")
    for wrong in (f"{problem.answer}.", f"0{problem.answer}", problem.answer[:-1], ""):
        assert not task.verify(problem, wrong)


@pytest.mark.parametrize("number", [1, 4, 9, 14, 40, 49, 90, 400, 444, 900, 1994, 3999])
def test_roman_numbers_are_written_as_usual(number: int) -> None:
    assert value(numerals.roman(number)) == number
    assert not any(sign * 4 in numerals.roman(number) for sign in SIGNS)


@pytest.mark.parametrize(
    ("task", "prompt", "pad"),
    [
        ("letter-count", "How many times is e in elephant?", "e1le2phant"),
        ("letter-place", "Which letter of elephant is number 3?", "1e2l3e"),
        ("reversal", "Spell elephant backwards.", ""),
        ("binary", "Write 37 in binary.", "37:1 18:0 9:1 4:0 2:0 1:1"),
        ("division", "What is 1234 / 7?", "1>0'1 12>1'5 53>7'4 44>6'2"),
    ],
)
def test_what_is_worked_on_the_way(task: str, prompt: str, pad: str) -> None:
    facts = {
        "letter-count": {"word": "elephant", "letter": "e"},
        "letter-place": {"word": "elephant", "place": 3},
        "reversal": {"word": "elephant"},
        "binary": {"numbers": [37]},
        "division": {"numbers": [1234, 7]},
    }
    found = next(each for each in TASKS if each.name == task)
    problem = found.generate(0, 0)
    assert found.demonstrate(type(problem)(task, 0, prompt, "", facts[task])) == pad
