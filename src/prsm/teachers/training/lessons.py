"""What a recipe's data become: a source of batches, and what is kept from them to validate on."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import nn

from prsm.core.errors import ConfigError
from prsm.teachers.feedback.preferences import Split, halves, preference_probabilities, split, validated
from prsm.teachers.seams import Task
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.training.data_files import Judged, Lesson, read_json_lines, read_pairs, read_text
from prsm.teachers.training.language import held_out_loss, next_token
from prsm.teachers.training.loop import Validate
from prsm.teachers.training.objective import Batch, Objective, Source
from prsm.teachers.training.parallel import Group
from prsm.teachers.training.preference import Preference, preferred, rewards, with_reference
from prsm.teachers.training.recipe import Pairs, Preferences, Tasks, Text
from prsm.teachers.training.sources import Batches, Examples, Packed, Pair, continued, padded, shuffled, windows
from prsm.teachers.training.spelling import Spelling

_VALIDATION_ROWS = 32
_TRIES = 1000
"""How many seeds are tried for a prompt that is not held out: of 20 prompts 19 are not."""

FindTask = Callable[[str], Task]
Kept = TypeVar("Kept")
_SPLITS: Final = {"hash": split, "half": halves, "nothing": lambda pairs: Split(pairs, [])}


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
    data: Preferences,
    spelling: Spelling,
    seed: int,
    group: Group,
    objective: Objective,
    reference: nn.Module | None = None,
) -> Lessons:
    """Preferences in another order each time through, with what ``reference``, if any, gives their answers.

    Without a reference it is rewards that are learnt: what they are worth on the pairs that are kept stands beside
    what the length of the answers alone would tell.
    """
    judged = _SPLITS[data.hold_out](read_json_lines(Path(data.path), Judged))
    if not judged.train:
        raise ConfigError(f"{data.path} has no pair to learn from: all are kept to validate on.", param="data.path")
    learnt, kept = ([_preference(each, spelling) for each in pairs] for pairs in judged)
    if reference is not None:
        learnt, kept = with_reference(reference, learnt), with_reference(reference, kept)
    source = Batches(shuffled(learnt, seed), preferred, data.rows, group)
    if not kept:
        return Lessons(source)
    if reference is None:
        return Lessons(source, lambda network: _worth(judged.held_out, *rewards(network, kept)))
    return Lessons(source, _validating([preferred(pairs) for pairs in _some(kept)], objective))


def _source(examples: Examples[Pair], rows: int, row_tokens: int | None, group: Group) -> Source:
    return Packed(examples, row_tokens, rows, group) if row_tokens else Batches(examples, padded, rows, group)


def _validating(batches: Sequence[Batch], objective: Objective = next_token) -> Validate | None:
    return (lambda network: held_out_loss(network, batches, objective)) if batches else None


def _worth(kept: Sequence[Judged], chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, float]:
    """Shares of the pairs whose chosen answer comes first: by the rewards, with the bounds of 95 %, and by length."""
    found = validated(kept, chosen, rejected)
    likely = preference_probabilities(chosen, rejected)
    return {
        "validation_loss": -sum(map(math.log, likely)) / len(likely),
        "validation_pairs": found.model.pairs,
        "validation_accuracy": found.model.share,
        "validation_accuracy_low": found.model.low,
        "validation_accuracy_high": found.model.high,
        "validation_longer": found.longer.share,
        "validation_brier": found.brier,
        "validation_brier_calibrated": found.calibrated,
        "validation_temperature": found.temperature,
    }


def _some(items: Sequence[Kept]) -> list[Sequence[Kept]]:
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
