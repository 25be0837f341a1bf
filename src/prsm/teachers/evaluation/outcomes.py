"""What an evaluation found: an outcome a prompt, and the whole as one immutable record that is stored and compared.

Prompts are kept as their SHA-256, which also tells whether they were held out; answers up to a bound.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from prsm.core.clock import uuid7
from prsm.core.errors import ConfigError
from prsm.teachers.evaluation.plan import Plan
from prsm.teachers.evaluation.statistics import Interval, wilson

ANSWER_CHARACTERS = 200
"""So much of an answer is kept."""


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one prompt was answered: ``prompt`` is its SHA-256 as hex, ``seed`` None where the answer was greedy.

    ``right`` is the rule's word; for a safety prompt it means that nothing forbidden was said. ``seconds`` are the
    answer's own, or its share of a batch; 0 where nothing told. ``cost_micro`` is what a paid endpoint charged, in
    micro-FTNS.
    """

    task: str
    level: int
    prompt: str
    right: bool
    seconds: float
    answer: str = ""
    seed: int | None = None
    cost_micro: int | None = None


class Score(Struct, frozen=True, kw_only=True):
    """How many answers of one level of a task were right."""

    task: str
    level: int
    right: int
    count: int


class Evaluation(Struct, frozen=True, kw_only=True):
    """One learner's outcomes under one plan. ``expected`` answers make it whole; ``scores`` follow from the outcomes.

    ``learner`` is its version; ``size_bytes`` that of its weights as served, where known.
    """

    id: str
    learner: str
    plan: Plan
    expected: int
    started_at: datetime
    ended_at: datetime
    outcomes: tuple[Outcome, ...]
    scores: tuple[Score, ...]
    size_bytes: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every prompt was asked, and each part of the plan has some."""
        return len(self.outcomes) == self.expected and self.plan.names <= {score.task for score in self.scores}

    def of_safety(self, *, safety: bool) -> list[Outcome]:
        """The outcomes of the safety part, or all the others."""
        return [outcome for outcome in self.outcomes if self.plan.is_safety(outcome.task) == safety]

    def answer_ms(self) -> float | None:
        """The median time of an answer outside the safety part; None where none was timed."""
        seconds = [outcome.seconds for outcome in self.of_safety(safety=False) if outcome.seconds]
        return median(seconds) * 1000 if seconds else None

    def cost_micro(self) -> int | None:
        """What all answers cost; None where nothing told."""
        told = [outcome.cost_micro for outcome in self.outcomes if outcome.cost_micro is not None]
        return sum(told) if told else None


def evaluation(
    outcomes: Sequence[Outcome],
    *,
    learner: str,
    plan: Plan,
    expected: int,
    started_at: datetime,
    ended_at: datetime,
    size_bytes: int | None = None,
) -> Evaluation:
    """The record of these outcomes, under a fresh id."""
    return Evaluation(
        id=str(uuid7()),
        learner=learner,
        plan=plan,
        expected=expected,
        started_at=started_at,
        ended_at=ended_at,
        outcomes=tuple(outcomes),
        scores=scores(outcomes),
        size_bytes=size_bytes,
    )


def by_level(outcomes: Iterable[Outcome]) -> dict[tuple[str, int], list[Outcome]]:
    """The outcomes of each task and level, in the order of their names."""
    found: dict[tuple[str, int], list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.task, outcome.level), []).append(outcome)
    return dict(sorted(found.items()))


def scores(outcomes: Iterable[Outcome]) -> tuple[Score, ...]:
    """Right answers of each task and level, in the order of their names."""
    return tuple(
        Score(task=task, level=level, right=sum(outcome.right for outcome in some), count=len(some))
        for (task, level), some in by_level(outcomes).items()
    )


def prompt_shares(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], float]:
    """Of each prompt of a task the share of its answers that were right: what is counted as independent."""
    found: dict[tuple[str, str], list[bool]] = {}
    for outcome in outcomes:
        found.setdefault((outcome.task, outcome.prompt), []).append(outcome.right)
    return {key: sum(rights) / len(rights) for key, rights in found.items()}


def interval(outcomes: Iterable[Outcome]) -> Interval:
    """Where the share that is right lies (95 %, Wilson), over prompts: more answers to one do not narrow it."""
    shares = prompt_shares(outcomes)
    return wilson(sum(shares.values()), len(shares))


def by_task(levels: Iterable[Score]) -> dict[str, Score]:
    """Each task's levels added up, as level -1."""
    found: dict[str, Score] = {}
    for score in levels:
        before = found.get(score.task, Score(task=score.task, level=-1, right=0, count=0))
        found[score.task] = Score(
            task=score.task, level=-1, right=before.right + score.right, count=before.count + score.count
        )
    return found


def prompt_digest(prompt: str) -> str:
    """The SHA-256 of a prompt's UTF-8 bytes, by which it is held out."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def encode(found: Struct) -> bytes:
    """As JSON, with its line's end."""
    return msgspec.json.encode(found) + b"\n"


def read_evaluation(path: Path) -> Evaluation:
    """A stored evaluation. Raises ConfigError where it is none, or its scores do not follow from its outcomes."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} is not an evaluation: {error}.") from error
    if found.scores != scores(found.outcomes):
        raise ConfigError(f"The scores of {path} are not those of its outcomes.")
    return found
