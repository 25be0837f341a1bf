"""A seeded world of callers, liars and models that change: what the node learns there, and how soon.

Runs the real law, fitted state and caller columns; only callers and answers are simulated. Each day every caller asks
some questions and speaks of some answers. ``PRSM_TEST_LEARNING_SEED`` repeats a run, ``PRSM_TEST_LEARNING_WORLDS``
sets how many there are; what was measured is printed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from prsm.agents.learning.fitted import Fitted, aged, learn, nothing
from prsm.agents.learning.learner import LearnerLimits
from prsm.agents.learning.outcomes import REGENERATION_WEIGHT, SILENCE_WEIGHT, Evidence
from prsm.agents.routers.difficulty import load_reader
from prsm.agents.routers.quality import MAX_CALLER_EVIDENCE, Abilities, Item, Score, carry, quality, start

FIRST_SEED = int(os.environ.get("PRSM_TEST_LEARNING_SEED", "1"))
WORLDS = int(os.environ.get("PRSM_TEST_LEARNING_WORLDS", "1"))
SEEDS = range(FIRST_SEED, FIRST_SEED + WORLDS)
READER = load_reader()
CLUSTERS = READER.clusters
AVERAGE = Item(0.6, 1.0, 0)
HALF_LIFE_S = LearnerLimits().half_life_s
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """``truth`` is each model's ability; ``honest`` callers and ``liars`` speak of a share ``speaks`` of answers.

    An honest caller errs one time in ten; a liar calls the best model's answers bad and the worst one's good. Who does
    not speak asks again after some wrong answers, and is silent otherwise.
    """

    seed: int
    truth: dict[str, float]
    honest: int = 200
    liars: int = 0
    speaks: float = 0.05
    scores: dict[str, float] = field(default_factory=dict[str, float])
    verdicts: int = 0
    answers: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.known = nothing(CLUSTERS, BEGIN)

    def prior(self, models: Sequence[str]) -> Abilities:
        given = [[Score(self.scores[model], 1_000)] if model in self.scores else [] for model in models]
        return start(given, CLUSTERS, float(READER.reference[0]))

    def day(self, answers: int, *, lies: int = 5) -> None:
        """Honest callers get ``answers`` in all, each liar tells ``lies``; learnt from in 24 passes."""
        explicit: list[Evidence] = []
        weak: list[Evidence] = []
        models = list(self.truth)
        for _ in range(answers):
            model = models[int(self.random.integers(len(models)))]
            self._honest(model, 1 + int(self.random.integers(self.honest)), explicit, weak)
        best, worst = max(self.truth, key=self.truth.__getitem__), min(self.truth, key=self.truth.__getitem__)
        for liar in range(self.liars):
            for _ in range(lies):
                explicit.append(Evidence(best, self._item(), 10_001 + liar, 0.0, 1.0))
                explicit.append(Evidence(worst, self._item(), 10_001 + liar, 1.0, 1.0))
        self.random.shuffle(explicit)  # type: ignore[arg-type]
        self.verdicts += len(explicit)
        self.answers += answers
        for part in range(24):
            self.known = aged(self.known, self.known.at + timedelta(hours=1), HALF_LIFE_S)
            self.known = learn(self.known, explicit[part::24], weak[part::24], self.prior)

    def chance(self, model: str) -> float:
        """What is thought of a model at the average prompt."""
        return float(quality(lined_up(self.known, [model], self.prior), AVERAGE)[0])

    def true_chance(self, model: str) -> float:
        return float(right(self.truth[model], AVERAGE))

    def _item(self) -> Item:
        cluster = int(self.random.integers(CLUSTERS))
        return Item(float(self.random.normal(0.6, 0.8)), float(self.random.uniform(0.6, 1.4)), cluster)

    def _honest(self, model: str, caller: int, explicit: list[Evidence], weak: list[Evidence]) -> None:
        item = self._item()
        good = self.random.random() < right(self.truth[model], item)
        if self.random.random() < self.speaks:
            told = good if self.random.random() < 0.9 else not good
            explicit.append(Evidence(model, item, caller, float(told), 1.0))
        elif not good and self.random.random() < 0.2:
            weak.append(Evidence(model, item, caller, 0.0, REGENERATION_WEIGHT))
        else:
            weak.append(Evidence(model, item, caller, 1.0, SILENCE_WEIGHT))


def right(ability: float, item: Item) -> float:
    return 1 / (1 + np.exp(item.difficulty - item.discrimination * ability))


def lined_up(known: Fitted, models: Sequence[str], prior: object) -> Abilities:
    place = {model: row for row, model in enumerate(known.models)}
    rows = np.array([place.get(model, -1) for model in models], np.intp)
    return carry(known.abilities, rows, prior(models))  # type: ignore[operator]


FIELD = {"best": 2.0, "good": 1.2, "fair": 0.5, "poor": -0.8}
HONEST_SCORES = {"best": 0.86, "good": 0.77, "fair": 0.62, "poor": 0.31}


def order(world: World) -> list[str]:
    return sorted(world.truth, key=world.chance, reverse=True)


def shown(world: World) -> str:
    return ", ".join(
        f"{model} {world.chance(model):.2f} (true {world.true_chance(model):.2f})" for model in world.truth
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_two_hundred_honest_callers_outvote_twenty_liars_who_speak_as_often(seed: int) -> None:
    clean, attacked = World(seed, dict(FIELD), speaks=0.2), World(seed, dict(FIELD), liars=20, speaks=0.2)
    for _ in range(30):
        clean.day(1_000)
        attacked.day(1_000, lies=1)
    print(f"seed {seed}, {clean.verdicts} honest verdicts: {shown(clean)}")
    print(f"seed {seed}, with {attacked.verdicts - clean.verdicts} lies more: {shown(attacked)}")
    assert order(clean) == list(FIELD)
    assert order(attacked) == list(FIELD)
    for model in FIELD:
        assert abs(attacked.chance(model) - clean.chance(model)) < 0.15, model


@pytest.mark.parametrize("seed", SEEDS)
def test_liars_four_times_as_loud_as_all_honest_callers_together_turn_no_good_model_into_a_bad_one(seed: int) -> None:
    clean, attacked = World(seed, dict(FIELD)), World(seed, dict(FIELD), liars=20)
    for _ in range(30):
        clean.day(1_000)
        attacked.day(1_000)
    lies = attacked.verdicts - clean.verdicts
    assert lies > 3 * clean.verdicts
    print(f"seed {seed}, {clean.verdicts} honest verdicts, {lies} lies: {shown(attacked)}")
    for model in FIELD:
        assert abs(attacked.chance(model) - clean.chance(model)) < 0.3, model
    assert attacked.chance("best") > attacked.chance("poor")


@pytest.mark.parametrize("seed", SEEDS)
def test_one_liar_among_many_moves_nothing_beyond_its_bound_however_much_it_lies(seed: int) -> None:
    quiet, loud = World(seed, dict(FIELD), honest=50), World(seed, dict(FIELD), honest=50, liars=1)
    for _ in range(10):
        quiet.day(300)
        loud.day(300, lies=200)
    before = lined_up(quiet.known, ["best", "poor"], quiet.prior)
    after = lined_up(loud.known, ["best", "poor"], loud.prior)
    moved = np.abs(after.mean - before.mean)
    print(f"seed {seed}: 2,000 lies of one caller moved means by {moved.round(3)}")
    assert np.all(moved <= MAX_CALLER_EVIDENCE / before.prior_precision)
    assert np.all(moved < 0.5), "and among fifty others by far less"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_whose_quality_drops_is_found(seed: int) -> None:
    world = World(seed, {"best": 2.0, "good": 1.2}, scores={"best": 0.86, "good": 0.77})
    for _ in range(20):
        world.day(600)
    assert order(world) == ["best", "good"]
    world.truth = {"best": -0.2, "good": 1.2}
    verdicts, answers = world.verdicts, world.answers
    days = 0
    while order(world)[0] == "best":
        world.day(600)
        days += 1
        assert days < 60, "it is never found"
    found = (world.answers - answers) / 2
    print(
        f"seed {seed}: a model that fell from {right(2.0, AVERAGE):.0%} to {right(-0.2, AVERAGE):.0%} was found after "
        f"{found:.0f} of its answers, {(world.verdicts - verdicts) / 2:.0f} verdicts, {days} days"
    )
    assert days <= 14


@pytest.mark.parametrize("seed", SEEDS)
def test_a_provider_that_lied_in_its_scores_is_found(seed: int) -> None:
    world = World(seed, {"honest": 1.2, "boaster": -0.2}, scores={"honest": 0.77, "boaster": 0.99})
    assert world.chance("boaster") > world.chance("honest")
    while order(world)[0] == "boaster":
        world.day(600)
        assert world.answers < 20_000, "it is never found"
    print(
        f"seed {seed}: a model with invented scores was found after {world.answers / 2:.0f} of its answers, "
        f"{world.verdicts / 2:.0f} verdicts"
    )
    assert world.answers / 2 <= 3_000


@pytest.mark.parametrize("seed", SEEDS)
def test_the_estimate_recovers_when_an_attack_ends(seed: int) -> None:
    world = World(seed, dict(FIELD), liars=60, scores=dict(HONEST_SCORES))
    for _ in range(10):
        world.day(1_000)
    harmed = shown(world)
    assert order(world)[0] != "best", "the attack is strong enough to show something"
    world.liars = 0
    days = 0
    while order(world) != list(FIELD):
        world.day(1_000)
        days += 1
        assert days < 120, f"it does not recover: {shown(world)}"
    print(f"seed {seed}: 60 liars for ten days: {harmed}")
    print(f"seed {seed}: {days} days after they stopped: {shown(world)}")
    assert days <= 84, "six times the half-life"


def test_a_world_is_its_seed() -> None:
    one, other = World(5, dict(FIELD), liars=3), World(5, dict(FIELD), liars=3)
    for world in (one, other):
        world.day(100)
    assert [one.chance(model) for model in FIELD] == [other.chance(model) for model in FIELD]
    assert one.known.models == other.known.models
    different = World(6, dict(FIELD), liars=3)
    different.day(100)
    assert [different.chance(model) for model in FIELD] != [one.chance(model) for model in FIELD]
