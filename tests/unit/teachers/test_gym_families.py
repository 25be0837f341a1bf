"""Families of reasoning-gym as tasks: the same again in any process, full scores only, and what is not offered."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("reasoning_gym", reason="the extra `train` is not installed")

from prsm.core.errors import ConfigError
from prsm.teachers.tasks.gym_families import NOT_OFFERED, gym_families, gym_family

SOME = ("basic_arithmetic", "caesar_cipher", "chain_sum", "family_relationships", "number_sorting", "pool_matrix")


@pytest.mark.parametrize("name", SOME)
def test_a_family_makes_and_verifies_its_problems(name: str) -> None:
    family = gym_family(name)
    for level in (0, family.levels - 1):
        problem = family.generate(level, 2**47 + 5)
        assert (problem.task, problem.level) == (name, level)
        assert problem == family.generate(level, 2**47 + 5) != family.generate(level, 6)
        assert family.verify(problem, f"\n {problem.answer} ")
        assert not family.verify(problem, "")
        assert not family.verify(problem, f"{problem.answer} or {problem.answer}0")
    with pytest.raises(ValueError, match="levels 0 to"):
        family.generate(family.levels, 0)


def test_a_part_of_a_score_is_not_right() -> None:
    family = gym_family("chain_sum")
    problem = family.generate(0, 1)
    assert not family.verify(problem, f"It is {problem.answer}")


def test_levels_that_a_family_refuses_itself_are_no_levels() -> None:
    assert gym_family("caesar_cipher").levels < 10
    assert gym_family("survo").generate(gym_family("survo").levels - 1, 1).prompt


def test_what_is_not_offered_is_named_with_its_reason() -> None:
    assert not set(gym_families()) & set(NOT_OFFERED)
    assert len(gym_families()) + len(NOT_OFFERED) == 102
    with pytest.raises(ConfigError, match="evaluates what is answered as code"):
        gym_family("countdown")
    with pytest.raises(ConfigError, match="no family nothing"):
        gym_family("nothing")


_MADE = """
import json, sys
from prsm.teachers.tasks.gym_families import gym_family
made = {}
for name in json.loads(sys.argv[1]):
    family = gym_family(name)
    made[name] = [family.generate(level, seed).prompt for level in (0, family.levels - 1) for seed in (3, 4, 5)]
sys.__stdout__.write("\\n" + json.dumps(made))
"""


def test_another_process_makes_the_same_problems() -> None:
    names = gym_families() if os.environ.get("PRSM_TEST_GYM_ALL") else list(SOME)
    made = [
        subprocess.run(
            [sys.executable, "-c", _MADE, json.dumps(names)],
            env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True,
        ).stdout.rpartition("\n")[2]
        for seed in ("1", "2")
    ]  # fmt: skip
    first, second = map(json.loads, made)
    assert [name for name in names if first[name] != second[name]] == []
