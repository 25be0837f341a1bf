"""Trials over a real database: sums of several workers, and a candidate that is withdrawn by whoever finds out."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from prsm.agents.rollouts.assignment import CANDIDATE, STABLE
from prsm.agents.rollouts.evidence import Mean
from prsm.agents.rollouts.trial import Limits
from prsm.agents.rollouts.trials import Trials
from prsm.core import database
from prsm.core.database import Database


@pytest.fixture
async def store(fresh_database: str) -> AsyncIterator[Database]:
    store = await database.connect(fresh_database, pool_size=4, timeout_ms=5000)
    await database.migrate(store.engine)
    yield store
    await store.close()


class Registry:
    """Keeps who was withdrawn, and why."""

    def __init__(self) -> None:
        self.withdrawn: list[tuple[str, str, str]] = []

    async def withdraw(self, model: str, candidate: str, reason: str) -> None:
        self.withdrawn.append((model, candidate, reason))


async def test_workers_count_together_and_one_of_them_withdraws(store: Database) -> None:
    registry = Registry()
    workers = [Trials(store.pool, registry.withdraw) for _ in range(2)]
    await workers[0].start("m", "1", "2", Limits(slow_ms=1000))
    await workers[1].reload()
    for worker in workers:
        for number in range(400):
            worker.answered("m", STABLE, ok=True, first_token_ms=2000 if number % 20 == 0 else 10)
    for number in range(10):
        workers[number % 2].answered("m", CANDIDATE, ok=False, first_token_ms=None)
    await workers[0].settle()
    assert not registry.withdrawn, "five failures may be one blip"
    assert workers[0].open["m"].counts[STABLE, "error"] == Mean(400, 0)
    await workers[1].settle()
    assert [(model, candidate) for model, candidate, _ in registry.withdrawn] == [("m", "2")]
    assert "10 answers" in registry.withdrawn[0][2]
    assert not workers[1].open
    (ended,) = await workers[0].history("m")
    assert ended.ended_at is not None
    assert ended.reason == registry.withdrawn[0][2]
    assert ended.counts[STABLE, "slow"] == Mean(800, 40)


async def test_the_same_trial_goes_on_and_another_takes_its_place(store: Database) -> None:
    trials = Trials(store.pool, Registry().withdraw)
    await asyncio.gather(*(trials.start("m", "1", "2", Limits()) for _ in range(5)))
    first = trials.open["m"]
    trials.observe("m", CANDIDATE, "quality", 0.75)
    await trials.settle()
    await trials.start("m", "1", "2", Limits(error_increase=0.5))
    assert trials.open["m"].id == first.id
    assert trials.open["m"].limits.error_increase == 0.5
    assert trials.open["m"].counts[CANDIDATE, "quality"] == Mean(1, 0.75)
    await trials.start("m", "1", "3", Limits())
    assert trials.open["m"].id != first.id
    assert not trials.open["m"].counts
    assert [trial.candidate for trial in await trials.history("m")] == ["3", "2"]
    await trials.end("m", "promoted")
    assert not trials.open


async def test_what_could_not_be_added_is_added_later(store: Database) -> None:
    trials = Trials(store.pool, Registry().withdraw)
    await trials.start("m", "1", "2", Limits())
    trials.observe("m", STABLE, "error", 1)
    await store.pool.execute("ALTER TABLE rollout_counts RENAME TO away")
    with pytest.raises(Exception, match="rollout_counts"):
        await trials.settle()
    trials.observe("m", STABLE, "error", 0)
    await store.pool.execute("ALTER TABLE away RENAME TO rollout_counts")
    await trials.settle()
    assert trials.open["m"].counts[STABLE, "error"] == Mean(2, 1)
    trials.observe("other", STABLE, "error", 1)
    await trials.settle()
    assert set(trials.open) == {"m"}
