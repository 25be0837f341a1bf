"""What to practise next: levels open as they are mastered, and close again where mastery is lost.

Mastery is measured, never assumed: a level is mastered when the lower bound of the share that is answered right lies
above what the plan asks, and lost when the upper bound lies below it; in between nothing changes. Everything here is
a function of frozen state; random numbers are passed in.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct, structs

from prsm.teachers.training.plan import Positive, Share

_FLOOR: Final = 0.02
"""What an open level weighs at least: what is always right, or always wrong, is still looked at now and then."""


class CurriculumPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a level counts as mastered, and how much of the practice goes to levels below.

    ``window`` prompts of a level are remembered. ``mastery`` is asked of both bounds, which are ``deviations`` of a
    normal distribution away (1.96: 95 % between them). ``review`` is the share of draws that go to levels below the
    highest open one, where there are such.
    """

    window: Positive = 100
    mastery: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    deviations: Annotated[float, Meta(gt=0)] = 1.96
    review: Share = 0.2


class Practice(Struct, frozen=True):
    """One task: how many levels it has, the highest open one, what it weighs, and how its levels went lately.

    ``recent`` has for each level that was practised the share that was right of each of the last prompts.
    """

    levels: Positive
    open: Annotated[int, Meta(ge=0)] = 0
    weight: Annotated[float, Meta(gt=0)] = 1.0
    recent: Mapping[int, tuple[float, ...]] = {}


Curriculum = Mapping[str, Practice]
"""Each task by its name."""


class Standing(Struct, frozen=True):
    """What an evaluation found at one level: ``right`` of so many prompts ``asked``."""

    right: int
    asked: Positive


def bounds(right: float, asked: int, deviations: float) -> tuple[float, float]:
    """Where the true share lies (Wilson 1927). ``right`` may be a sum of shares: the bounds then err wide."""
    if not asked:
        return 0.0, 1.0
    share, squared = right / asked, deviations * deviations / asked
    middle = (share + squared / 2) / (1 + squared)
    half = deviations / (1 + squared) * math.sqrt(max(share * (1 - share), 0) / asked + squared / asked / 4)
    return (0.0 if right == 0 else middle - half), (1.0 if right == asked else middle + half)


def begun(plan: CurriculumPlan, tasks: Mapping[str, int], found: Mapping[str, Mapping[int, Standing]]) -> Curriculum:
    """A curriculum for measured gaps: ``tasks`` by name with their levels, and what an evaluation found of each.

    A task opens up to its first level that was not found mastered. It weighs what it lacks there: how far the share
    that was right stands below ``mastery``, at least a hundredth; a task that was not evaluated lacks all of it, and
    one that is mastered throughout is not practised. Empty where nothing lacks.
    """
    curriculum: dict[str, Practice] = {}
    for name, levels in tasks.items():
        standings = found.get(name, {})
        lacking = [level for level in range(levels) if not _is_mastered(plan, standings.get(level))]
        if lacking:
            standing = standings.get(lacking[0])
            gap = plan.mastery - (standing.right / standing.asked if standing else 0.0)
            curriculum[name] = Practice(levels, lacking[0], max(gap, 0.01))
    return curriculum


def shares(plan: CurriculumPlan, curriculum: Curriculum) -> dict[tuple[str, int], float]:
    """With what probability each task and level is practised next; they sum to 1. Raises ValueError for no task.

    Levels of intermediate success weigh most: right answers of variance p (1 - p) are what a group of samples can
    learn from, and a level that nobody has tried yet counts as even. The highest open levels share ``1 - review`` of
    the draws, those below ``review``.
    """
    if not curriculum:
        raise ValueError("nothing to practise")
    highest = {(name, task.open): _worth(task, task.open) for name, task in curriculum.items()}
    below = {(name, level): _worth(task, level) for name, task in curriculum.items() for level in range(task.open)}
    review = plan.review if below else 0.0
    return _scaled(highest, 1 - review) | _scaled(below, review)


def chosen(plan: CurriculumPlan, curriculum: Curriculum, draw: float) -> tuple[str, int]:
    """Task and level for a number drawn from [0, 1)."""
    lessons = shares(plan, curriculum)
    for lesson, share in lessons.items():
        draw -= share
        if draw < 0:
            return lesson
    return next(reversed(lessons))  # rounding left a crumb


def observed(plan: CurriculumPlan, curriculum: Curriculum, task: str, level: int, right: float) -> Curriculum:
    """The curriculum after a prompt of a level was answered: ``right`` is the share of its samples that were right.

    Where the highest open level is mastered the next one opens. Where a level below is lost, those above it close and
    what was seen of them is forgotten. Raises KeyError for another task, ValueError for a level or share out of range.
    """
    practice = curriculum[task]
    if not (0 <= level < practice.levels and 0 <= right <= 1):
        raise ValueError("a level or a share that is out of range")
    recent = dict(practice.recent)
    recent[level] = (*recent.get(level, ()), right)[-plan.window :]
    lower, upper = _recent_bounds(plan, recent[level])
    highest = practice.open
    if level == highest and lower > plan.mastery:
        highest = min(highest + 1, practice.levels - 1)
    elif level < highest and upper < plan.mastery:
        highest = level
        recent = {each: seen for each, seen in recent.items() if each <= level}
    return {**curriculum, task: structs.replace(practice, open=highest, recent=recent)}


def is_mastered(plan: CurriculumPlan, curriculum: Curriculum) -> bool:
    """Whether every task's last level is open and mastered."""
    return all(
        task.open == task.levels - 1 and _recent_bounds(plan, task.recent.get(task.open, ()))[0] > plan.mastery
        for task in curriculum.values()
    )


def _is_mastered(plan: CurriculumPlan, standing: Standing | None) -> bool:
    return standing is not None and bounds(standing.right, standing.asked, plan.deviations)[0] > plan.mastery


def _recent_bounds(plan: CurriculumPlan, recent: tuple[float, ...]) -> tuple[float, float]:
    return bounds(sum(recent), len(recent), plan.deviations)


def _worth(practice: Practice, level: int) -> float:
    seen = practice.recent.get(level, ())
    share = (sum(seen) + 1) / (len(seen) + 2)  # Laplace: as if one had been right and one wrong
    return practice.weight * max(share * (1 - share), _FLOOR)


def _scaled(weights: Mapping[tuple[str, int], float], whole: float) -> dict[tuple[str, int], float]:
    total = sum(weights.values())
    return {lesson: whole * weight / total for lesson, weight in weights.items()}
