"""The families of reasoning-gym that have curricula, as tasks (extra ``train``, imported where it is first needed).

A level sets every attribute of a family's curriculum to its own level, or to its last. A problem is known by its level
and seed alone and is made again where it is verified, so that what was stored needs nothing of the library's objects.
Only a full score is right: the library gives parts of a score, and those can be gamed (an answer among many words).
"""

import itertools
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from msgspec import Struct

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Problem

NOT_OFFERED: Final = {
    **dict.fromkeys(
        (
            "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication",
            "puzzle24", "simple_integration", "spiral_matrix", "string_insertion",
        ),
        "its scorer evaluates what is answered as code",
    ),
    **dict.fromkeys(
        ("codeio", "isomorphic_strings", "ransom_note", "word_ladder"),
        "of one seed another process makes another problem",
    ),
    "knight_swap": "the library refuses its lowest level itself",
    **dict.fromkeys(("jugs", "sokoban", "zebra_puzzles"), "a problem of its highest level takes seconds to make"),
}  # fmt: skip
"""Families with a curriculum that are no tasks here, and why."""

_SEEDS: Final = 2**32
"""More, and a family that draws with numpy refuses."""


class GymFamily(Struct, frozen=True):
    """One family by its name in the library, at as many levels as its longest attribute has and it accepts."""

    name: str
    levels: int

    def generate(self, level: int, seed: int) -> Problem:
        """The problem of this seed; its answer is empty where the family names none. ValueError for another level."""
        entry = _made(self.name, self._checked(level), seed)
        return Problem(self.name, level, entry["question"], entry["answer"] or "", {"seed": seed})

    def verify(self, problem: Problem, answer: str) -> bool:
        """Whether the family's own scorer gives the full score, white space around the answer aside."""
        seed = int(problem.facts["seed"])
        entry = _made(self.name, self._checked(problem.level), seed)
        return float(_family(self.name, problem.level, seed).score_answer(answer.strip(), entry)) >= 1

    def _checked(self, level: int) -> int:
        if not 0 <= level < self.levels:
            raise ValueError(f"{self.name} has levels 0 to {self.levels - 1}")
        return level


def gym_families() -> list[str]:
    """The names of all that are offered. Raises ConfigError where the library is not installed."""
    return sorted(set(_library().CURRICULA) - set(NOT_OFFERED))


def gym_family(name: str) -> GymFamily:
    """The family of this name. Raises ConfigError for one that is not offered, or where the library is missing."""
    if name in NOT_OFFERED:
        raise ConfigError(f"The family {name} is not offered: {NOT_OFFERED[name]}.", param="task")
    if name not in _library().CURRICULA:
        raise ConfigError(f"reasoning-gym has no family {name} with a curriculum.", param="task")
    attributes: dict[str, Any] = _library().create_curriculum(name).attributes
    named = max((len(attribute.levels) for attribute in attributes.values()), default=1)
    levels = sum(1 for _ in itertools.takewhile(lambda level: _is_allowed(name, level), range(named)))
    return GymFamily(name, levels)


def _library() -> ModuleType:
    """The library, which takes a second to import and may not be there."""
    try:
        return import_module("reasoning_gym.factory")
    except ImportError as error:
        raise ConfigError(
            "reasoning-gym is not installed.", remedy="Install the extra `train`.", param="task"
        ) from error


@lru_cache(maxsize=4096)
def _made(name: str, level: int, seed: int) -> dict[str, Any]:
    """The library's entry; nobody changes it."""
    return _family(name, level, seed)[0]


def _is_allowed(name: str, level: int) -> bool:
    """Some curricula name levels that their own family refuses."""
    validate = getattr(_configuration(name, level, 0), "validate", None)
    try:
        if validate:
            validate()
    except AssertionError:
        return False
    return True


def _family(name: str, level: int, seed: int) -> Any:
    return _library().DATASETS[name][0](config=_configuration(name, level, seed))


def _configuration(name: str, level: int, seed: int) -> Any:
    library = _library()
    curriculum = library.create_curriculum(name)
    for attribute in curriculum.attributes.values():
        curriculum.set_attr_level(attribute.name, min(level, len(attribute.levels) - 1))
    return curriculum.generate_configuration(defaults={"seed": seed % _SEEDS, "size": 1})
