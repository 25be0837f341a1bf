"""When a second model is asked because the first is silent for longer than it usually is, and which one. Pure.

Whoever answers first is the answer, and the only one that the caller pays; what the other cost is the node's. So
hedges are few (a share of all requests), only for short answers, and never dearer than the caller agreed to. (Dean
and Barroso, "The Tail at Scale", CACM 2013.)
"""

from collections.abc import Callable
from dataclasses import dataclass

from prsm.agents.call import ChatCall
from prsm.agents.plan import Plan
from prsm.agents.resuming import same_model
from prsm.agents.routers.model_router import Candidate
from prsm.core.money import BASIS_POINTS

Silence = Callable[[str], float | None]
"""Seconds within which a model's first token comes in 95 of 100 streams; None where that is not known."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """Bounds: hedges in basis points of all requests, the longest answer, and the shortest and longest wait."""

    share_bps: int = 500
    max_output_tokens: int = 512
    min_wait_s: float = 0.05
    max_wait_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Hedge:
    """Ask ``candidate`` too when the first has been silent for ``after_s``."""

    candidate: Candidate
    after_s: float


class HedgeBudget:
    """Hedges are never more than ``share_bps`` of the calls noted so far; what is unused is kept up to ``burst``."""

    __slots__ = ("_credit_bps", "_most_bps", "_share_bps")

    def __init__(self, share_bps: int, burst: int = 10) -> None:
        if not (0 <= share_bps <= BASIS_POINTS and burst >= 1):
            raise ValueError("a hedge budget needs a share from 0 to 10,000 basis points and a burst of at least one")
        self._share_bps = share_bps
        self._most_bps = burst * BASIS_POINTS
        self._credit_bps = 0

    def note_call(self) -> None:
        """A request is tried."""
        self._credit_bps = min(self._most_bps, self._credit_bps + self._share_bps)

    def take(self) -> bool:
        """True, and one hedge spent, where there is one."""
        if self._credit_bps < BASIS_POINTS:
            return False
        self._credit_bps -= BASIS_POINTS
        return True


class Hedger:
    """The rule with its budget: one for all requests."""

    __slots__ = ("_budget", "_policy", "_silence")

    def __init__(self, policy: HedgePolicy, silence: Silence) -> None:
        self._policy = policy
        self._silence = silence
        self._budget = HedgeBudget(policy.share_bps)

    def hedge_for(self, plan: Plan, resting: Callable[[str], bool]) -> Hedge | None:
        """Whom to ask beside the plan's first candidate, and when; ``note_call`` of the budget is done here."""
        self._budget.note_call()
        return hedge_for(plan, self._policy, self._silence, resting)

    def take(self) -> bool:
        """Whether a hedge may start now; True spends it."""
        return self._budget.take()


def hedge_for(plan: Plan, policy: HedgePolicy, silence: Silence, resting: Callable[[str], bool]) -> Hedge | None:
    """The hedge of a streamed, short request whose first candidate's usual silence is known, if somebody can step in.

    Another instance of the same model is asked as soon as that one would have begun itself, were it sooner: else an
    instance that is always slow would be waited for as long as it always takes. The hold covers the hedge whoever it
    is, for it covers every candidate of the plan.
    """
    call = plan.ask.call
    if len(plan.candidates) < 2 or not isinstance(call, ChatCall) or not call.stream:
        return None
    first, *others = plan.candidates
    if plan.quotes[first.target.name].output_tokens * plan.ask.choices > policy.max_output_tokens:
        return None
    own_s = silence(first.target.name)
    for other in others:
        if not resting(other.target.name) and (plan.ask.cap_micro is not None or _no_dearer(other, first)):
            there_s = silence(other.target.name) if same_model(first.target, other.target) else None
            usual = [known for known in (own_s, there_s) if known is not None]
            return Hedge(other, min(max(min(usual), policy.min_wait_s), policy.max_wait_s)) if usual else None
    return None


def _no_dearer(other: Candidate, first: Candidate) -> bool:
    """A caller without a cap has agreed to the first choice's prices; one with a cap to whatever stays within it."""
    there, here = other.target, first.target
    return there.input_price_micro <= here.input_price_micro and there.output_price_micro <= here.output_price_micro
