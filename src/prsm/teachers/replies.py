"""What a learner gave for a prompt, and what it took: some know time and cost of each answer, others are timed here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from prsm.teachers.seams import Learner


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and all that was said with it (a scratchpad), the seconds it took and its cost where one is charged."""

    answer: str
    said: str
    seconds: float
    cost_micro: int | None = None


@runtime_checkable
class Replying(Protocol):
    """A learner that knows more of its answers than their text."""

    def replies(self, prompts: Sequence[str], *, seed: int | None = None) -> Sequence[Reply]:
        """One reply a prompt, in order; ``answers`` gives their texts."""
        ...


def replies(learner: Learner, prompts: Sequence[str], seed: int | None) -> Sequence[Reply]:
    """The learner's own replies, or its answers, each with its share of the time that all took."""
    if isinstance(learner, Replying):
        return learner.replies(prompts, seed=seed)
    began_s = time.perf_counter()
    answers = learner.answers(prompts, seed=seed)
    each_s = (time.perf_counter() - began_s) / max(len(prompts), 1)
    return [Reply(answer, answer, each_s) for answer in answers]
