"""A decision in words: why each candidate stands where it stands, and for everybody else why not. Pure.

All of it is read off the decision itself, so that what is shown is what was done.
"""

from dataclasses import dataclass

import numpy as np

from prsm.agents.routers.policy import AUTO
from prsm.agents.routers.selection import Decision
from prsm.agents.routers.sifting import removed
from prsm.agents.routers.weighing import Weighed
from prsm.core.money import format_ftns
from prsm.tokenomics.quotes import Price, charge_micro


@dataclass(frozen=True, slots=True)
class Considered:
    """One instance. ``place`` counts from 1 among those that would be tried; ``why_not`` is empty for these.

    ``chance`` is of a good answer, None where it was not estimated; ``latency_ms`` 0 where nothing was measured;
    ``utility_micro`` is what the order goes by.
    """

    name: str
    model: str
    version: str
    place: int | None
    chance: float | None
    expected_micro: int
    latency_ms: float
    utility_micro: float
    resting: bool
    reason: str
    why_not: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the router would do. ``considered`` holds the best first, cut at a limit; ``excluded`` counts by reason.

    ``worth_micro`` is what a good answer, ``second_micro`` what a second counted.
    """

    aim: str
    named: str
    worth_micro: int
    second_micro: int
    able: int
    total: int
    considered: list[Considered]
    excluded: list[tuple[str, str, int]]


def reason(decision: Decision, place: int, expected: int) -> str:
    """Why the instance at ``place`` answers, whose price is ``expected``, in one line."""
    weighed = decision.weighed
    if decision.named:
        return "named by the caller"
    if weighed.special is not None and weighed.terms.aim.specialists and weighed.special[place]:
        return f"specialist for {decision.target(place).domain}"
    aim = weighed.terms.aim.name
    price = format_ftns(expected)
    latency_ms, chance = weighed.at(place)
    seconds = f", about {latency_ms / 1000:.2g} s" if latency_ms > 0 else ""
    among = int(np.count_nonzero(weighed.ranked))
    if chance is None and aim != "auto:fast":
        number = _by_price(weighed, place)
        return f"number {number} by expected price of {among} able models: {price} FTNS{seconds}"
    quality = f"a good answer with chance {chance:.2f}, " if chance is not None else ""
    head = "tried to learn more of it" if decision.exploring and place == decision.places[0] else ""
    head = head or f"number {_by_utility(weighed, place)} of {among} able models"
    return f"{head}{'' if aim == AUTO else f' for {aim}'}: {quality}{price} FTNS{seconds}"


def expected_micro(decision: Decision, place: int) -> int:
    """The expected price at ``place``."""
    target, question = decision.target(place), decision.question
    price = Price(target.input_price_micro, target.output_price_micro)
    return charge_micro(price, question.input_tokens, question.output_tokens)


def explanation(decision: Decision, limit: int) -> Explanation:
    """All of a decision, with at most ``limit`` instances: who would be tried, then the able, then the excluded."""
    weighed = decision.weighed
    able = np.flatnonzero(weighed.alive)
    rest = able[np.argsort(-weighed.all.utility_micro[able], kind="stable")]
    excluded = np.flatnonzero(~weighed.alive)
    order = [*decision.places, *(place for place in rest.tolist() if place not in decision.places), *excluded.tolist()]
    return Explanation(
        aim=weighed.terms.aim.name,
        named=decision.named,
        worth_micro=round(weighed.terms.worth_micro),
        second_micro=round(weighed.terms.second_micro),
        able=len(able),
        total=len(weighed.alive),
        considered=[_considered(decision, place) for place in order[:limit]],
        excluded=[(step.name, step.why_not, gone) for step, gone in removed(weighed.steps) if gone],
    )


def _considered(decision: Decision, place: int) -> Considered:
    weighed, target = decision.weighed, decision.target(place)
    worths = weighed.all
    alive = bool(weighed.alive[place])
    expected = expected_micro(decision, place)
    number = decision.places.index(place) + 1 if place in decision.places else None
    return Considered(
        name=target.name,
        model=decision.models.models[int(weighed.columns.model[place])],
        version=target.version,
        place=number,
        chance=None if worths.chance is None else float(worths.chance[place]),
        expected_micro=expected,
        latency_ms=float(worths.latency_ms[place]),
        utility_micro=float(worths.utility_micro[place]),
        resting=bool(weighed.vitals.resting[place]),
        reason=reason(decision, place, expected) if alive else "",
        why_not="" if number else _why_not(decision, place),
    )


def _why_not(decision: Decision, place: int) -> str:
    """What kept the instance at ``place`` from being tried."""
    weighed = decision.weighed
    for step in weighed.steps:
        if not step.keeps[place]:
            return f"{step.name}: {step.why_not}"
    last = decision.places[-1]
    if weighed.vitals.resting[place] and not weighed.vitals.resting[last]:
        return "it failed too often and rests"
    if weighed.spare is not None and weighed.spare[place] and not weighed.spare[last]:
        return "release: another version answers this request"
    if weighed.special is not None and weighed.special[last] and not weighed.special[place]:
        return "specialists go first"
    if weighed.all.utility_micro[place] > weighed.all.utility_micro[last]:
        return f"its provider {decision.target(place).provider} is among those tried already"
    return f"{len(decision.places)} others are worth more"


def _by_price(weighed: Weighed, place: int) -> int:
    """Its number by expected price; of equals the faster, then the first by name."""
    cost = weighed.cost_micro
    before, same = cost < cost[place], cost == cost[place]
    if np.count_nonzero(same) > 1:
        latency = weighed.all.latency_ms
        before |= same & (latency < latency[place])
        before[:place] |= (same & (latency == latency[place]))[:place]
    return 1 + int(np.count_nonzero(before & weighed.ranked))


def _by_utility(weighed: Weighed, place: int) -> int:
    """Its number by what it is worth; of equals the first by name."""
    if weighed.leaders is not None and place in weighed.leaders:
        return weighed.leaders[place].number
    utility = weighed.all.utility_micro
    before = utility > utility[place]
    before[:place] |= utility[:place] == utility[place]
    return 1 + int(np.count_nonzero(before & weighed.ranked))
