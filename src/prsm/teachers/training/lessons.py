"""What a recipe's data become: a source of batches, and what is kept from them to validate on."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Task
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.training.data_files import Judged, Lesson, read_json_lines, read_pairs, read_text
from prsm.teachers.training.language import held_out_loss
from prsm.teachers.training.loop import Validate
from prsm.teachers.training.objective import Batch, Source
from prsm.teachers.training.parallel import Group
from prsm.teachers.training.preference import Preference, preferred, with_reference
from prsm.teachers.training.recipe import Pairs, Preferences, Tasks, Text
from prsm.teachers.training.sources import Batches, Examples, Packed, Pair, continued, padded, shuffled, windows
from prsm.teachers.training.spelling import Spelling

_VALIDATION_ROWS = 32
_TRIES = 1000
"""How many seeds are tried for a prompt that is not held out: of 20 prompts 19 are not."""

FindTask = Callable[[str], Task]


@dataclass(frozen=True, slots=True)
class Lessons:
    """Batches to learn from, and what validates, where anything was kept for it."""

    source: Source
    validate: Validate | None = None


def of_text(data: Text, spelling: Spelling, seed: int, group: Group) -> Lessons:
    """Crops of a text's beginning; its end is read once through, in windows side by side, to validate."""
    ids = torch.tensor(spelling.text(read_text(Path(data.path))))
    cut = len(ids) - int(len(ids) * data.validation_share)
    source = Batches(windows(ids[:cut], data.context_tokens, seed), continued, data.rows, group)
    if len(ids) - cut <= data.context_tokens:
        return Lessons(source)
    kept = ids[cut:].unfold(0, data.context_tokens + 1, data.context_tokens)
    return Lessons(source, _validating([continued(list(rows)) for rows in kept.split(_VALIDATION_ROWS)]))


def of_pairs(data: Pairs, spelling: Spelling, seed: int, group: Group) -> Lessons:
    """Pairs in another order each time through; those with a held-out prompt validate."""
    told = read_pairs(Path(data.path), data.separator)
    kept = [lesson for lesson in told if data.hold_out and is_held_out(lesson.prompt)]
    learnt = [lesson for lesson in told if not (data.hold_out and is_held_out(lesson.prompt))]
    spelt = [_spelt(lesson, spelling, reverse=data.reverse_answers) for lesson in learnt]
    validation = [_spelt(lesson, spelling, reverse=data.reverse_answers) for lesson in kept]
    source = _source(shuffled(spelt, seed), data.rows, data.row_tokens, group)
    return Lessons(source, _validating([padded(rows) for rows in _some(validation)]))


def of_tasks(data: Tasks, spelling: Spelling, seed: int, group: Group, find: FindTask) -> Lessons:
    """Demonstrations of tasks, all alike often, at levels alike often."""
    tasks = [find(name) for name in data.names]
    for task in tasks:
        if data.levels and max(data.levels) >= task.levels:
            raise ConfigError(f"The task {task.name} has {task.levels} levels, from 0.", param="data.levels")

    def example(n: int) -> Pair:
        chance = random.Random(f"{seed}/{n}")  # noqa: S311 - draws lessons, guards nothing
        task = chance.choice(tasks)
        level = chance.choice(data.levels or range(task.levels))
        return _spelt(_demonstration(task, level, chance), spelling)

    return Lessons(_source(example, data.rows, data.row_tokens, group))


def of_preferences(
    data: Preferences, spelling: Spelling, seed: int, group: Group, reference: nn.Module | None
) -> Lessons:
    """Preferences in another order each time through, with what ``reference``, if any, gives their answers."""
    judged = read_json_lines(Path(data.path), Judged)
    pairs = [_preference(each, spelling) for each in judged]
    if reference is not None:
        pairs = with_reference(reference, pairs)
    return Lessons(Batches(shuffled(pairs, seed), preferred, data.rows, group))


def _source(examples: Examples[Pair], rows: int, row_tokens: int | None, group: Group) -> Source:
    return Packed(examples, row_tokens, rows, group) if row_tokens else Batches(examples, padded, rows, group)


def _validating(batches: Sequence[Batch]) -> Validate | None:
    return (lambda network: held_out_loss(network, batches)) if batches else None


def _some(items: Sequence[Pair]) -> list[Sequence[Pair]]:
    return [items[at : at + _VALIDATION_ROWS] for at in range(0, len(items), _VALIDATION_ROWS)]


def _spelt(lesson: Lesson, spelling: Spelling, *, reverse: bool = False) -> Pair:
    return spelling.pair(lesson.prompt, lesson.answer[::-1] if reverse else lesson.answer, lesson.scratchpad)


def _preference(judged: Judged, spelling: Spelling) -> Preference:
    chosen, rejected = (spelling.pair(judged.prompt, answer) for answer in (judged.chosen, judged.rejected))
    return Preference(chosen.prompt, chosen.answer, rejected.answer)


def _demonstration(task: Task, level: int, chance: random.Random) -> Lesson:
    for problem in (task.generate(level, chance.getrandbits(48)) for _ in range(_TRIES)):
        if not is_held_out(problem.prompt):
            show = getattr(task, "demonstrate", None)
            return Lesson(problem.prompt, problem.answer, show(problem) if show else "")
    raise ConfigError(f"All prompts of level {level} of {task.name} are held out.", param="data.levels")
