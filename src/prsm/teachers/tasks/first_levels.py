"""A task that ends at a level: what is beyond it is neither taught nor asked."""

from msgspec import Struct

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Problem, Task


class FirstLevels(Struct, frozen=True):
    """The first ``levels`` levels of a task, under the task's own name."""

    task: Task
    levels: int

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    def generate(self, level: int, seed: int) -> Problem:
        """The task's own problem."""
        return self.task.generate(level, seed)

    def verify(self, problem: Problem, answer: str) -> bool:
        """What the task says of it."""
        return self.task.verify(problem, answer)


def first_levels(task: Task, levels: int) -> FirstLevels:
    """The first levels of a task. Raises ConfigError where it has fewer, or none is asked for."""
    if not 1 <= levels <= task.levels:
        raise ConfigError(f"The task {task.name} has 1 to {task.levels} levels, not {levels}.", param="tasks")
    return FirstLevels(task, levels)
