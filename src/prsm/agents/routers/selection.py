"""Which instances are tried, in what order: places out of what was weighed. Pure, no loop over instances."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from prsm.agents.call import Target
from prsm.agents.routers.policy import Aim, Flags
from prsm.agents.routers.question import MAX_CANDIDATES, Question
from prsm.agents.routers.roster import Floats, Roster, Rows
from prsm.agents.routers.sifting import Sifted, expected_cost
from prsm.agents.routers.weighing import Leader, Weighed

MAX_REGRET: Final = 0.1
"""What exploring may cost at most, as a share of what a good answer is worth: one that is expected to do worse than
the best by more is not explored."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers a request, and what that goes on. ``places`` are rows of ``weighed``, the first is tried first.

    ``named`` is what the caller named, empty for auto; ``exploring`` is whether the first stands there to be learnt of.
    """

    models: Roster
    question: Question
    weighed: Weighed
    places: list[int]
    named: str = ""
    exploring: bool = False

    def target(self, place: int) -> Target:
        """The instance at a place of ``weighed``."""
        return self.models.targets[int(self.weighed.columns.row[place])]


def choose(weighed: Weighed, first: int | None = None, most: int = MAX_CANDIDATES) -> list[int]:
    """The places of those to try, in order, ``first`` at the head if it is given.

    Those awake go before those resting, specialists before others (as the aim says), what the release offers this
    request before the rest of it. Within that each is of another provider, while there are such: a provider that is
    away takes no more than one try with it. Of equals the first by name.
    """
    most = min(most, int(np.count_nonzero(weighed.alive)))
    if (found := _of_leaders(weighed, first, most)) is not None:
        return found
    provider = weighed.columns.provider
    chosen = [] if first is None else [first]
    taken: list[int] = [] if first is None else [int(provider[first])]
    for pool in _pools(weighed):
        for distinct in (True, False):
            if len(chosen) == most:
                return chosen
            score = np.where(pool, weighed.all.utility_micro, -np.inf)
            score[chosen] = -np.inf
            for each in taken if distinct else ():
                score[provider == each] = -np.inf
            while len(chosen) < most and score[best := int(score.argmax())] > -np.inf:
                chosen.append(best)
                score[best] = -np.inf
                if distinct:
                    taken.append(int(provider[best]))
                    score[provider == provider[best]] = -np.inf
    return chosen


def explored(weighed: Weighed, drawn: Floats) -> int | None:
    """Who is tried first when a Thompson draw of the models' chances decides; None where it is a specialist's turn.

    Only who is awake and expected to do worse than the best by at most MAX_REGRET of a good answer's worth: nobody
    whom another beats clearly at the same price.
    """
    if weighed.special is not None and weighed.terms.aim.specialists:
        return None
    regret = MAX_REGRET * weighed.terms.worth_micro
    able, (_, best) = next(_pools(weighed)), next(_first_in_turn(weighed), (0, None))
    places = weighed.reaching(best.utility_micro - regret if best else -np.inf)
    places = places[able[places]]
    worths = weighed.of(places)
    if worths.chance is None or not len(places):
        return None
    near = worths.utility_micro >= worths.utility_micro.max() - regret
    moved = weighed.terms.worth_micro * (drawn[weighed.columns.model[places]] - worths.chance)
    return int(places[np.where(near, worths.utility_micro + moved, -np.inf).argmax()])


def peers(weighed: Weighed, place: int) -> Rows:
    """The instances of the same model that cost the request the same and may answer as well, this one included."""
    asked = weighed.columns
    same = weighed.alive & (asked.model == asked.model[place]) & ~weighed.vitals.resting
    same[place] = True
    if weighed.spare is not None:
        same &= weighed.spare == weighed.spare[place]
    places = np.flatnonzero(same)
    cost = expected_cost(weighed.question, asked.input_price[places], asked.output_price[places])
    return places[cost == cost[np.searchsorted(places, place)]]


def quality_matters(sifted: Sifted, question: Question, aim: Aim) -> bool:
    """Whether an estimate of quality could change the order, or is asked for by the policy."""
    if "chat" not in question.needs:
        return False
    if question.policy is not None and question.policy.min_quality is not None:
        return True
    if not question.text or (sifted.special is not None and aim.specialists):
        return False
    model, alive = sifted.columns.model, sifted.alive
    first, last = int(alive.argmax()), len(alive) - 1 - int(alive[::-1].argmax())
    return bool(model[first] != model[last] or (alive & (model != model[first])).any())


def _of_leaders(weighed: Weighed, first: int | None, most: int) -> list[int] | None:
    """The choice where the first pool has ``most`` providers among the leaders: then nobody else is looked at."""
    provider = weighed.columns.provider
    chosen = [] if first is None else [first]
    taken = {int(provider[place]) for place in chosen}
    for place, _ in _first_in_turn(weighed):
        if len(chosen) == most:
            break
        if (of := int(provider[place])) not in taken:
            chosen.append(place)
            taken.add(of)
    return chosen if len(chosen) == most else None


def _first_in_turn(weighed: Weighed) -> Iterator[tuple[int, Leader]]:
    """The leaders that are in the first of the pools."""
    resting, spare = weighed.vitals.resting, weighed.spare
    for place, leader in (weighed.leaders or {}).items():
        if not (resting[place] or (spare is not None and spare[place])):
            yield place, leader


def _pools(weighed: Weighed) -> Iterator[Flags]:
    """Disjoint sets of the able, those to be tried first at the front."""
    resting = weighed.vitals.resting
    for health in (weighed.alive & ~resting, weighed.alive & resting):
        own = health if weighed.spare is None else health & ~weighed.spare
        if weighed.special is not None and weighed.terms.aim.specialists:
            yield own & weighed.special
            yield own & ~weighed.special
        else:
            yield own
        if weighed.spare is not None:
            yield health & weighed.spare
