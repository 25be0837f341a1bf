"""A simulated market of models: seeded latencies, errors, outages and price moves, and one that lies about its scores.

The router, the board of liveness, the breakers and the law of quality are the real ones; time and upstreams are not. A
request's value is what its caller gets: worth of a good answer, less the price, less the seconds waited. The oracle
knows the true chances, who is away and what each usually takes; nobody can do better on average.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
import numpy.typing as npt

from prsm.agents.call import Target
from prsm.agents.learning.exams import REFERENCE
from prsm.agents.liveness.board import Liveness
from prsm.agents.routers import quality
from prsm.agents.routers.model_router import Router, roster
from prsm.agents.routers.policy import Policy
from prsm.agents.routers.quality import Item, Outcomes, Score
from prsm.agents.routers.question import Question
from prsm.agents.seams import UpstreamError
from prsm.core.errors import PrsmError
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy

CLUSTERS = 8
CALLERS = 200
INPUT_TOKENS, OUTPUT_TOKENS = 200, 300
SECOND_MICRO = 100
LIAR = "honest-oak"
_KEPT_EACH_HOUR = 0.9
_BATCH_S = 5.0


@dataclass(frozen=True, slots=True)
class TrueModel:
    """What a model is: its ability in general and by cluster in log-odds, and the scores that it shows."""

    name: str
    ability: float
    local: tuple[float, ...]
    scores: tuple[Score, ...]

    def chance(self, item: Item) -> float:
        return 1 / (1 + math.exp(item.difficulty - item.discrimination * (self.ability + self.local[item.cluster])))


@dataclass
class Upstream:
    """One instance: how fast it is, how often it fails, when it is away; the price moves."""

    target: Target
    model: TrueModel
    median_s: float
    error_rate: float
    away: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def is_away(self, now_s: float) -> bool:
        return any(start <= now_s < end for start, end in self.away)

    def cost_micro(self) -> float:
        return (INPUT_TOKENS * self.target.input_price_micro + OUTPUT_TOKENS * self.target.output_price_micro) / 1e6

    @property
    def mean_s(self) -> float:
        return self.median_s * math.exp(0.5 * 0.4**2)


class LearntQuality:
    """The law of quality behind the seam of the router; outcomes are learnt in batches."""

    def __init__(self, models: Sequence[TrueModel], items: Callable[[str], Item], rng: np.random.Generator) -> None:
        self._names = [model.name for model in models]
        self.abilities = quality.start([model.scores for model in models], CLUSTERS, REFERENCE[0])
        self._items = items
        self._rng = rng
        self._rows: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._batch: list[tuple[int, Item, float, float, int]] = []

    def follow(self, models: Sequence[str]) -> None:
        self._rows = np.array([self._names.index(name) for name in models], np.intp)

    async def item(self, text: str) -> Item:
        return self._items(text)

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        return self.chances(Item(0.0, 1.0, 0), explore=False)

    def chances(self, item: Item, *, explore: bool) -> npt.NDArray[np.float64]:
        if explore:
            normals = self._rng.standard_normal(len(self._names))
            return quality.draw(self.abilities, item, normals)[self._rows]
        return quality.quality(self.abilities, item)[self._rows]

    def outcome(self, model: str, item: Item, success: float, weight: float, caller: int) -> None:
        self._batch.append((self._names.index(model), item, success, weight, caller))

    def learn(self, elapsed_s: float) -> None:
        if self._batch:
            models, items, successes, weights, callers = zip(*self._batch, strict=True)
            self.abilities = quality.update(
                self.abilities,
                Outcomes(
                    np.array(models, np.intp),
                    np.array([item.cluster for item in items], np.intp),
                    np.array([item.difficulty for item in items]),
                    np.array([item.discrimination for item in items]),
                    np.array(successes, float),
                    np.array(weights, float),
                    np.array(callers, np.intp),
                ),
            )
            self._batch.clear()
        self.abilities = quality.forget(self.abilities, _KEPT_EACH_HOUR ** (elapsed_s / 3600))


@dataclass
class Tally:
    """What came of all requests: answers, good ones, money, seconds; and what the oracle expected of each."""

    requests: int = 0
    answered: int = 0
    good: float = 0.0
    cost_micro: float = 0.0
    waited_s: float = 0.0
    value_micro: float = 0.0
    oracle_micro: float = 0.0
    by_model: dict[str, int] = field(default_factory=dict[str, int])

    def since(self, before: "Tally") -> "Tally":
        """What was added after ``before``."""
        names = ("requests", "answered", "good", "cost_micro", "waited_s", "value_micro", "oracle_micro")
        added = {name: getattr(self, name) - getattr(before, name) for name in names}
        by_model = {name: count - before.by_model.get(name, 0) for name, count in self.by_model.items()}
        return Tally(**added, by_model=by_model)

    @property
    def quality(self) -> float:
        return self.good / self.requests

    @property
    def cost_each_micro(self) -> float:
        return self.cost_micro / self.requests

    @property
    def regret(self) -> float:
        """The share of what the oracle would have made of the same requests that was not made."""
        return 1 - self.value_micro / self.oracle_micro


@dataclass
class _Running:
    """A request on its way: whom it may still ask, and what it has waited for."""

    item: Item
    caller: int
    left: list[Upstream]
    began_s: float


Chooser = Callable[["World", str, Item], "list[Upstream]"]


class World:
    """One run; the same seed gives the same upstreams, questions, outages and price moves whoever chooses."""

    def __init__(self, seed: int, *, worth_micro: float, horizon_s: float = 4000.0, rate_s: float = 5.0) -> None:
        self.worth_micro = worth_micro
        self.horizon_s, self._rate_s = horizon_s, rate_s
        self.now_s = 0.0
        made = random.Random(seed)
        self.models = _models(made)
        self.upstreams = {each.target.name: each for each in _upstreams(made, self.models, horizon_s)}
        self._asked = random.Random(seed + 1)
        self._luck = random.Random(seed + 2)
        self._prices = random.Random(seed + 3)
        self._items: dict[str, Item] = {}
        self.quality = LearntQuality(self.models, self._items.__getitem__, np.random.default_rng(seed))
        self.breakers = BreakerBoard(lambda: self.now_s, BreakerPolicy())
        self.live = Liveness(resting=self.breakers.resting, clock=lambda: self.now_s, draw=self._luck.random)
        self.router = Router(
            {}, self.live.health, board=self.quality, order=self.live.order, explore_bps=500, chance=self._luck.random
        )
        self.tally = Tally()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    async def run(self, fixed: str = "") -> tuple[Tally, Tally]:
        """All requests until the horizon, and those of its second half.

        The router answers, or with ``fixed`` always this model.
        """
        half = Tally()
        self._publish()
        arrival_s, learnt_s, moved_s, swept_s = self._gap(), 0.0, 0.0, 0.0
        while arrival_s < self.horizon_s:
            self._until(arrival_s)
            if self.now_s - learnt_s >= _BATCH_S:
                self.quality.learn(self.now_s - learnt_s)
                learnt_s = self.now_s
            if self.now_s - moved_s >= 200:
                moved_s = self.now_s
                self._move_prices()
            if self.now_s - swept_s >= 1:
                swept_s = self.now_s
                self.live.sweep()
            if arrival_s < self.horizon_s / 2:
                half = replace(self.tally, by_model=dict(self.tally.by_model))
            await self._arrive(fixed)
            arrival_s += self._gap()
        self._until(math.inf)
        return self.tally, self.tally.since(half)

    def by_the_catalogue(self) -> str:
        """The model that somebody would settle on who believes the scores shown, at the prices of the first day."""

        def seems_micro(upstream: Upstream) -> float:
            return self.worth_micro * upstream.model.scores[0].accuracy - upstream.cost_micro()

        return max(self.upstreams.values(), key=seems_micro).model.name

    def expected_value_micro(self, upstream: Upstream, item: Item) -> float:
        """What an answer of this instance is worth now, truly; less what another try costs where it fails."""
        if upstream.is_away(self.now_s):
            return -math.inf
        tries = 1 / (1 - upstream.error_rate)
        waited_micro = SECOND_MICRO * upstream.mean_s * tries
        return self.worth_micro * upstream.model.chance(item) - upstream.cost_micro() - waited_micro

    async def _arrive(self, fixed: str) -> None:
        number = self.tally.requests
        self.tally.requests += 1
        item = _item(self._asked)
        caller = self._asked.randrange(CALLERS)
        self.tally.oracle_micro += max(self.expected_value_micro(each, item) for each in self.upstreams.values())
        if fixed:
            able = [each for each in self.upstreams.values() if each.model.name == fixed]
            chosen = sorted(able, key=lambda each: (each.is_away(self.now_s), each.cost_micro()))
        else:
            text = str(number)
            self._items[text] = item
            try:
                ranked = await self.router.rank("auto", self._question(text))
            except PrsmError:
                ranked = []
            del self._items[text]
            chosen = [self.upstreams[candidate.target.name] for candidate in ranked]
        self._try(_Running(item, caller, chosen, self.now_s))

    def _question(self, text: str) -> Question:
        return Question(
            frozenset({"chat"}), text, INPUT_TOKENS, OUTPUT_TOKENS, 0, INPUT_TOKENS + OUTPUT_TOKENS,
            policy=Policy(answer_value_micro=round(self.worth_micro)), sticky=UUID(int=self.tally.requests),
        )  # fmt: skip

    def _try(self, running: _Running) -> None:
        while running.left:
            upstream = running.left.pop(0)
            admitted_s = self.now_s
            if self.breakers.allow(upstream.target.name, now_s=admitted_s):
                self._ask(running, upstream, admitted_s)
                return
        self._settle(running, None)

    def _ask(self, running: _Running, upstream: Upstream, admitted_s: float) -> None:
        call = self.live.began(upstream.target)
        away = upstream.is_away(self.now_s)
        fails = away or self._luck.random() < upstream.error_rate
        takes_s = 1.0 if away else upstream.median_s * math.exp(0.4 * self._luck.gauss(0, 1)) * (0.3 if fails else 1)

        def end() -> None:
            self.breakers.record(upstream.target.name, ok=not fails, admitted_s=admitted_s)
            if fails:
                call.failed(UpstreamError("away", retryable=True, upstream_status=503))
                self._try(running)
            else:
                call.answered(OUTPUT_TOKENS)
                self._settle(running, upstream)

        heapq.heappush(self._events, (self.now_s + takes_s, next(self._numbers), end))

    def _settle(self, running: _Running, upstream: Upstream | None) -> None:
        tally, waited_s = self.tally, self.now_s - running.began_s
        tally.waited_s += waited_s
        tally.value_micro -= SECOND_MICRO * waited_s
        if upstream is None:
            return
        # Expected, not drawn: the same for whoever chooses, and a run tells as much as a hundred times longer one.
        chance = upstream.model.chance(running.item)
        tally.answered += 1
        tally.good += chance
        tally.cost_micro += upstream.cost_micro()
        tally.value_micro += self.worth_micro * chance - upstream.cost_micro()
        tally.by_model[upstream.model.name] = tally.by_model.get(upstream.model.name, 0) + 1
        if self._luck.random() < 0.1:
            good = self._luck.random() < chance
            told = good if self._luck.random() < 0.95 else not good
            self.quality.outcome(upstream.model.name, running.item, float(told), 1.0, running.caller)

    def _until(self, time_s: float) -> None:
        while self._events and self._events[0][0] <= time_s:
            self.now_s, _, end = heapq.heappop(self._events)
            end()
        if math.isfinite(time_s):
            self.now_s = time_s

    def _gap(self) -> float:
        return self._asked.expovariate(self._rate_s)

    def _move_prices(self) -> None:
        for upstream in self.upstreams.values():
            factor = self._prices.uniform(0.8, 1.25)
            target = upstream.target
            upstream.target = replace(
                target,
                input_price_micro=round(target.input_price_micro * factor),
                output_price_micro=round(target.output_price_micro * factor),
            )
        self._publish()

    def _publish(self) -> None:
        self.router.models = roster([each.target for each in self.upstreams.values()])


def _models(rng: random.Random) -> list[TrueModel]:
    """From weak to strong; the liar is among the weakest and shows the scores of the strongest."""
    models: list[TrueModel] = []
    names = ["ash", "beech", "birch", "cedar", "elm", "fir", "larch", "maple", "pine", "rowan", "yew"]
    for rank, name in enumerate(names):
        ability = -0.5 + 0.35 * rank + rng.gauss(0, 0.15)
        local = tuple(rng.gauss(0, 0.4) for _ in range(CLUSTERS))
        shown = 1 / (1 + math.exp(-(ability + rng.gauss(0, 0.3))))
        models.append(TrueModel(name, ability, local, (Score(shown, 1000),)))
    models.append(TrueModel(LIAR, -0.3, (0.0,) * CLUSTERS, (Score(0.97, 14_000),)))
    return models


def _upstreams(rng: random.Random, models: Sequence[TrueModel], horizon_s: float) -> list[Upstream]:
    outages = {f"p{number}": _outages(rng, horizon_s) for number in range(6)}
    made: list[Upstream] = []
    for model in models:
        price = 150_000 * math.exp(1.1 * (model.ability + 0.5)) * rng.uniform(0.7, 1.4)
        for provider in rng.sample(sorted(outages), rng.randint(1, 4)):
            own = price * rng.uniform(0.9, 1.3)
            target = Target(
                f"{provider}/{model.name}", model.name, provider, "simulated", context_tokens=100_000,
                input_price_micro=round(own), output_price_micro=round(4 * own),
            )  # fmt: skip
            made.append(
                Upstream(target, model, rng.uniform(0.4, 3.0), rng.choice([0.002, 0.01, 0.05]), outages[provider])
            )
    return made


def _outages(rng: random.Random, horizon_s: float) -> list[tuple[float, float]]:
    starts = sorted(rng.uniform(0, horizon_s) for _ in range(3))
    return [(start, start + rng.uniform(20, 200)) for start in starts]


def _item(rng: random.Random) -> Item:
    return Item(rng.gauss(0.8, 1.3), rng.uniform(0.6, 1.4), rng.randrange(CLUSTERS))
