"""A trial on live traffic as criteria of the gate: plain numbers in, so that nothing here knows who counted them.

Where a trial's intervals hold at all times (``agents/rollouts/evidence.py``), it may be read whenever one likes.
"""

from collections.abc import Collection, Iterable

from msgspec import Struct

from prsm.teachers.evaluation.gate import Criterion, LiveMetric

MIN_SEEN = 10
"""Fewer answers of a candidate than these speak against it only where a policy asks for the metric."""


class Reading(Struct, frozen=True, kw_only=True):
    """One metric of a trial: the means of both versions over so many answers, each from 0 to 1.

    ``low`` and ``high`` are where candidate minus stable lies; the candidate may be worse by ``allowed``. Of an error
    more is worse, of a rating less (``more_is_better``).
    """

    metric: LiveMetric
    stable: float
    stable_count: int
    candidate: float
    candidate_count: int
    low: float
    high: float
    allowed: float
    more_is_better: bool = False


def criteria(readings: Iterable[Reading], asked: Collection[LiveMetric] = ()) -> tuple[Criterion, ...]:
    """What is ``asked`` must be certainly within what is allowed; the other metrics must not be certainly beyond it."""
    return tuple(
        _criterion(seen, certain=seen.metric in asked)
        for seen in readings
        if seen.metric in asked or seen.candidate_count >= MIN_SEEN
    )


def _criterion(seen: Reading, *, certain: bool) -> Criterion:
    least, most = (-seen.high, -seen.low) if seen.more_is_better else (seen.low, seen.high)
    return Criterion(
        name=f"live {seen.metric}",
        passed=(most if certain else least) <= seen.allowed,
        words=(
            f"Live {seen.metric}: {seen.candidate:.1%} over {seen.candidate_count:,} answers, stable {seen.stable:.1%} "
            f"over {seen.stable_count:,}; worse by {max(least, 0):.1%} to {max(most, 0):.1%} "
            f"({'at most' if certain else 'not certainly above'} {seen.allowed:.1%} allowed)."
        ),
        figures={
            "candidate": seen.candidate, "candidate_count": seen.candidate_count, "stable": seen.stable,
            "stable_count": seen.stable_count, "low": seen.low, "high": seen.high, "allowed": seen.allowed,
        },
    )  # fmt: skip
