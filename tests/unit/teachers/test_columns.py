"""Sums in columns: the scratchpad leads to the answer, and without carries to the answer of who forgets them."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.teachers.alphabet import is_readable
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.columns import Careless, Columns, Sign

SEEDS = st.integers(0, 2**48)
SIGNS = get_args(Sign)


def _problem(sign: Sign, first: int, second: int) -> Problem:
    return Problem("", 0, f"{first}{sign}{second}", "", {"terms": [first, second]})


@pytest.mark.parametrize(
    ("sign", "first", "second", "pad"),
    [
        ("+", 127, 385, "2'1'5"),
        ("+", 999, 1, "0'0'0'1"),
        ("+", 12, 3, "51"),
        ("-", 512, 385, "7'2'1"),
        ("-", 100, 99, "1'0'0"),
        ("-", 7, 7, "0"),
        ("*", 127, 8, "6'5 1'2 0'1 1"),
        ("*", 47, 35, "5'3 3'2 2;0 1'2 4'1 1>5461"),
        ("*", 30, 0, "0 0"),
    ],
)
def test_the_columns_of_a_problem(sign: Sign, first: int, second: int, pad: str) -> None:
    assert Columns(sign).demonstrate(_problem(sign, first, second)) == pad


@given(st.sampled_from(SIGNS), st.data(), SEEDS)
def test_a_problem_is_right_readable_and_the_same_again(sign: Sign, data: st.DataObject, seed: int) -> None:
    task = Columns(sign)
    level = data.draw(st.integers(0, task.levels - 1))
    problem = task.generate(level, seed)
    first, second = map(int, re.split(r"[+*-]", problem.prompt))
    assert problem == task.generate(level, seed)
    assert int(problem.answer) == {"+": first + second, "-": first - second, "*": first * second}[sign] >= 0
    assert is_readable(problem.prompt + task.demonstrate(problem))
    assert task.verify(problem, f" {problem.answer}\n")
    for wrong in (f"0{problem.answer}", f"{problem.answer}.", f"+{problem.answer}", "", str(int(problem.answer) + 1)):
        assert not task.verify(problem, wrong)


@given(SEEDS)
def test_sums_and_differences_are_read_off_their_columns(seed: int) -> None:
    for task in (Columns("+"), Columns("-")):
        problem = task.generate(5, seed)
        assert (task.demonstrate(problem).replace("'", "")[::-1].lstrip("0") or "0") == problem.answer


@given(SEEDS)
def test_without_carries_nothing_is_carried(seed: int) -> None:
    task = Columns("+")
    problem = task.generate(3, seed)
    worked = task.without_carries(problem)
    columns = [
        sum(map(int, pair)) % 10 for pair in zip(*(f"{term:04}" for term in problem.facts["terms"]), strict=True)
    ]
    assert int(worked.answer) == int("".join(map(str, columns)))
    assert "'" not in worked.scratchpad
    assert (worked == (task.demonstrate(problem), problem.answer)) == ("'" not in task.demonstrate(problem))


def test_levels_have_terms_of_their_digits() -> None:
    lengths = {
        level: {len(str(term)) for seed in range(200) for term in Columns("+").generate(level, seed).facts["terms"]}
        for level in range(4)
    }
    assert lengths == {level: set(range(1, level + 2)) for level in range(4)}
    assert all(len(str(term)) == 2 for seed in range(50) for term in Columns("*").generate(4, seed).facts["terms"])


def test_a_careless_teacher_forgets_a_share_and_is_told_from_the_truth() -> None:
    task = Careless(Columns("+"), 0.6)
    problems = [task.generate(2, seed) for seed in range(2000)]
    forgotten = [problem for problem in problems if problem.facts["forgets"]]
    assert 0.56 < len(forgotten) / len(problems) < 0.64
    for problem in problems:
        truth = task.task.generate(2, problems.index(problem))
        assert problem.prompt == truth.prompt
        assert task.verify(problem, truth.answer)
        assert task.verify(problem, problem.answer) == (problem.answer == truth.answer)
        shown = task.demonstrate(problem).replace("'", "")[::-1].lstrip("0") or "0"
        assert shown == problem.answer
    assert any(problem.answer != str(sum(problem.facts["terms"])) for problem in forgotten)
    assert all(
        problem.answer == str(sum(problem.facts["terms"])) for problem in problems if not problem.facts["forgets"]
    )
