"""Which instances answer a request, and in what order. Pure: columns of numbers in, places out, no loop over instances.

What is maximised is the expected value of the answer to the caller, in micro-FTNS:

    worth * chance of a good answer - expected price - price of a second * expected seconds

``worth`` is what a good answer is worth: so much for each token of question and answer, whatever others offer (a scale
taken from the offers themselves could be moved by whoever makes one), or what the caller says. ``auto:cheap`` takes a
tenth of it, ``auto:best`` a hundred times (price then decides between all but equals only), ``auto:fast`` lets a second
cost a hundred times more. So of two that are equal otherwise the cheaper always comes first, under every aim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from prsm.agents.call import Target
from prsm.agents.rollouts.assignment import place
from prsm.agents.routers.policy import BALANCED, FIELD, Aim, Filter, Flags, filters, quality_filter
from prsm.agents.routers.question import MAX_CANDIDATES, Domains, Question
from prsm.agents.routers.roster import Columns, Floats, Roster
from prsm.core.money import BASIS_POINTS, TOKENS_PER_PRICE

MAX_REGRET: Final = 0.1
"""What exploring may cost at most, as a share of what a good answer is worth: one that is expected to do worse than
the best by more is not explored."""
_LEAST_AVAILABILITY = 0.05
Places = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rates:
    """What ``auto`` pays: micro-FTNS for a good answer per million tokens of question and answer, and for a second.

    By default a model that raises the chance by 10 percentage points may cost 10 FTNS more per million tokens, and one
    that answers a second sooner 0.0001 FTNS more per request (under auto:fast 0.01, 36 FTNS an hour: a person waits).
    """

    answer_micro_per_mtok: int = 100_000_000
    second_micro: int = 100


@dataclass(frozen=True, slots=True)
class Terms:
    """The trade-off of one request: what a good answer and what a second is worth to its caller, in micro-FTNS."""

    aim: Aim
    worth_micro: float
    second_micro: float


@dataclass(frozen=True, slots=True)
class Vitals:
    """How each row did lately (see Health), in the order of the columns it goes with."""

    resting: Flags
    first_token_ms: Floats
    token_ms: Floats
    availability: Floats

    def take(self, rows: Places) -> "Vitals":
        """Some rows, in the order given."""
        return Vitals(self.resting[rows], self.first_token_ms[rows], self.token_ms[rows], self.availability[rows])


@dataclass(frozen=True, slots=True)
class Sifted:
    """The instances in question and who of them is left after ``steps``.

    ``special`` are specialists whose domain the question is of; ``spare`` answer only when no other instance of their
    model's release does.
    """

    columns: Columns
    alive: Flags
    steps: list[Filter]
    cost_micro: Floats
    special: Flags | None = None
    spare: Flags | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What is thought of each instance in question; of those that are not ``alive`` it means nothing.

    ``chance`` is None where quality was not asked for. ``utility_micro`` is what ``terms`` make of all.
    """

    columns: Columns
    alive: Flags
    terms: Terms
    vitals: Vitals
    chance: Floats | None
    cost_micro: Floats
    latency_ms: Floats
    utility_micro: Floats
    special: Flags | None = None
    spare: Flags | None = None
    steps: list[Filter] = field(default_factory=list[Filter])

    @property
    def ranked(self) -> Flags:
        """Those that stand in the one order of all: no specialists, where these go before it."""
        if self.special is None or not self.terms.aim.specialists:
            return self.alive
        return self.alive & ~self.special


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


def terms_of(question: Question, aim: Aim, rates: Rates) -> Terms:
    """The trade-off under which ``question`` is decided."""
    worth = rates.answer_micro_per_mtok * (question.input_tokens + question.output_tokens) / TOKENS_PER_PRICE
    worth *= aim.answer
    if question.policy is not None and question.policy.answer_value_micro is not None:
        worth = float(question.policy.answer_value_micro)
    return Terms(aim, worth, rates.second_micro * aim.second)


def sift(models: Roster, asked: Columns, question: Question, domains: Domains | None, *, shared: bool) -> Sifted:
    """Who of ``asked`` may answer, all limits but the one on quality considered.

    ``domains`` None: a specialist may be named. With ``shared`` the releases say whose turn it is.
    """
    cost = (question.input_tokens * asked.input_price + question.output_tokens * asked.output_price) / TOKENS_PER_PRICE
    steps: list[Filter] = []
    spare = None
    if shared:
        in_share, spare = _shares(models, asked, question)
        steps.append(Filter("release", in_share | spare, "its version is not the one that the model's release offers"))
    steps.append(_able(models, asked, question))
    special = None
    if domains is not None and len(models.domains) > 1:
        fits = _fitting(models, question, domains)
        keeps = fits[asked.domain]
        special = keeps & (asked.domain > 0)
        steps.append(Filter("domain", keeps, "a specialist, and this is no question of its domain"))
    alive = _all(steps, len(asked.row))
    steps.append(_roomy(asked, alive, question))
    if question.policy is not None:
        steps += filters(question.policy, models, asked, cost)
    alive = _all(steps, len(asked.row))
    if question.cap_micro is not None:
        steps.append(_affordable(asked, alive, question))
        alive &= steps[-1].keeps
    if special is not None:
        special &= alive
    return Sifted(asked, alive, steps, cost, special if special is not None and special.any() else None, spare)


def weigh(sifted: Sifted, vitals: Vitals, question: Question, terms: Terms, chances: Floats | None) -> Weighed:
    """What is thought of each; ``chances`` are of models by their ids. The limit on quality is applied here."""
    asked, alive, steps = sifted.columns, sifted.alive, sifted.steps
    latency = _latency_ms(vitals, alive, question, terms)
    utility = -sifted.cost_micro - terms.second_micro / 1000 * latency
    chance = None
    if chances is not None:
        chance = chances[asked.model]
        if sifted.special is not None:
            chance = np.where(sifted.special, 1.0, chance)
        utility += terms.worth_micro * chance
        if question.policy is not None and question.policy.min_quality is not None:
            steps = [*steps, quality_filter(question.policy.min_quality, np.where(alive, chance, 0.0))]
            alive = alive & steps[-1].keeps
    return Weighed(
        asked, alive, terms, vitals, chance, sifted.cost_micro, latency, utility, sifted.special, sifted.spare, steps
    )


def choose(weighed: Weighed, first: int | None = None, most: int = MAX_CANDIDATES) -> list[int]:
    """The places of those to try, in order, ``first`` at the head if it is given.

    Those awake go before those resting, specialists before others (as the aim says), what the release offers this
    request before the rest of it. Within that each is of another provider, while there are such: a provider that is
    away takes no more than one try with it. Of equals the first by name.
    """
    provider = weighed.columns.provider
    chosen = [] if first is None else [first]
    taken: list[int] = [] if first is None else [int(provider[first])]
    most = min(most, int(np.count_nonzero(weighed.alive)))
    for pool in _pools(weighed):
        for distinct in (True, False):
            if len(chosen) == most:
                return chosen
            score = np.where(pool, weighed.utility_micro, -np.inf)
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
    chance, specialists_first = weighed.chance, weighed.special is not None and weighed.terms.aim.specialists
    if chance is None or specialists_first:
        return None
    able = next(_pools(weighed))
    if not able.any():
        return None
    best = float(weighed.utility_micro[able].max())
    near = able & (weighed.utility_micro >= best - MAX_REGRET * weighed.terms.worth_micro)
    moved = weighed.utility_micro + weighed.terms.worth_micro * (drawn[weighed.columns.model] - chance)
    return int(np.where(near, moved, -np.inf).argmax())


def peers(weighed: Weighed, place: int) -> Places:
    """The instances of the same model that cost the request the same and may answer as well, this one included."""
    asked = weighed.columns
    same = weighed.alive & (asked.model == asked.model[place]) & (weighed.cost_micro == weighed.cost_micro[place])
    same &= ~weighed.vitals.resting
    same[place] = True
    if weighed.spare is not None:
        same &= weighed.spare == weighed.spare[place]
    return np.flatnonzero(same)


def removed(steps: Sequence[Filter]) -> list[tuple[Filter, int]]:
    """Each step with how many it takes away of those that the steps before it left."""
    left, counted = None, list[tuple[Filter, int]]()
    for step in steps:
        now = step.keeps if left is None else left & step.keeps
        before = len(step.keeps) if left is None else int(np.count_nonzero(left))
        counted.append((step, before - int(np.count_nonzero(now))))
        left = now
    return counted


def would_pass_without(steps: Sequence[Filter], one: Filter) -> int:
    """How many would be left if this step were not there."""
    others = [step for step in steps if step is not one]
    return int(np.count_nonzero(_all(others, len(one.keeps))))


def quality_matters(sifted: Sifted, question: Question, aim: Aim) -> bool:
    """Whether an estimate of quality could change the order, or is asked for by the policy."""
    if "chat" not in question.needs:
        return False
    if question.policy is not None and question.policy.min_quality is not None:
        return True
    if not question.text or (sifted.special is not None and aim.specialists):
        return False
    model = sifted.columns.model
    first = int(sifted.alive.argmax())
    return bool((sifted.alive & (model != model[first])).any())


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


def _latency_ms(vitals: Vitals, alive: Flags, question: Question, terms: Terms) -> Floats:
    """Expected time to the whole answer. What nobody measured counts as nothing, so that of equals it is tried; but
    where time matters (auto:fast), as what is usual among the others.
    """
    first, token = vitals.first_token_ms, vitals.token_ms
    if terms.aim.second > BALANCED.second:
        first, token = _usual(first, alive), _usual(token, alive)
    return (first + question.output_tokens * token) / np.maximum(vitals.availability, _LEAST_AVAILABILITY)


def _usual(measured: Floats, alive: Flags) -> Floats:
    known = alive & (measured > 0)
    count = np.count_nonzero(known)
    return np.where(measured > 0, measured, measured[known].mean()) if count else measured


def _shares(models: Roster, asked: Columns, question: Question) -> tuple[Flags, Flags]:
    """Whose turn it is by the releases' shares, and what else of what is stable there is."""
    mine = np.full(len(models.models), BASIS_POINTS - 1)
    if question.sticky is not None:
        session = str(question.sticky)
        for model, trial in models.trials:
            mine[model] = place(trial, session)
    share = mine[asked.model]
    in_share = (asked.low <= share) & (share < asked.high)
    return in_share, (asked.high == BASIS_POINTS) & ~in_share


def _able(models: Roster, asked: Columns, question: Question) -> Filter:
    bits = models.bits(question.needs)
    keeps = np.zeros(len(asked.able), np.bool_) if bits is None else (asked.able & bits) == bits
    return Filter("capabilities", keeps, f"it cannot do what is asked ({', '.join(sorted(question.needs))})")


def _fitting(models: Roster, question: Question, domains: Domains) -> Flags:
    """By id of domain: whether the question is of it; anything is of none."""
    fits = [not name or (name in domains and domains[name](question.text)) for name in models.domains]
    return np.array(fits, np.bool_)


def _roomy(asked: Columns, alive: Flags, question: Question) -> Filter:
    """Those whose context holds the question in all likelihood; where there are none, those where it may."""
    keeps = asked.context >= question.most_tokens
    if not (alive & keeps).any():
        keeps = asked.context >= question.least_tokens
    return Filter("context", keeps, f"its context may not hold the question (up to {question.most_tokens} tokens)")


def _affordable(asked: Columns, alive: Flags, question: Question) -> Filter:
    """Those whose expected answer the cap pays in the worst case; else those whose shortest; else no limit is set.

    That nobody is payable is found, and said, when the candidates are quoted.
    """
    read = np.ceil(question.held_input_tokens * asked.input_price / TOKENS_PER_PRICE)
    for tokens in (max(question.output_tokens, question.choices), question.choices):
        if "chat" not in question.needs:
            tokens = 0
        worst = read + np.ceil(tokens * asked.output_price / TOKENS_PER_PRICE)
        keeps = worst <= question.cap_micro
        if (alive & keeps).any():
            break
    else:
        keeps = np.ones(len(alive), np.bool_)
    return Filter(f"{FIELD}.max_cost_micro", keeps, f"the cap of {question.cap_micro} does not pay for its answer")


def _all(steps: Sequence[Filter], count: int) -> Flags:
    kept = np.ones(count, np.bool_)
    for step in steps:
        kept &= step.keeps
    return kept
