"""What the teachers of a job know, and what it costs to ask them: measured on prompts that nobody is trained on."""

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import is_readable, prompt_ids
from prsm.teachers.distillation.routing import Measured
from prsm.teachers.distillation.seams import Teacher, Writer
from prsm.teachers.distillation.teaching import AT_ONCE, Lesson, batch_of, is_right
from prsm.teachers.seams import Problem, Task
from prsm.teachers.tasks.held_out import is_held_out

_DRAWS_PER_PROBLEM = 200
"""How often a task is asked for each problem wanted: one in twenty is held out, and easy levels repeat themselves."""


class TeacherPace(Struct, frozen=True):
    """Processor time that a teacher takes for one lesson: to write it, and to say what it thinks of it."""

    write_us: float
    score_us: float


class Analysis(Struct, frozen=True, kw_only=True):
    """The first stage's facts. ``scores`` and ``paces`` are by teacher.

    ``lesson_tokens`` is a mean, ``prompt_tokens`` the longest prompt.
    """

    scores: dict[str, dict[str, Measured]]
    parameters: dict[str, int]
    paces: dict[str, TeacherPace]
    lesson_tokens: int
    prompt_tokens: int = 0


def analyse(
    teachers: Mapping[str, Teacher],
    tasks: Sequence[Task],
    *,
    prompts: int,
    max_tokens: int,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> Analysis:
    """Ask each teacher held-out problems of each family; ``check`` is called in between and may raise."""
    asked = {task.name: draw_problems(task, prompts, seed, held_out=True) for task in tasks}
    scores: dict[str, dict[str, Measured]] = {}
    paces: dict[str, TeacherPace] = {}
    lengths: list[int] = []
    for name, teacher in teachers.items():
        begun = time.process_time()
        written = {task.name: answered(teacher, asked[task.name], max_tokens=max_tokens) for task in tasks}
        lessons = [lesson for each in written.values() for lesson in each]
        write_us = 1e6 * (time.process_time() - begun) / len(lessons)
        scores[name] = {task.name: measured(task, asked[task.name], written[task.name]) for task in tasks}
        paces[name] = TeacherPace(write_us, _score_us(teacher, lessons[:AT_ONCE]))
        lengths += [len(lesson.prompt) + len(lesson.said) for lesson in lessons]
        check()
    parameters = {name: teacher.parameters for name, teacher in teachers.items()}
    mean = -(-sum(lengths) // len(lengths))
    longest = max(len(problem.prompt) + 1 for problems in asked.values() for problem in problems)
    return Analysis(scores=scores, parameters=parameters, paces=paces, lesson_tokens=mean, prompt_tokens=longest)


def draw_problems(task: Task, count: int, seed: int, *, held_out: bool) -> list[Problem]:
    """At most ``count`` problems with different prompts, the levels in turn, on one side of the split.

    Fewer where so many seeds as are tried give no more. Raises ConfigError where there is none, or one that a small
    teacher cannot read.
    """
    found: dict[str, Problem] = {}
    for number in range(_DRAWS_PER_PROBLEM * count):
        turn, level = divmod(number, task.levels)
        problem = task.generate(level, seed + turn)
        if is_held_out(problem.prompt) == held_out:
            found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    if not found:
        none = f"No prompt of {task.name} is held out" if held_out else f"All prompts of {task.name} are held out"
        raise ConfigError(f"{none}: it has too few.", param="tasks")
    if not all(map(is_readable, found)):
        raise ConfigError(f"A prompt of {task.name} has characters that a small teacher cannot read.", param="tasks")
    return list(found.values())


def answered(writer: Writer, problems: Sequence[Problem], *, max_tokens: int) -> list[Lesson]:
    """What a network writes for each problem, greedily, in order."""
    lessons: list[Lesson] = []
    for at in range(0, len(problems), AT_ONCE):
        here = problems[at : at + AT_ONCE]
        prompts = [prompt_ids(problem.prompt) for problem in here]
        written = writer.write(prompts, max_tokens=max_tokens)
        lessons += [Lesson(*each) for each in zip([problem.task for problem in here], prompts, written, strict=True)]
    return lessons


def measured(task: Task, problems: Sequence[Problem], lessons: Sequence[Lesson]) -> Measured:
    """How many of the answers to a family's problems are right."""
    right = sum(is_right(task, problem, each.said) for problem, each in zip(problems, lessons, strict=True))
    return Measured(right, len(problems), sum(len(lesson.said) for lesson in lessons))


def _score_us(teacher: Teacher, lessons: Sequence[Lesson]) -> float:
    batch = batch_of(lessons)
    begun = time.process_time()
    teacher.scores(batch.ids, 1.0)
    return 1e6 * (time.process_time() - begun) / len(lessons)
