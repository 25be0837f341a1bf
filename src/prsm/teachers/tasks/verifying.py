"""Verifying many answers: in one go where a task can, which those must whose code runs in the sandbox."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from prsm.teachers.seams import Problem, Task


@runtime_checkable
class VerifiedTogether(Protocol):
    """A task for which judging many answers at once is far cheaper than one after the other."""

    def verify_all(self, problems: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
        """``verify`` of each."""
        ...


def verified(task: Task, problems: Sequence[Problem], answers: Sequence[str]) -> list[bool]:
    """Whether each answer is exactly right."""
    if not problems:
        return []
    if isinstance(task, VerifiedTogether):
        return task.verify_all(problems, answers)
    return [task.verify(problem, answer) for problem, answer in zip(problems, answers, strict=True)]
