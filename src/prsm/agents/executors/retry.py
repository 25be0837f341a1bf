"""When a failed upstream call is tried again, and how long to wait: exponential backoff with full jitter.

Pure rules: time and randomness are passed in, nothing sleeps here. Only retryable errors are retried, within bounds on
attempts and time, and only while the retry budget allows, so that retries cannot multiply an outage. (Full jitter:
Brooker, "Exponential Backoff And Jitter", AWS 2015; retry budgets: Beyer et al., "Site Reliability Engineering",
chapter 21.)
"""

from dataclasses import dataclass

from prsm.agents.seams import UpstreamError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds of the attempts at one target. ``max_attempts`` counts the first one; ``total_s`` runs from its start."""

    max_attempts: int = 3
    base_delay_s: float = 0.2
    max_delay_s: float = 5.0
    total_s: float = 30.0
    max_retry_after_s: float = 20.0


class RetryBudget:
    """A token bucket fed by calls: each adds ``ratio`` of a retry, up to ``burst``; each retry takes one."""

    __slots__ = ("_burst", "_ratio", "_tokens")

    def __init__(self, ratio: float = 0.2, burst: float = 10.0) -> None:
        if not (0 <= ratio <= 1 and burst >= 1):
            raise ValueError("a retry budget needs 0 <= ratio <= 1 and burst >= 1")
        self._ratio = ratio
        self._burst = burst
        self._tokens = burst

    def note_call(self) -> None:
        """A first attempt was made."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def take(self) -> bool:
        """True, and one retry spent, where the budget holds one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def retry_delay_s(
    policy: RetryPolicy,
    budget: RetryBudget,
    error: UpstreamError,
    *,
    attempts: int,
    elapsed_s: float,
    random: float,
) -> float | None:
    """Seconds to wait before the next attempt, or None to give up; the budget is charged only when it is a number.

    ``attempts`` have been made in ``elapsed_s``; ``random`` is uniform in [0, 1). An upstream that names a time
    (Retry-After) beyond the cap or beyond the time left is given up at once: another target is the better use of it.
    """
    if not error.retryable or attempts >= policy.max_attempts:
        return None
    ceiling_s = min(policy.max_delay_s, policy.base_delay_s * 2.0 ** min(attempts - 1, 32))
    delay_s = random * ceiling_s
    if error.retry_after_s is not None:
        if error.retry_after_s > policy.max_retry_after_s:
            return None
        delay_s += error.retry_after_s
    if elapsed_s + delay_s >= policy.total_s or not budget.take():
        return None
    return delay_s
