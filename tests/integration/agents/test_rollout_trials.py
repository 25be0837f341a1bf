"""Trials over a real database: sums of several workers, and a candidate that is withdrawn by whoever finds out."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from msgspec import structs
from tests.support.answering import Model, says
from tests.support.asks import chat, target
from tests.support.judging import Reader

from prsm.agents.call import Choice, Completion
from prsm.agents.rollouts.assignment import CANDIDATE, SHADOW, STABLE
from prsm.agents.rollouts.evidence import Mean
from prsm.agents.rollouts.judge import Judge
from prsm.agents.rollouts.shadow import Shadow
from prsm.agents.rollouts.trial import PREFERRED, Limits
from prsm.agents.rollouts.trials import Trial, Trials
from prsm.agents.seams import UpstreamError
from prsm.core import database
from prsm.core.database import Database
from prsm.core.errors import InvalidRequest

GIVEN = Completion([Choice(content="what the caller got")], None)


@pytest.fixture
async def store(fresh_database: str) -> AsyncIterator[Database]:
    store = await database.connect(fresh_database, pool_size=4, timeout_ms=5000)
    yield store
    await store.close()


class Registry:
    """Keeps who was withdrawn, and why."""

    def __init__(self) -> None:
        self.withdrawn: list[tuple[str, str, str]] = []
        self.rated: dict[str, Mean] = {}

    async def ratings(self, _trial: Trial) -> dict[str, Mean]:
        return self.rated

    async def withdraw(self, model: str, candidate: str, reason: str) -> None:
        self.withdrawn.append((model, candidate, reason))


async def test_workers_count_together_and_one_of_them_withdraws(store: Database) -> None:
    registry = Registry()
    workers = [Trials(store.pool, registry.withdraw, registry.ratings) for _ in range(2)]
    await workers[0].start("m", "1", "2", Limits(slow_ms=1000))
    await workers[1].reload()
    for worker in workers:
        for number in range(400):
            worker.seen("m", "1", ok=True, first_token_ms=2000 if number % 20 == 0 else 10)
    for number in range(10):
        workers[number % 2].seen("m", "2", ok=False, first_token_ms=None)
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
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await asyncio.gather(*(trials.start("m", "1", "2", Limits()) for _ in range(5)))
    first = trials.open["m"]
    registry.rated = {CANDIDATE: Mean(1, 0.75)}
    await trials.settle()
    await trials.start("m", "1", "2", Limits(error_increase=0.5))
    assert trials.open["m"].id == first.id
    assert trials.open["m"].limits.error_increase == 0.5
    assert trials.open["m"].counts[CANDIDATE, "quality"] == Mean(1, 0.75)
    registry.rated = {}
    await trials.start("m", "1", "3", Limits())
    assert trials.open["m"].id != first.id
    assert not trials.open["m"].counts
    assert [trial.candidate for trial in await trials.history("m")] == ["3", "2"]
    await trials.end("m", "promoted")
    assert not trials.open


async def test_what_could_not_be_added_is_added_later(store: Database) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    trials.seen("m", "1", ok=False, first_token_ms=None)
    await store.pool.execute("ALTER TABLE rollout_counts RENAME TO away")
    with pytest.raises(Exception, match="rollout_counts"):
        await trials.settle()
    trials.seen("m", "1", ok=True, first_token_ms=None)
    await store.pool.execute("ALTER TABLE away RENAME TO rollout_counts")
    await trials.settle()
    assert trials.open["m"].counts[STABLE, "error"] == Mean(2, 1)
    trials.seen("other", "1", ok=False, first_token_ms=None)
    trials.seen("m", "an older one", ok=False, first_token_ms=None)
    await trials.settle()
    assert set(trials.open) == {"m"}


async def test_what_was_added_is_not_added_again_where_the_sums_cannot_be_read(store: Database) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    trials.seen("m", "1", ok=False, first_token_ms=None)
    await store.pool.execute("ALTER TABLE rollout_trials RENAME COLUMN limits TO away")
    with pytest.raises(KeyError, match="limits"):
        await trials.settle()
    await store.pool.execute("ALTER TABLE rollout_trials RENAME COLUMN away TO limits")
    await trials.settle()
    assert trials.open["m"].counts[STABLE, "error"] == Mean(1, 1)


async def test_workers_that_counted_in_different_orders_do_not_deadlock(store: Database) -> None:
    """One waits in the midst of its rows for a row that the test has; the other has to wait behind it."""
    registry = Registry()
    workers = [Trials(store.pool, registry.withdraw, registry.ratings) for _ in range(2)]
    models = ["a", "b", "c"]
    for model in models:
        await workers[0].start(model, "1", "2", Limits())
    await workers[1].reload()
    for model in models:
        workers[0].seen(model, "1", ok=True, first_token_ms=None)
    await workers[0].settle()
    async with store.pool.acquire() as connection:
        held = connection.transaction()
        await held.start()
        middle = workers[0].open["b"].id
        await connection.fetch("SELECT 1 FROM rollout_counts WHERE trial_id = $1 FOR UPDATE", middle)
        for worker, order in zip(workers, (models, models[::-1]), strict=True):
            for model in order:
                worker.seen(model, "1", ok=True, first_token_ms=None)
        adding = [asyncio.create_task(worker.settle()) for worker in workers]
        await asyncio.sleep(0.3)
        await held.rollback()
    await asyncio.gather(*adding)
    await workers[0].reload()
    assert [workers[0].open[model].counts[STABLE, "error"] for model in models] == [Mean(3, 0)] * 3


async def test_copies_are_counted_and_never_more_than_allowed_at_once(store: Database) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    model = Model(says("hello"), pause=0)
    shadow = Shadow({"fake": model}, trials, at_once=2, timeout_s=5, answer_bytes=1_000)
    candidate = target("up/m", model="m", version="2")
    shadow.copy(candidate, chat("never"), GIVEN, 0)
    for _ in range(3):
        shadow.copy(candidate, chat("copied"), GIVEN, 10_000)
    await model.reached.wait()
    assert (len(model.asked), shadow.left_out) == (2, 1)
    model.resume.set()
    await until_counted(trials, 2)
    assert trials.open["m"].counts[SHADOW, "error"] == Mean(2, 0)
    assert trials.open["m"].counts[SHADOW, "slow"] == Mean(2, 0)


@pytest.mark.parametrize(
    ("error", "timeout_s", "counted"),
    [
        (UpstreamError("away", retryable=True), 5, Mean(1, 1)),
        (UpstreamError("too many tokens", retryable=False, upstream_status=400, blames_caller=True), 5, None),
        (None, 0.01, Mean(1, 1)),
        (InvalidRequest("no tools here"), 5, None),
    ],
)
async def test_what_a_copy_ends_with_is_told_apart(
    store: Database, error: Exception | None, timeout_s: float, counted: Mean | None
) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    model = Model(says("hello"), error=error, pause=None if error else 0)
    shadow = Shadow({"fake": model}, trials, at_once=2, timeout_s=timeout_s, answer_bytes=1_000)
    shadow.copy(target("up/m", model="m", version="2"), chat("copied"), GIVEN, 10_000)
    await asyncio.sleep(0.1)
    await trials.settle()
    assert trials.open["m"].counts.get((SHADOW, "error")) == counted
    await shadow.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_judge_compares_the_copy_with_the_answer_given(store: Database, stream: bool) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    reader = Reader("the better")
    executors = {"fake": Model(says("the", " better")), "judge": reader}
    judge = Judge(executors, lambda: replace(target("up/j"), kind="judge"), lambda: True, timeout_s=5)
    shadow = Shadow(executors, trials, judge, at_once=2, timeout_s=5, answer_bytes=1_000)
    shadow.copy(target("up/m", model="m", version="2"), structs.replace(chat("q"), stream=stream), GIVEN, 10_000)
    shadow.copy(target("up/m", model="m", version="9"), chat("q"), GIVEN, 10_000)  # is on trial no more
    async with asyncio.timeout(10):
        while reader.calls < 4:
            await asyncio.sleep(0.01)
    await until_counted(trials, 2)
    await shadow.close()
    await trials.settle()
    assert trials.open["m"].counts[SHADOW, PREFERRED] == Mean(1, 1.0)
    assert not registry.withdrawn


async def test_a_stream_longer_than_an_answer_may_be_counts_as_an_error(store: Database) -> None:
    registry = Registry()
    trials = Trials(store.pool, registry.withdraw, registry.ratings)
    await trials.start("m", "1", "2", Limits())
    shadow = Shadow({"fake": Model(says("x" * 2_000))}, trials, at_once=2, timeout_s=5, answer_bytes=1_000)
    shadow.copy(target("up/m", model="m", version="2"), structs.replace(chat("q"), stream=True), GIVEN, 10_000)
    await until_counted(trials, 1)
    assert trials.open["m"].counts[SHADOW, "error"] == Mean(1, 1)


async def until_counted(trials: Trials, answers: int) -> None:
    async with asyncio.timeout(10):
        while trials.open["m"].counts.get((SHADOW, "error"), Mean()).count < answers:
            await trials.settle()
