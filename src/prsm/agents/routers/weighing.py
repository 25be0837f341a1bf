"""What each instance that may answer is worth to a request. Pure: columns of numbers in, columns of numbers out.

What is maximised is the expected value of the answer to the caller, in micro-FTNS:

    worth * chance of a good answer - expected price - price of a second * expected seconds

``worth`` is what a good answer is worth: so much for each token of question and answer, whatever others offer (a scale
taken from the offers themselves could be moved by whoever makes one), or what the caller says. ``auto:cheap`` takes a
tenth of it, ``auto:best`` a hundred times (price then decides between all but equals only), ``auto:fast`` lets a second
cost a hundred times more. So of two that are equal otherwise the cheaper always comes first, under every aim.

Of many instances, one pass in single precision finds the few that can be the best, and these alone are weighed exactly.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np

from prsm.agents.routers.policy import BALANCED, Aim, Filter, Flags, quality_filter
from prsm.agents.routers.question import Question
from prsm.agents.routers.roster import Columns, Floats, Rows, Singles
from prsm.agents.routers.sifting import Sifted, expected_cost
from prsm.core.money import TOKENS_PER_PRICE

_LEAST_AVAILABILITY = 0.05
_FEW: Final = 64
_MOST_LEADERS: Final = 1024
_DEEP: Final = 16
_SINGLE_ERROR: Final = 2.0**-20
"""Above what a dozen operations in single precision are off, relative to the numbers that go in."""


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
    """How each row did lately (see Health), in the order of the columns it goes with.

    ``pace`` is what ``paced`` makes of it, for large rosters only.
    """

    resting: Flags
    first_token_ms: Floats
    token_ms: Floats
    availability: Floats
    pace: Singles | None = None

    def take(self, rows: Rows) -> "Vitals":
        """Some rows, in the order given."""
        return Vitals(
            self.resting[rows],
            self.first_token_ms[rows],
            self.token_ms[rows],
            self.availability[rows],
            None if self.pace is None else self.pace[:, rows],
        )


def paced(first_token_ms: Floats, token_ms: Floats, availability: Floats) -> Singles:
    """Milliseconds until the first token and for each, over availability; by how much a usual one counts; [4, n]."""
    tries = 1 / np.maximum(availability, _LEAST_AVAILABILITY)
    rows = (first_token_ms * tries, token_ms * tries, (first_token_ms <= 0) * tries, (token_ms <= 0) * tries)
    return np.stack(rows).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Worths:
    """What is thought of some instances, a number each; ``chance`` is None where quality was not asked for."""

    cost_micro: Floats
    latency_ms: Floats
    chance: Floats | None
    utility_micro: Floats


class Leader(NamedTuple):
    """One of the best: its number among them and what is thought of it."""

    number: int
    utility_micro: float
    latency_ms: float
    chance: float | None


class Estimate(NamedTuple):
    """Utilities in single precision, of the places ``living``, or of all (-inf of who is not alive) where None."""

    living: Rows | None
    utility_micro: Singles


@dataclass(frozen=True)
class Weighed:
    """What is thought of each instance in question; of those that are not ``alive`` it means nothing.

    ``chances`` are of models by their ids, None where quality was not asked for. ``usual_ms`` is what counts as the
    time to the first token, and for each, of who was not measured. All are weighed only when somebody looks.
    """

    columns: Columns
    alive: Flags
    question: Question
    terms: Terms
    vitals: Vitals
    chances: Floats | None
    usual_ms: tuple[float, float] = (0.0, 0.0)
    special: Flags | None = None
    spare: Flags | None = None
    steps: list[Filter] = field(default_factory=list[Filter])

    @property
    def ranked(self) -> Flags:
        """Those that stand in the one order of all: no specialists, where these go before it."""
        if self.special is None or not self.terms.aim.specialists:
            return self.alive
        return self.alive & ~self.special

    @cached_property
    def all(self) -> Worths:
        """Of everybody in question, by place."""
        return self.of(slice(None))

    @cached_property
    def cost_micro(self) -> Floats:
        """The expected price of everybody in question."""
        return expected_cost(self.question, self.columns.input_price, self.columns.output_price)

    @cached_property
    def estimate(self) -> Estimate | None:
        """The utility of the living in single precision; None where there is nothing to gain by it."""
        return _estimated(self)

    @cached_property
    def leaders(self) -> dict[int, Leader] | None:
        """The best of the living by place, the best first, of equals the first place.

        Whoever is not among them is worth less than the last. None where all have to be weighed to say so.
        """
        return _leaders(self)

    def reaching(self, least_micro: float) -> Rows:
        """The places of all the living that are worth ``least_micro``, and of some that are not."""
        if self.estimate is None:
            return np.flatnonzero(self.alive)
        living, utility = self.estimate.living, self.estimate.utility_micro
        places = np.flatnonzero(utility >= least_micro - _error(self.terms, least_micro))
        return places if living is None else living[places]

    def of(self, places: Rows | slice) -> Worths:
        """Of the instances at some places."""
        asked, vitals, (first, token) = self.columns, self.vitals, self.usual_ms
        cost = expected_cost(self.question, asked.input_price[places], asked.output_price[places])
        latency = self.question.output_tokens * _or_usual(vitals.token_ms[places], token)
        latency += _or_usual(vitals.first_token_ms[places], first)
        latency /= np.maximum(vitals.availability[places], _LEAST_AVAILABILITY)
        utility = latency * (-self.terms.second_micro / 1000)
        utility -= cost
        if self.chances is None:
            return Worths(cost, latency, None, utility)
        chance = self.chances[asked.model[places]]
        if self.special is not None:
            chance = np.where(self.special[places], 1.0, chance)
        utility += self.terms.worth_micro * chance
        return Worths(cost, latency, chance, utility)

    def at(self, place: int) -> tuple[float, float | None]:
        """Latency and chance of the instance at ``place``."""
        if self.leaders is not None and (leader := self.leaders.get(place)):
            return leader.latency_ms, leader.chance
        one = self.of(np.array([place]))
        return float(one.latency_ms[0]), None if one.chance is None else float(one.chance[0])


def terms_of(question: Question, aim: Aim, rates: Rates) -> Terms:
    """The trade-off under which ``question`` is decided."""
    worth = rates.answer_micro_per_mtok * (question.input_tokens + question.output_tokens) / TOKENS_PER_PRICE
    worth *= aim.answer
    if question.policy is not None and question.policy.answer_value_micro is not None:
        worth = float(question.policy.answer_value_micro)
    return Terms(aim, worth, rates.second_micro * aim.second)


def weigh(sifted: Sifted, vitals: Vitals, question: Question, terms: Terms, chances: Floats | None) -> Weighed:
    """What is thought of each; ``chances`` are of models by their ids. The limit on quality is applied here.

    What nobody measured counts as instant, so that of equals it is tried; but where time matters (auto:fast), as what
    is usual among the others.
    """
    alive, steps, policy = sifted.alive, sifted.steps, question.policy
    usual = (0.0, 0.0)
    if terms.aim.second > BALANCED.second:
        usual = _usual(vitals.first_token_ms, alive), _usual(vitals.token_ms, alive)
    if chances is not None and policy is not None and policy.min_quality is not None:
        chance = chances[sifted.columns.model]
        if sifted.special is not None:
            chance = np.where(sifted.special, 1.0, chance)
        steps = [*steps, quality_filter(policy.min_quality, np.where(alive, chance, 0.0))]
        alive = alive & steps[-1].keeps
    return Weighed(sifted.columns, alive, question, terms, vitals, chances, usual, sifted.special, sifted.spare, steps)


def _or_usual(measured: Floats, usual: float) -> Floats:
    return np.where(measured > 0, measured, usual) if usual else measured


def _usual(measured: Floats, alive: Flags) -> float:
    """The mean of what was measured of the living; what was not is 0."""
    count = np.count_nonzero(alive & (measured > 0))
    return float((measured * alive).sum()) / count if count else 0.0  # as a product BLAS would wake threads for it


def _leaders(weighed: Weighed) -> dict[int, Leader] | None:
    """The _FEW best and whoever reaches them, weighed and in order."""
    if weighed.estimate is None or weighed.special is not None:
        return None
    least = _low_bound(weighed.estimate.utility_micro)
    least -= _error(weighed.terms, least)
    places = weighed.reaching(least)
    if least == -np.inf or len(places) > _MOST_LEADERS:
        return None
    worths = weighed.of(places)
    order = np.argsort(-worths.utility_micro, kind="stable")
    order = order[: np.count_nonzero(worths.utility_micro >= least)]
    columns = worths.utility_micro[order], worths.latency_ms[order]
    chance = [None] * len(order) if worths.chance is None else worths.chance[order].tolist()
    rows = zip(places[order].tolist(), *(column.tolist() for column in columns), chance, strict=True)
    return {place: Leader(number, *worth) for number, (place, *worth) in enumerate(rows, 1)}


def _estimated(weighed: Weighed) -> Estimate | None:
    """Everybody's utility in single precision; of few, or with too little known for it, None."""
    alive, pace = weighed.alive, weighed.vitals.pace
    if pace is None or len(alive) <= _MOST_LEADERS:
        return None
    if np.count_nonzero(alive) * 2 < len(alive):
        living = np.flatnonzero(alive)
        return Estimate(living, _estimate(weighed, pace, living))
    return Estimate(None, np.where(alive, _estimate(weighed, pace, slice(None)), -np.inf))


def _error(terms: Terms, micro: float) -> float:
    """How far an estimate near ``micro`` may be off: no term of it is above twice the worth and ``micro``."""
    return _SINGLE_ERROR * (2 * terms.worth_micro + abs(micro))


def _estimate(weighed: Weighed, pace: Singles, places: Rows | slice) -> Singles:
    """Utility in single precision: two products of a vector with a table, and a look into the chances."""
    asked, question, (first, token) = weighed.columns, weighed.question, weighed.usual_ms
    price, out, ms = -1 / TOKENS_PER_PRICE, question.output_tokens, -weighed.terms.second_micro / 1000
    score: Singles = np.array([price * question.input_tokens, price * out], np.float32) @ _part(asked.prices, places)
    slow = [ms, ms * out, ms * first, ms * out * token] if first or token else [ms, ms * out]
    score += np.array(slow, np.float32) @ _part(pace[: len(slow)], places)
    if weighed.chances is not None:
        score += (weighed.terms.worth_micro * weighed.chances).astype(np.float32).take(asked.model[places])
    return score


def _part(table: Singles, places: Rows | slice) -> Singles:
    return table[:, places] if isinstance(places, slice) else table.take(places, axis=1)  # a quarter of the time


def _low_bound(score: Singles) -> float:
    """What at least _FEW reach: so many columns of a table of all have a maximum that high. One pass, hardly a sort."""
    width = len(score) // _DEEP
    if width < _FEW:
        return -np.inf if len(score) < _FEW else float(np.partition(score, len(score) - _FEW)[len(score) - _FEW])
    tops = score[: _DEEP * width].reshape(_DEEP, width).max(axis=0)
    return float(np.partition(tops, width - _FEW)[width - _FEW])
