"""Two evaluations side by side on the same prompts: how much better, on which tasks worse, and how sure that is.

Pure. The unit is the prompt: with several answers to one, its score is the share that were right, so that answers to
one prompt are never counted as if they were of many.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from prsm.teachers.evaluation.outcomes import Evaluation, prompt_shares
from prsm.teachers.evaluation.statistics import Interval, holm, paired_bootstrap, sign_test

BOOTSTRAP_SEED = 5


class Difference(Struct, frozen=True, kw_only=True):
    """One task, or all: shares right of candidate and live, and the prompts on which one or the other did better.

    ``low`` and ``high`` are where candidate minus live lies (95 %, paired bootstrap within tasks). The p-values are
    the exact sign test's; of tasks they are Holm-corrected for there being several.
    """

    task: str
    prompts: int
    candidate: float
    live: float
    gained: int
    lost: int
    low: float
    high: float
    p_better: float
    p_worse: float

    @property
    def change(self) -> float:
        """Candidate minus live."""
        return self.candidate - self.live


class Comparison(Struct, frozen=True, kw_only=True):
    """All tasks together and each alone; ``only_candidate`` and ``only_live`` count prompts asked of one alone."""

    overall: Difference
    tasks: tuple[Difference, ...]
    only_candidate: int
    only_live: int

    def fallen(self, alpha: float = 0.05) -> list[Difference]:
        """The tasks that are certainly worse, the chance of any false alarm being at most ``alpha``."""
        return [task for task in self.tasks if task.p_worse <= alpha]


Pairs = Mapping[str, Sequence[tuple[float, float]]]
"""Scores of candidate and live on each prompt, by task."""


def compare(candidate: Evaluation, live: Evaluation, *, safety: bool = False) -> Comparison:
    """Candidate beside live on the prompts that both were asked, of the safety part or of all others."""
    mine, theirs = (prompt_shares(found.of_safety(safety=safety)) for found in (candidate, live))
    pairs: dict[str, list[tuple[float, float]]] = {}
    for task, prompt in sorted(mine.keys() & theirs.keys()):
        pairs.setdefault(task, []).append((mine[task, prompt], theirs[task, prompt]))
    tasks = [_difference(task, {task: found}) for task, found in pairs.items()]
    better = holm({task.task: task.p_better for task in tasks})
    worse = holm({task.task: task.p_worse for task in tasks})
    return Comparison(
        overall=_difference("all", pairs),
        tasks=tuple(_corrected(task, better[task.task], worse[task.task]) for task in tasks),
        only_candidate=len(mine.keys() - theirs.keys()),
        only_live=len(theirs.keys() - mine.keys()),
    )


def _difference(name: str, pairs: Pairs) -> Difference:
    every = [pair for found in pairs.values() for pair in found]
    if not every:
        return Difference(
            task=name, prompts=0, candidate=0, live=0, gained=0, lost=0, low=-1, high=1, p_better=1, p_worse=1
        )
    test = sign_test(sum(mine > its for mine, its in every), sum(mine < its for mine, its in every))
    where: Interval = paired_bootstrap(
        {task: [mine - its for mine, its in found] for task, found in pairs.items()}, seed=BOOTSTRAP_SEED
    )
    return Difference(
        task=name,
        prompts=len(every),
        candidate=sum(mine for mine, _ in every) / len(every),
        live=sum(its for _, its in every) / len(every),
        gained=test.gained,
        lost=test.lost,
        low=where.low,
        high=where.high,
        p_better=test.p_better,
        p_worse=test.p_worse,
    )


def _corrected(task: Difference, better: float, worse: float) -> Difference:
    return replace(task, p_better=better, p_worse=worse)
