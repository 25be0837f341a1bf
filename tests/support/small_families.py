"""Three small families of problems that tiny networks learn within a minute, and flawed demonstrations of each.

For tests and benches of distillation; the families that teachers are trained on stand in ``prsm.teachers.tasks``.
"""

import random

from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.distillation.analysis import draw_problems
from prsm.teachers.distillation.teaching import Lesson
from prsm.teachers.seams import Demonstrated, Problem

_LETTERS = "abcdefghij"


class Addition:
    """Sums of two numbers of 1 or 2 digits; worked from the last digit, as by hand."""

    name, levels = "addition", 2

    def generate(self, level: int, seed: int) -> Problem:
        chance = random.Random(f"{self.name} {level} {seed}")
        a, b = (chance.randrange(10**level if level else 0, 10 ** (level + 1)) for _ in range(2))
        return Problem(self.name, level, f"{a}+{b}", str(a + b))

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer == problem.answer

    def demonstrate(self, problem: Problem) -> str:
        return problem.answer[::-1]

    def flawed(self, problem: Problem) -> str:
        """The sum without its carries."""
        a, b = problem.prompt.split("+")
        width = max(len(a), len(b))
        columns = zip(a.zfill(width), b.zfill(width), strict=True)
        return "".join(str((int(x) + int(y)) % 10) for x, y in columns)


class Reversal:
    """Words of 3 or 4 letters written backwards."""

    name, levels = "reversal", 2

    def generate(self, level: int, seed: int) -> Problem:
        chance = random.Random(f"{self.name} {level} {seed}")
        word = "".join(chance.choices(_LETTERS, k=level + 3))
        return Problem(self.name, level, f"reverse {word}", word[::-1])

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer == problem.answer

    def demonstrate(self, problem: Problem) -> str:
        return ""

    def flawed(self, problem: Problem) -> str:
        """All but the first and the last letter stay where they were."""
        answer = problem.answer
        return answer[0] + answer[1:-1][::-1] + answer[-1]


class Sorting:
    """Letters put in order, 3 or 4 of them."""

    name, levels = "sorting", 2

    def generate(self, level: int, seed: int) -> Problem:
        chance = random.Random(f"{self.name} {level} {seed}")
        word = "".join(chance.choices(_LETTERS, k=level + 3))
        return Problem(self.name, level, f"sort {word}", "".join(sorted(word)))

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer == problem.answer

    def demonstrate(self, problem: Problem) -> str:
        return ""

    def flawed(self, problem: Problem) -> str:
        """In falling order."""
        return problem.answer[::-1]


FAMILIES: tuple[Addition, Reversal, Sorting] = (Addition(), Reversal(), Sorting())


def demonstrated(task: Demonstrated, count: int, seed: int) -> list[Lesson]:
    """Lessons as the family demonstrates them, none of them held out."""
    problems = draw_problems(task, count, seed, held_out=False)
    return [_lesson(problem, task.demonstrate(problem), problem.answer) for problem in problems]


def flawed(task: Addition | Reversal | Sorting, count: int, seed: int, share: float) -> list[Lesson]:
    """Such lessons of which a share is wrong in the family's own way."""
    chance = random.Random(seed)
    lessons: list[Lesson] = []
    for problem in draw_problems(task, count, seed, held_out=False):
        answer = task.flawed(problem) if chance.random() < share else problem.answer
        scratchpad = answer[::-1] if task.name == "addition" else ""
        lessons.append(_lesson(problem, scratchpad, answer))
    return lessons


def _lesson(problem: Problem, scratchpad: str, answer: str) -> Lesson:
    return Lesson(problem.task, prompt_ids(problem.prompt), answer_ids(scratchpad, answer))
