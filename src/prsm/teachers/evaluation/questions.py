"""From a plan to the questions it asks: held-out prompts of tasks and rows of files, each once, always the same."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.outcomes import prompt_digest
from prsm.teachers.evaluation.plan import FilePart, Plan, TaskPart
from prsm.teachers.evaluation.rules import RULES, Verify, read_file
from prsm.teachers.seams import Problem, Task
from prsm.teachers.tasks.held_out import HELD_OUT_MODULUS, is_held_out

Find = Callable[[str], Task]
"""The task of a name; raises ConfigError where there is none."""
_DRAWS_A_PROMPT: Final = 10 * HELD_OUT_MODULUS
"""So many seeds are tried for each prompt wanted, then a level is taken to have no more."""


@dataclass(frozen=True, slots=True)
class Question:
    """A problem under its part's name, the SHA-256 of its prompt, and how answers are checked (of safety, all said)."""

    task: str
    problem: Problem
    digest: str
    verify: Verify
    is_safety: bool = False


def questions(plan: Plan, find: Find, data: Path) -> list[Question]:
    """All questions of ``plan``, with its files below ``data``. Fewer than a level is asked for where it has no more.

    Raises ConfigError where a level is unknown or a file cannot be used, and what ``find`` raises for an unknown task.
    """
    asked = [question for part in plan.tasks for question in _of_task(part, find(part.name), plan.seed)]
    return asked + [question for part in plan.files for question in _of_file(part, data)]


def is_digest_held_out(digest: str) -> bool:
    """Whether the prompt of this SHA-256 is kept from training: ``tasks.held_out``, where only the hash is known."""
    return int(digest, 16) % HELD_OUT_MODULUS == 0


def _of_task(part: TaskPart, task: Task, seed: int) -> Iterator[Question]:
    beyond = [level for level in part.levels if level >= task.levels]
    if beyond:
        raise ConfigError(f"{part.name} has no level {beyond[0]}; they are 0 to {task.levels - 1}.", param="levels")
    seen: set[str] = set()
    for level in part.levels or range(task.levels):
        drawn = (task.generate(level, number) for number in range(seed, seed + part.prompts * _DRAWS_A_PROMPT))
        fresh = _once((problem for problem in drawn if is_held_out(problem.prompt)), seen)
        for _, (problem, digest) in zip(range(part.prompts), fresh, strict=False):
            yield Question(part.name, problem, digest, task.verify)


def _of_file(part: FilePart, data: Path) -> Iterator[Question]:
    rows = read_file(part, data)
    kept = rows if part.held_out == "file" else [row for row in rows if is_held_out(row.prompt)]
    for problem, digest in _once(kept, set()):
        yield Question(part.name, problem, digest, RULES[part.rule], part.rule == "forbidden")


def _once(problems: Iterable[Problem], seen: set[str]) -> Iterator[tuple[Problem, str]]:
    for problem in problems:
        digest = prompt_digest(problem.prompt)
        if digest not in seen:
            seen.add(digest)
            yield problem, digest
