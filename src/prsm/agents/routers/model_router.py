"""Which instances answer: a named one is obeyed, of several the best by the caller's aim and policy come first.

``rank`` is the rule without an estimate of quality. ``Router`` decides with all that the node knows: how instances do
now, the estimate where it can change something, and a bounded share of exploring. Nobody able is a refusal that says
what to change, never a guess.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.agents.call import Target
from prsm.agents.routers.explain import expected_micro, reason
from prsm.agents.routers.policy import AIMS, AUTO, BALANCED, Aim
from prsm.agents.routers.question import MAX_CANDIDATES, Candidate, Domains, Health, Question
from prsm.agents.routers.refusals import ADD_MODEL, no_estimate, no_room_in, nobody_left, not_able, unknown_name
from prsm.agents.routers.roster import Release, Roster, roster, scope_of
from prsm.agents.routers.selection import Decision, choose, explored, peers, quality_matters
from prsm.agents.routers.sifting import Sifted, sift
from prsm.agents.routers.vitals import MAX_READ_ALWAYS, VitalsBoard, Watch, read
from prsm.agents.routers.weighing import Rates, Vitals, terms_of, weigh
from prsm.agents.seams import QualityBoard
from prsm.core.money import BASIS_POINTS
from prsm.tokenomics.quotes import Price, charge_micro

__all__ = [
    "ADD_MODEL", "AUTO", "MAX_CANDIDATES", "Candidate", "Domains", "Health", "Order", "Question", "Rates", "Release",
    "Roster", "Router", "rank", "roster",
]  # fmt: skip

MAX_PEERS: Final = 32
_MAX_LOOKS = 16
"""How often one decision is made anew because who was chosen has begun to rest."""
_NAMED = "named by the caller"
_SAME, _FEW = 1e-6, 256

Order = Callable[[Sequence[Target]], Sequence[Target]]
"""Puts instances of one model, which cost the request the same, in the order in which to try them."""
Chances = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Posed:
    """A question with who is in question for it."""

    models: Roster
    question: Question
    aim: Aim
    named: str
    sifted: Sifted


class Router:
    """Decides for one node. ``models`` may be replaced at any time."""

    def __init__(
        self,
        domains: Domains,
        health: Watch,
        *,
        board: QualityBoard | None = None,
        order: Order | None = None,
        rates: Rates | None = None,
        explore_bps: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``explore_bps`` of the decisions with an estimate may explore; ``chance`` gives numbers from 0 up to 1."""
        self._domains = domains
        self._board = board
        self._order = order
        self._rates = rates or Rates()
        self._explore = explore_bps / BASIS_POINTS
        self._chance = chance
        self._vitals = VitalsBoard(health)
        self._models = roster(())

    @property
    def models(self) -> Roster:
        """What can be asked."""
        return self._models

    @models.setter
    def models(self, models: Roster) -> None:
        self._models = models
        self._vitals.follow(models)
        if self._board is not None:
            self._board.follow(models.models)

    def named(self, asked: str, question: Question) -> list[Candidate] | None:
        """The instance of this full name, where nothing is to be weighed; else None. Raises PrsmError."""
        return _only(self._models, asked, question)

    async def rank(self, asked: str, question: Question) -> list[Candidate]:
        """The candidates, best first, at most MAX_CANDIDATES. Raises PrsmError when nobody is able."""
        return candidates(await self.decide(asked, question))

    async def decide(self, asked: str, question: Question, *, explore: bool = True) -> Decision:
        """Who answers, with what is thought of everybody in question. Raises PrsmError."""
        posed = self._pose(asked, question)
        board = self._board
        if not _wants_quality(posed, known=board is not None) or board is None or _uninformed(posed, board):
            return self._settle(posed, None, None)
        item = await board.item(question.text)
        if posed.models is not self._models:  # replaced meanwhile; from here on nothing waits
            posed = self._pose(asked, question)
        chances = board.chances(item, explore=False)
        explores = explore and not posed.named and self._chance() < self._explore
        return self._settle(posed, chances, board.chances(item, explore=True) if explores else None)

    async def refresh(self) -> None:
        """Look at how the instances of a large roster do; to be called every second or so."""
        await self._vitals.refresh()

    def _pose(self, asked: str, question: Question) -> _Posed:
        return _pose(self._models, asked, question, self._domains)

    def _settle(self, posed: _Posed, chances: Chances | None, drawn: Chances | None) -> Decision:
        """Decide by how everybody does now; nothing waits from the reading of that to the choice."""
        decision = self._decided(posed, chances, drawn)
        rows = decision.weighed.columns.row
        looks = 0 if len(rows) <= MAX_READ_ALWAYS else _MAX_LOOKS
        while looks and self._vitals.changed(posed.models, rows[decision.places].tolist()):
            decision = self._decided(posed, chances, drawn)
            looks -= 1
        return decision

    def _decided(self, posed: _Posed, chances: Chances | None, drawn: Chances | None) -> Decision:
        vitals = self._vitals.of(posed.models, posed.sifted.columns)
        return _decide(posed, vitals, self._rates, chances, drawn, self._order)


def rank(asked: str, question: Question, models: Roster, domains: Domains, health: Watch) -> list[Candidate]:
    """The candidates, best first, at most MAX_CANDIDATES, all models being as good as each other. Raises PrsmError."""
    only = _only(models, asked, question)
    if only is not None:
        return only
    posed = _pose(models, asked, question, domains)
    _wants_quality(posed, known=False)
    rows: list[int] = posed.sifted.columns.row.tolist()
    return candidates(_decide(posed, read([health(models.targets[row].name) for row in rows]), Rates()))


def candidates(decision: Decision) -> list[Candidate]:
    """Whom a decision tries, each with its reason."""
    return [
        Candidate(decision.target(place), reason(decision, place, expected), expected)
        for place in decision.places
        for expected in [expected_micro(decision, place)]
    ]


def _only(models: Roster, asked: str, question: Question) -> list[Candidate] | None:
    target = models.by_name.get(asked)
    if target is None or question.policy is not None or asked in AIMS:
        return None
    if not question.needs <= target.capabilities:
        raise not_able(target, asked, question)
    if question.most_tokens > target.context_tokens < question.least_tokens:
        raise no_room_in(target, question)
    price = Price(target.input_price_micro, target.output_price_micro)
    return [Candidate(target, _NAMED, charge_micro(price, question.input_tokens, question.output_tokens))]


def _pose(models: Roster, asked: str, question: Question, domains: Domains) -> _Posed:
    """Who is in question and may answer, but for the limit on quality. Raises PrsmError where nobody is."""
    aim = AIMS.get(asked)
    if aim is not None:
        columns, shared = models.columns, bool(models.releases)
    else:
        scope = scope_of(models, asked)
        if scope is None:
            raise unknown_name(models, asked)
        columns, shared = scope.columns, scope.shared
    named = "" if aim else asked
    sifted = sift(models, columns, question, domains if aim else None, shared=shared)
    if not sifted.alive.any():
        raise nobody_left(models, columns, sifted.steps, question, named)
    return _Posed(models, question, aim or BALANCED, named, sifted)


def _wants_quality(posed: _Posed, *, known: bool) -> bool:
    """Whether an estimate is needed. Raises PrsmError where the policy limits quality and there is none of it."""
    policy = posed.question.policy
    limited = policy is not None and policy.min_quality is not None
    if limited and ("chat" not in posed.question.needs or not known):
        raise no_estimate(known=known)
    return limited or (known and not posed.named and quality_matters(posed.sifted, posed.question, posed.aim))


def _uninformed(posed: _Posed, board: QualityBoard) -> bool:
    """Whether all are thought to be equally good, so that reading the prompt could not tell them apart."""
    policy = posed.question.policy
    if policy is not None and policy.min_quality is not None:
        return False
    usual = board.usual
    if len(posed.sifted.alive) <= _FEW:  # else it is cheaper to look at all models, who is able or not
        usual = usual[posed.sifted.columns.model[posed.sifted.alive]]
    return bool(np.ptp(usual) < _SAME)


def _decide(
    posed: _Posed,
    vitals: Vitals,
    rates: Rates,
    chances: Chances | None = None,
    drawn: Chances | None = None,
    order: Order | None = None,
) -> Decision:
    models, question = posed.models, posed.question
    weighed = weigh(posed.sifted, vitals, question, terms_of(question, posed.aim, rates), chances)
    if weighed.steps is not posed.sifted.steps and not weighed.alive.any():
        raise nobody_left(models, weighed.columns, weighed.steps, question, posed.named)
    places = choose(weighed)
    exploring = False
    if drawn is not None and (first := explored(weighed, drawn)) is not None and first != places[0]:
        places, exploring = choose(weighed, first), True
    decision = Decision(models, question, weighed, places, posed.named, exploring)
    return decision if order is None else _balanced(decision, order)


def _balanced(decision: Decision, order: Order) -> Decision:
    """With the first as ``order`` says among those that are the same model at the same price."""
    places, first = decision.places, decision.places[0]
    same: list[int] = peers(decision.weighed, first)[:MAX_PEERS].tolist()
    if len(same) < 2:
        return decision
    place_of = {decision.target(place).name: place for place in same}
    ordered = [place_of[target.name] for target in order([decision.target(place) for place in same])]
    head = ordered[0]
    if head == first:
        return decision
    rest = [place for place in places if place != head]
    # The one that was first gives way; where the new first was in the list, that only changes places.
    moved = [head, *rest] if head in places else [head, *rest[1:]]
    return Decision(decision.models, decision.question, decision.weighed, moved, decision.named, decision.exploring)
