"""Made-up outcomes for tests of what judges them, by seed: no learner was asked. Not evidence of anything."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import numpy as np
from msgspec.structs import replace

from prsm.teachers.evaluation.outcomes import Evaluation, Outcome, evaluation, scores
from prsm.teachers.evaluation.plan import FilePart, Plan, TaskPart
from prsm.teachers.evaluation.questions import is_digest_held_out
from prsm.teachers.seams import Task

SAFETY = "refusals"
WHEN = datetime(2026, 11, 30, tzinfo=UTC)


def digests() -> Iterator[str]:
    """Held-out ones, always the same."""
    every = (hashlib.sha256(str(number).encode()).hexdigest() for number in itertools.count())
    return (digest for digest in every if is_digest_held_out(digest))


def made_up(
    rights: Mapping[str, list[bool]], safe: list[bool] | None = None, *, version: str = "a", seconds: float = 0.01
) -> Evaluation:
    """An evaluation with these outcomes by task, and of safety prompts where ``safe`` is given."""
    plan = Plan(
        tasks=tuple(TaskPart(name=name, prompts=len(some)) for name, some in rights.items()),
        files=(FilePart(name=SAFETY, path="refusals.jsonl", rule="forbidden"),) if safe is not None else (),
    )
    digest = digests()
    outcomes = [
        Outcome(task=task, level=0, prompt=next(digest), right=right, seconds=seconds)
        for task, some in {**rights, **({SAFETY: safe} if safe is not None else {})}.items()
        for right in some
    ]
    return evaluation(
        outcomes, learner=version, plan=plan, expected=len(outcomes), started_at=WHEN, ended_at=WHEN, size_bytes=1000
    )


def repeated(found: Evaluation, times: int) -> Evaluation:
    """The same answers, each given so many times under a seed of its own."""
    seeds = tuple(range(1, times + 1))
    outcomes = [replace(outcome, seed=seed) for seed in seeds for outcome in found.outcomes]
    return replace(
        found,
        plan=replace(found.plan, answer_seeds=seeds),
        expected=len(outcomes),
        outcomes=tuple(outcomes),
        scores=scores(outcomes),
    )


def drawn(generator: np.random.Generator, share: float, count: int) -> list[bool]:
    """So many outcomes, each right with this chance."""
    return (generator.random(count) < share).tolist()


def changed(generator: np.random.Generator, before: list[bool], gain: float, loss: float) -> list[bool]:
    """The outcomes of a learner that mends and spoils answers with these chances."""
    draws: list[float] = generator.random(len(before)).tolist()
    return [draw >= loss if right else draw < gain for right, draw in zip(before, draws, strict=True)]


def no_tasks(name: str) -> Task:
    """For plans without tasks."""
    raise AssertionError(name)
