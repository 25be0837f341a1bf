"""What a student should be and how much it should be taught: the largest that the limits allow, as much as is paid for.

Rules over measured figures; the figures of a student are measured on a fresh one, which costs what a trained one does.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from prsm.core.errors import ConfigError
from prsm.teachers.distillation.analysis import Analysis
from prsm.teachers.distillation.recipe import Amounts, Distillation, Hard, Limits, OnPolicy
from prsm.teachers.distillation.routing import route
from prsm.teachers.distillation.running import Interrupted
from prsm.teachers.distillation.seams import Backend
from prsm.teachers.distillation.teaching import Kept, Lesson
from prsm.teachers.shape import Shape
from prsm.teachers.training.plan import TrainingPlan

_WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_HEAD_WIDTH = 16
_PROBE_STEPS = 7
_BYTES_A_WEIGHT = 4


class StudentPace(Struct, frozen=True):
    """Processor time of a student: to learn a lesson once, to write one, and to write one token."""

    learn_us: float
    write_us: float
    token_us: float


class Design(Struct, frozen=True, kw_only=True):
    """The second stage's facts: who teaches what, the student, its plan, and how many lessons of each family."""

    routing: dict[str, dict[str, float]]
    shape: Shape
    parameters: int
    parameter_share: float
    pace: StudentPace
    lessons_per_family: int
    plan: TrainingPlan


def design(recipe: Distillation, analysis: Analysis, backend: Backend, vocabulary: int, left_cpu_ms: int) -> Design:
    """The job's design for what is left of its budget. Raises ConfigError where no student fits the limits."""
    routing = route(analysis.scores, recipe.routing, speakers=recipe.speakers)
    together = sum(analysis.parameters.values())
    context = max(analysis.lesson_tokens, analysis.prompt_tokens) + 2 * recipe.amounts.max_tokens
    pace: dict[Shape, StudentPace] = {}

    def token_us(shape: Shape) -> float:
        pace[shape] = student_pace(backend, shape, recipe, analysis.lesson_tokens)
        return pace[shape].token_us

    shape = fitting(ladder(vocabulary, context), recipe.limits, together, token_us)
    us = lesson_us(recipe, analysis, routing, pace[shape])
    lessons, steps = amounts(recipe.amounts, recipe.plan, len(routing), us, left_cpu_ms)
    return Design(
        routing=routing,
        shape=shape,
        parameters=shape.parameters(),
        parameter_share=shape.parameters() / together,
        pace=pace[shape],
        lessons_per_family=lessons,
        plan=replace(recipe.plan, steps=steps),
    )


def ladder(vocabulary: int, context_tokens: int) -> list[Shape]:
    """Shapes from small to large: two to eight layers, each width with as many layers as suit it or half of them."""
    shapes = [
        Shape(
            layers=layers,
            width=width,
            heads=width // _HEAD_WIDTH,
            kv_heads=width // _HEAD_WIDTH,
            hidden=width * 8 // 3 // 16 * 16,
            vocabulary=vocabulary,
            context_tokens=context_tokens,
        )
        for width in _WIDTHS
        for layers in (2, 3, 4, 6, 8)
        if 16 * layers <= max(width, 48)
    ]
    return sorted(shapes, key=Shape.parameters)


def fitting(
    shapes: Sequence[Shape], limits: Limits, teachers_parameters: int, token_us: Callable[[Shape], float]
) -> Shape:
    """The largest of ``shapes`` within the limits; ``token_us`` is asked only of those that are small enough."""
    most = limits.parameter_share * teachers_parameters
    if limits.weight_bytes is not None:
        most = min(most, limits.weight_bytes / _BYTES_A_WEIGHT)
    small = [shape for shape in shapes if shape.parameters() <= most]
    for shape in reversed(small):
        if token_us(shape) <= (limits.cpu_us_per_token or float("inf")):
            return shape
    what = "limits.cpu_us_per_token" if small else "limits.parameter_share"
    raise ConfigError(f"No student fits the limits; the smallest has {shapes[0].parameters():,} weights.", param=what)


def student_pace(backend: Backend, shape: Shape, recipe: Distillation, lesson_tokens: int) -> StudentPace:
    """Measure a fresh student on lessons of the usual length, without the first steps: they compile and allocate.

    Raises Interrupted where the process is told to end meanwhile.
    """
    student = backend.build(shape, recipe.plan.seed)
    chance = np.random.default_rng(recipe.plan.seed)
    half = max(2, lesson_tokens // 2)
    made = chance.integers(4, shape.vocabulary, (recipe.amounts.batch, 2, half)).tolist()
    lessons = [Lesson("probe", prompt, said) for prompt, said in made]
    plan = replace(recipe.plan, steps=_PROBE_STEPS, report_every_steps=1, cpu_minutes=None)
    moments: list[float] = []

    def stop() -> bool:
        moments.append(time.process_time())
        return False

    with tempfile.TemporaryDirectory() as folder:
        learnt = student.learn(Kept(lessons, len(lessons), 0), Hard(), plan, Path(folder), stop)
    if learnt.stopped:  # by a signal, as ``stop`` never asks for it
        raise Interrupted
    learn_us = 1e6 * float(np.median(np.diff(moments)[1:])) / (len(lessons) * plan.accumulate)
    begun = time.process_time()
    written = student.write([lesson.prompt for lesson in lessons], max_tokens=half, temperature=1.0)
    spent_us = 1e6 * (time.process_time() - begun)
    return StudentPace(learn_us, spent_us / len(lessons), spent_us / sum(map(len, written)))


def lesson_us(
    recipe: Distillation, analysis: Analysis, routing: dict[str, dict[str, float]], pace: StudentPace
) -> float:
    """What a lesson costs in all: written by a teacher, then as often as there are passes scored and learnt."""
    write = score = 0.0
    for shares in routing.values():
        write += sum(share * analysis.paces[name].write_us for name, share in shares.items()) / len(routing)
        score += sum(analysis.paces[name].score_us for name in shares) / len(routing)
    once = pace.learn_us
    if not isinstance(recipe.method, Hard):
        once += score
    if isinstance(recipe.method, OnPolicy):
        once += recipe.method.student_share * pace.write_us
    return write + recipe.amounts.passes * once


def amounts(asked: Amounts, plan: TrainingPlan, families: int, us_a_lesson: float, left_cpu_ms: int) -> tuple[int, int]:
    """Lessons a family, and steps, that the budget and the plan allow. Raises ConfigError where it pays for no step."""
    a_step = asked.batch * plan.accumulate
    affordable = int(1000 * left_cpu_ms * asked.training_share / us_a_lesson)
    total = min(affordable, asked.lessons_per_family * families, plan.steps * a_step // asked.passes)
    each = total // families
    steps = each * families * asked.passes // a_step
    if steps < 1:
        raise ConfigError(
            f"The budget pays for {affordable} lessons; one step takes {a_step}.",
            param="budget_micro_ftns",
            remedy="Give more, or make the batch or the teachers smaller.",
        )
    return each, steps
