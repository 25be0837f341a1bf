"""A trial on live traffic as criteria of the gate: plain numbers in, so that nothing here knows who counted them.

Where a trial's intervals hold at all times (``agents/rollouts/evidence.py``), it may be read whenever one likes.
"""

from collections.abc import Iterable

from msgspec import Struct

from prsm.teachers.evaluation.gate import Criterion


class Reading(Struct, frozen=True, kw_only=True):
    """One metric of a trial: the means of both versions over so many answers, each from 0 to 1.

    ``low`` and ``high`` are where candidate minus stable lies; the candidate may be worse by ``allowed``. Of an error
    more is worse, of a rating less (``more_is_better``).
    """

    metric: str
    stable: float
    stable_count: int
    candidate: float
    candidate_count: int
    low: float
    high: float
    allowed: float
    more_is_better: bool = False


def criteria(readings: Iterable[Reading]) -> tuple[Criterion, ...]:
    """Each metric as a criterion that holds only where the candidate is certainly within what is allowed."""
    return tuple(map(_criterion, readings))


def _criterion(seen: Reading) -> Criterion:
    worst = -seen.low if seen.more_is_better else seen.high
    return Criterion(
        name=f"live {seen.metric}",
        passed=worst <= seen.allowed,
        words=(
            f"Live {seen.metric}: {seen.candidate:.1%} over {seen.candidate_count:,} answers, stable {seen.stable:.1%} "
            f"over {seen.stable_count:,}; worse by {worst:.1%} at most ({seen.allowed:.1%} allowed)."
        ),
        figures={
            "candidate": seen.candidate, "candidate_count": seen.candidate_count, "stable": seen.stable,
            "stable_count": seen.stable_count, "low": seen.low, "high": seen.high, "allowed": seen.allowed,
        },
    )  # fmt: skip
