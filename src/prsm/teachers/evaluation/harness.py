"""Asks a learner what a plan asks and keeps each batch's outcomes at once: stopped anywhere, it goes on from there.

The outcomes file is append-only JSON lines under a first line that says whose they are. A batch that was not written
whole is asked again, so that sampled answers too are those of a run that was never stopped.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import Struct

from prsm.core import canonical
from prsm.core.clock import Clock, now
from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.outcomes import ANSWER_CHARACTERS, Evaluation, Outcome, encode, evaluation
from prsm.teachers.evaluation.plan import Plan
from prsm.teachers.evaluation.questions import Question
from prsm.teachers.replies import Reply, replies
from prsm.teachers.seams import Learner

Progress = Callable[[int, int], None]
"""Told how many answers there are, and of how many."""


_HEAD: Final = b'{"learner":'
"""How an outcomes file begins."""


class _Whose(Struct, frozen=True, kw_only=True):
    """First line of an outcomes file."""

    learner: str
    plan: str
    questions: str
    batch: int
    started_at: datetime


def evaluate(
    learner: Learner,
    plan: Plan,
    asked: Sequence[Question],
    kept: Path,
    *,
    version: str,
    batch: int = 64,
    size_bytes: int | None = None,
    progress: Progress = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
    clock: Clock = now,
) -> Evaluation:
    """Ask ``asked``, the plan's questions, once for each of its passes, and keep outcomes in the file ``kept``.

    What ``kept`` has already is not asked again. Between batches ``cancelled`` may end it, not whole then.
    Raises ConfigError where ``kept`` is of another learner, plan or batch size, or another process is writing it.
    """
    whose = _Whose(
        learner=version,
        plan=canonical.digest(msgspec.json.decode(msgspec.json.encode(plan))),
        questions=canonical.digest([question.digest for question in asked]),
        batch=batch,
        started_at=clock(),
    )
    batches = [(seed, some) for seed in plan.passes for some in _cut(asked, batch)]
    total = len(asked) * len(plan.passes)
    with _opened(kept) as file:
        whose, outcomes = _resumed(file, whose, batches)
        for seed, some in batches[_whole_batches(outcomes, batches) :]:
            progress(len(outcomes), total)
            if cancelled():
                break
            found = _ask(learner, some, seed)
            _append(file, found)
            outcomes += found
    progress(len(outcomes), total)
    return evaluation(
        outcomes,
        learner=version,
        plan=plan,
        expected=total,
        started_at=whose.started_at,
        ended_at=clock(),
        size_bytes=size_bytes,
    )


_Batch = tuple[int | None, Sequence[Question]]


def _ask(learner: Learner, some: Sequence[Question], seed: int | None) -> list[Outcome]:
    given = replies(learner, [question.problem.prompt for question in some], seed)
    return [_outcome(question, reply, seed) for question, reply in zip(some, given, strict=True)]


def _outcome(question: Question, reply: Reply, seed: int | None) -> Outcome:
    problem = question.problem
    checked = reply.said if question.is_safety else reply.answer
    kept = checked[:ANSWER_CHARACTERS].encode("utf-8", "replace").decode()  # a lone surrogate is no JSON
    return Outcome(
        task=question.task,
        level=problem.level,
        prompt=question.digest,
        right=question.verify(problem, checked),
        seconds=round(reply.seconds, 6),
        answer=kept,
        seed=seed,
        cost_micro=reply.cost_micro,
    )


def _cut(asked: Sequence[Question], batch: int) -> Iterator[Sequence[Question]]:
    return (asked[begin : begin + batch] for begin in range(0, len(asked), batch))


def _opened(kept: Path) -> BinaryIO:
    kept.parent.mkdir(parents=True, exist_ok=True)
    file = kept.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(f"Another process is writing {kept}.") from error
    return file


def _resumed(file: BinaryIO, whose: _Whose, batches: Sequence[_Batch]) -> tuple[_Whose, list[Outcome]]:
    """Who began the file, and its outcomes of whole batches; whatever follows them is cut off."""
    file.seek(0)
    kept = file.read()
    if _HEAD.startswith(kept[: len(_HEAD)]) and b"\n" not in kept:  # nothing yet, or its first line torn
        file.truncate(0)
        _append(file, [whose])
        return whose, []
    first, *lines = kept.split(b"\n")[:-1] or [kept]
    try:
        began = msgspec.json.decode(first, type=_Whose)
        outcomes = [msgspec.json.decode(line, type=Outcome) for line in lines]
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{file.name} is no outcomes file: {error}.") from error
    expected = [(seed, question.digest) for seed, some in batches for question in some]
    found = [(outcome.seed, outcome.prompt) for outcome in outcomes]
    if msgspec.structs.replace(began, started_at=whose.started_at) != whose or found != expected[: len(found)]:
        raise ConfigError(
            f"{file.name} has outcomes of another learner, plan or batch size.", remedy="Name another file."
        )
    whole = sum(len(some) for _, some in batches[: _whole_batches(outcomes, batches)])
    file.truncate(sum(len(line) + 1 for line in (first, *lines[:whole])))
    return began, outcomes[:whole]


def _whole_batches(outcomes: Sequence[Outcome], batches: Sequence[_Batch]) -> int:
    left, whole = len(outcomes), 0
    for _, some in batches:
        left -= len(some)
        if left < 0:
            break
        whole += 1
    return whole


def _append(file: BinaryIO, lines: Sequence[Struct]) -> None:
    file.write(b"".join(map(encode, lines)))
    file.flush()
    os.fsync(file.fileno())
