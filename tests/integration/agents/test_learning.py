"""Learning over a real database: what was observed and said is learnt from once, by one worker, and lost by no kill."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tests.support.answering import Model, Payer, answer_path, new_payer, render, says
from tests.support.ledger import World

from prsm.agents.answer import AnswerPath
from prsm.agents.learning.board import Board
from prsm.agents.learning.feedback import FeedbackBook, Part, parse_request_id
from prsm.agents.learning.learner import Learner, LearnerLimits
from prsm.agents.learning.learning import Learning
from prsm.agents.learning.observation import MAX_READS, MAX_WAITING, Observer
from prsm.agents.learning.outcomes import Ended, Reason
from prsm.agents.learning.prompts import PromptReader
from prsm.agents.rollouts.evidence import Mean
from prsm.agents.routers.difficulty import load_reader, read_manifest
from prsm.agents.seams import UpstreamError
from prsm.core.encoder import TextEncoder
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.subject_keys import subject_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

READER, MANIFEST = load_reader(), read_manifest()
MODEL = "m"
SETTLED_S = 400


@dataclass
class Clock:
    """The real time, moved on by tests that cannot wait."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def move(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@dataclass
class School:
    """One worker's learning, and another's on the same database."""

    world: World
    clock: Clock
    learning: Learning
    other: Learning

    async def ask(self, payer: Payer, text: str = "What is a prime?", **model: Any) -> UUID:
        """One answered request, observed by this worker."""
        path = self.path(**model)
        ask = payer.ask(text)
        await path.chat(ask, render)
        return ask.call.request_id

    def path(self, *, error: BaseException | None = None, owner: str = "principal:owner") -> AnswerPath:
        observe = self.learning.observe
        return answer_path(self.world, Model(says("it"), error=error), owner=owner, observe=observe)

    async def say(self, payer: Payer, request_id: UUID, score: float = 0.0, **more: Any) -> str:
        row = await self.world.db.pool.fetchrow("SELECT principal_id FROM api_keys WHERE id = $1", payer.key_id)
        reason, comment = more.get("reason"), more.get("comment", "")
        return await self.learning.feedback.give(request_id, row["principal_id"], payer.account, score, reason, comment)

    def ability(self, learning: Learning | None = None) -> float:
        board = (learning or self.learning).board
        board.follow([MODEL])
        return board.standings()[0].ability


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest_asyncio.fixture(loop_scope="module")
async def school(world: World, encoder: TextEncoder) -> AsyncIterator[School]:
    await world.db.pool.execute("TRUNCATE quality_answers, quality_feedback, quality_states")
    clock = Clock()
    one, two = [open_worker(world, encoder, clock) for _ in range(2)]
    yield School(world, clock, one, two)
    await one.close()
    await two.close()


def open_worker(
    world: World, encoder: TextEncoder, clock: Clock, limits: LearnerLimits | None = None, estimate: str = ""
) -> Learning:
    prompts = PromptReader(encoder, READER, MANIFEST)
    board = Board(prompts, seed=1, clock=clock)
    observer = Observer(world.db.pool, prompts, b"k" * 32, clock=clock)
    learner = Learner(
        world.db.pool,
        prior=board.prior,
        clusters=READER.clusters,
        estimate=estimate or MANIFEST.sha256,
        witness=observer.witness,
        limits=limits or LearnerLimits(),
        clock=clock,
    )
    return Learning(
        prompts,
        board,
        observer,
        FeedbackBook(world.db.pool, world.ledger.account_id, world.subject_keys, ttl_s=3600),
        learner,
    )


async def refused(call: Any) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def answers(world: World) -> list[Any]:
    return await world.db.pool.fetch("SELECT * FROM quality_answers ORDER BY request_id, model")


# -- observing --------------------------------------------------------------------------------------------------------


async def test_an_answer_is_observed_without_a_word_of_its_text(school: School) -> None:
    payer = await new_payer(school.world)
    request_id = await school.ask(payer, "Which river is longest? secret-word")
    assert await school.learning.observer.write() == 1
    (row,) = await answers(school.world)
    item = await school.learning.board.item("Which river is longest? secret-word")
    assert (row["request_id"], row["model"], row["ended"]) == (request_id, MODEL, "whole")
    assert (row["cluster"], row["difficulty"], row["discrimination"]) == (
        item.cluster,
        item.difficulty,
        item.discrimination,
    )
    assert row["answered_at"] >= row["asked_at"]
    assert "secret-word" not in str(dict(row))
    assert payer.account not in str(dict(row))


async def test_a_streams_ends_are_told_apart(school: School) -> None:
    payer = await new_payer(school.world)
    whole = await school.path().chat_stream(first := payer.ask("a"))
    while await whole.next() is not None:
        pass
    await whole.finish(render)
    left = await school.path().chat_stream(second := payer.ask("b"))
    await left.next()
    await left.leave(render)
    broken = await school.path(error=UpstreamError("off", retryable=True)).chat_stream(third := payer.ask("c"))
    await broken.next()
    with pytest.raises(UpstreamError):
        await broken.next()
    await broken.leave(render)
    await school.learning.observer.write()
    ended = {row["request_id"]: row["ended"] for row in await answers(school.world)}
    assert ended == {
        first.call.request_id: "whole",
        second.call.request_id: "left",
        third.call.request_id: "cut_off",
    }


async def test_who_failed_before_another_answered_is_noted_beside_who_answered(school: School) -> None:
    payer = await new_payer(school.world)
    failing = Model(error=UpstreamError("down", retryable=False))
    path = answer_path(school.world, failing, Model(says("it")), observe=school.learning.observe)
    targets = sorted(path.models.by_name)
    assert targets == ["up/m", "up1/m"]
    await path.chat(payer.ask(), render)
    await school.learning.observer.write()
    # Both are instances of one model: that it answered in the end is what counts.
    assert [row["ended"] for row in await answers(school.world)] == ["whole"]
    alone = answer_path(school.world, failing, observe=school.learning.observe)
    await refused(alone.chat(payer.ask(), render))
    await school.learning.observer.write()
    assert sorted(row["ended"] for row in await answers(school.world)) == ["error", "whole"]


async def test_what_a_models_owner_asks_of_it_is_no_evidence(school: School) -> None:
    payer = await new_payer(school.world)
    await school.ask(payer, owner=payer.account)
    assert await school.learning.observer.write() == 0


async def test_embeddings_are_not_observed(school: School) -> None:
    payer = await new_payer(school.world)
    await school.path().embed(payer.ask(embed=True), lambda found, bill: b"")
    assert await school.learning.observer.write() == 0


async def test_of_prompts_that_nobody_has_read_a_batch_reads_a_few(school: School) -> None:
    payer = await new_payer(school.world)
    for number in range(MAX_READS + 3):
        school.learning.observer.answered(payer.ask(f"prompt {number}"), path_target(school), Ended.WHOLE)
    known = payer.ask("read before")
    await school.learning.board.item("read before")
    school.learning.observer.answered(known, path_target(school), Ended.WHOLE)
    assert await school.learning.observer.write() == MAX_READS + 1
    assert school.learning.observer.dropped == 3


async def test_no_more_wait_than_may(school: School) -> None:
    payer = await new_payer(school.world)
    await school.learning.board.item("same")
    for _ in range(MAX_WAITING + 7):
        school.learning.observer.answered(payer.ask("same"), path_target(school), Ended.WHOLE)
    assert school.learning.observer.dropped == 7
    assert await school.learning.observer.write() == MAX_WAITING


def path_target(school: School) -> Any:
    (target,) = school.path().models.by_name.values()
    return target


# -- saying -----------------------------------------------------------------------------------------------------------


async def test_feedback_is_learnt_from_once_and_every_worker_sees_it(school: School) -> None:
    before = school.ability()
    payer = await new_payer(school.world)
    request_id = await school.ask(payer)
    assert await school.say(payer, request_id) == "up/m"
    assert await school.learning.learn() == 1
    worse = school.ability()
    assert worse < before
    await school.other.refresh()
    assert school.ability(school.other) == pytest.approx(worse)
    assert await school.learning.learn() == 0
    assert await school.other.learn() == 0
    assert school.ability() == pytest.approx(worse)


async def test_feedback_that_comes_before_its_observation_waits_for_it(school: School) -> None:
    payer = await new_payer(school.world)
    request_id = await school.ask(payer)
    await school.say(payer, request_id)
    assert await school.other.learn() == 0, "the worker that answered has not written yet"
    assert await school.learning.learn() == 1


async def test_the_same_word_again_changes_nothing_and_another_replaces_it(school: School) -> None:
    payer = await new_payer(school.world)
    request_id = await school.ask(payer)
    await school.say(payer, request_id, 0.0, reason=Reason.WRONG, comment="no")
    assert await school.learning.learn() == 1
    low = school.ability()
    await school.say(payer, request_id, 0.0, reason=Reason.WRONG, comment="no")
    assert await school.learning.learn() == 0
    await school.say(payer, request_id, 0.0, reason=Reason.WRONG, comment="no, again")
    assert await school.learning.learn() == 0, "a comment is no evidence"
    await school.say(payer, request_id, 1.0)
    assert await school.learning.learn() == 1
    assert school.ability() > low
    (only,) = await school.learning.feedback.newest(10)
    assert (only.score, only.reason, only.comment, only.model) == (1.0, None, "", "up/m")
    assert only.updated_at > only.created_at


async def test_only_who_asked_may_speak_and_only_of_answers_in_text_that_are_recent(school: School) -> None:
    payer, stranger = await new_payer(school.world), await new_payer(school.world)
    request_id = await school.ask(payer)
    assert (await refused(school.say(stranger, request_id))).kind is Kind.NOT_FOUND
    assert (await refused(school.say(payer, uuid4()))).code == "unknown_request"
    embedded = payer.ask(embed=True)
    await school.path().embed(embedded, lambda found, bill: b"")
    assert (await refused(school.say(payer, embedded.call.request_id))).kind is Kind.INVALID
    school.learning.feedback = FeedbackBook(
        school.world.db.pool, school.world.ledger.account_id, school.world.subject_keys, ttl_s=0
    )
    assert (await refused(school.say(payer, request_id))).code == "feedback_too_late"
    assert await school.learning.feedback.newest(10) == []


async def test_ratings_are_counted_by_version_three_of_a_caller_and_none_of_speed(school: School) -> None:
    began = school.clock()
    payer, other = await new_payer(school.world), await new_payer(school.world)
    for number in range(5):
        await school.say(payer, await school.ask(payer, f"q{number}"), 1.0)
    await school.say(other, await school.ask(other, "q"), 0.0, reason=Reason.SLOW)
    await school.say(other, await school.ask(other, "r"), 0.0)
    book = school.learning.feedback
    parts = [Part("up/m", "v1", "one"), Part("up/other", "v1", "one")]
    assert await book.rated(parts, began) == {"one": Mean(4, 3.0)}
    await school.world.db.pool.execute("UPDATE quality_feedback SET version = 'v2' WHERE score = 0")
    assert await book.rated(parts, began) == {"one": Mean(3, 3.0)}, "another version gave the rest"
    assert await book.rated([Part("up/m", "v2", "two")], began) == {"two": Mean(4, 3.0)}
    assert await book.rated(parts, school.clock()) == await book.rated([], began) == {}


async def test_feedback_is_paged_by_the_last_id(school: School) -> None:
    payer = await new_payer(school.world)
    ids = [await school.ask(payer, f"q{number}") for number in range(5)]
    for each in ids:
        await school.say(payer, each)
    first = await school.learning.feedback.newest(2)
    second = await school.learning.feedback.newest(2, first[-1].request_id)
    third = await school.learning.feedback.newest(2, second[-1].request_id)
    assert [each.request_id for each in (*first, *second, *third)] == ids[::-1]


async def test_many_keys_of_one_principal_are_one_caller_and_its_lies_end(school: School) -> None:
    payer = await new_payer(school.world, 10_000_000)
    before, trail = school.ability(), list[float]()
    for number in range(24):
        payer.key_id = await school.world.key(None)
        await school.say(payer, await school.ask(payer, f"question {number}"))
        await school.learning.learn()
        trail.append(school.ability())
    assert trail[0] < before
    assert trail[-1] == pytest.approx(trail[12], abs=1e-3), "what it may spend is spent"
    # The law's bound over the precision of a model without scores, which is 1.
    assert before - trail[-1] <= 2.0
    honest = [await new_payer(school.world) for _ in range(30)]
    for each in honest:
        await school.say(each, await school.ask(each, "another question"), 1.0)
    await school.learning.learn()
    assert school.ability() > before


@pytest.mark.parametrize("text", ["chatcmpl-{hex}", "resp_{hex}", "msg_{hex}", "{plain}", "{hex}"])
async def test_every_id_that_a_client_sees_names_its_request(text: str) -> None:
    request_id = uuid4()
    assert parse_request_id(text.format(hex=request_id.hex, plain=request_id)) == request_id


@pytest.mark.parametrize("text", ["", "chatcmpl-", "chatcmpl-xyz", "batch_" + "0" * 32, "1"])
async def test_what_is_no_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_request_id(text)
    assert raised.value.param == "request_id"


# -- signs ------------------------------------------------------------------------------------------------------------


async def test_signs_are_learnt_from_when_nothing_more_can_follow(school: School) -> None:
    payer = await new_payer(school.world)
    before = school.ability()
    await school.ask(payer, "What is a prime?")
    assert await school.learning.learn() == 0, "the caller may still ask again"
    school.clock.move(SETTLED_S)
    assert await school.learning.learn() == 1
    content = school.ability()
    assert before < content < before + 0.1
    assert await school.learning.learn() == 0


async def test_a_regeneration_speaks_against_the_earlier_answer_through_whichever_worker(school: School) -> None:
    payer = await new_payer(school.world)
    before = school.ability()
    await school.ask(payer, "What is a prime?")
    await school.learning.observer.write()
    # As if it had been answered half a minute ago.
    await school.world.db.pool.execute(
        "UPDATE quality_answers SET asked_at = asked_at - interval '40 s', answered_at = answered_at - interval '30 s'"
    )
    school.learning, school.other = school.other, school.learning
    await school.ask(payer, "What is a prime?")
    await school.ask(await new_payer(school.world), "What is a prime?")  # another caller's is no regeneration
    await school.learning.observer.write()
    school.clock.move(SETTLED_S)
    assert await school.learning.learn() == 3
    assert school.ability() < before


async def test_who_has_spoken_is_not_also_read_by_signs(school: School) -> None:
    payer = await new_payer(school.world)
    request_id = await school.ask(payer)
    await school.say(payer, request_id, 1.0)
    assert await school.learning.learn() == 1
    school.clock.move(SETTLED_S)
    assert await school.learning.learn() == 0


async def test_what_was_observed_of_somebody_erased_meanwhile_is_not_written(school: School) -> None:
    """What waits in memory when a person is erased must not come back after it."""
    gone, stays = await new_payer(school.world), await new_payer(school.world)
    lost, kept = await school.ask(gone), await school.ask(stays)
    await school.world.db.pool.execute(
        "INSERT INTO privacy_erasures (subject_id, at, certificate) VALUES ($1, now(), '')", subject_of(gone.account)
    )
    await school.learning.observer.write()
    written = await school.world.db.pool.fetch(
        "SELECT request_id FROM quality_answers WHERE request_id = ANY ($1::uuid[])",
        [lost, kept],
    )
    assert [row["request_id"] for row in written] == [kept]


# -- keeping ----------------------------------------------------------------------------------------------------------


async def test_one_worker_learns_at_a_time_and_none_learns_twice(school: School) -> None:
    payers = [await new_payer(school.world) for _ in range(6)]
    for payer in payers:
        await school.say(payer, await school.ask(payer))
    await school.learning.observer.write()
    learnt = await asyncio.gather(*(worker.learn() for worker in (school.learning, school.other) * 3))
    assert sum(learnt) == 6
    for worker in (school.learning, school.other):
        await worker.refresh()
        worker.board.follow([MODEL])
        assert worker.board.standings()[0].outcomes == 6


async def test_a_pass_that_is_cut_off_has_learnt_nothing_and_lost_nothing(school: School) -> None:
    payer = await new_payer(school.world)
    await school.say(payer, await school.ask(payer))
    await school.learning.observer.write()
    async with school.world.db.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("LOCK TABLE quality_states IN ACCESS EXCLUSIVE MODE")
        cut = asyncio.create_task(school.learning.learner.learn())
        await asyncio.sleep(0.2)
        cut.cancel()
        await asyncio.wait([cut])
    assert cut.cancelled()
    assert await school.learning.learn() == 1


async def test_a_damaged_state_is_given_up_aloud_and_learnt_anew(school: School) -> None:
    payer = await new_payer(school.world)
    before = school.ability()
    await school.say(payer, await school.ask(payer))
    assert await school.learning.learn() == 1
    await school.world.db.pool.execute("UPDATE quality_states SET state = '\\x00'")
    with capture_logs() as logs:
        await school.other.refresh()
    assert school.ability(school.other) == before
    assert [line["log_level"] for line in logs] == ["error"]
    await school.say(payer, await school.ask(payer, "Another?"))
    await school.learning.observer.write()
    assert await school.other.learn() == 1
    assert school.ability(school.other) < before


async def test_what_was_learnt_fades_with_time_also_where_nothing_is_learnt(school: School) -> None:
    start = school.ability()
    payers = [await new_payer(school.world) for _ in range(8)]
    for payer in payers:
        await school.say(payer, await school.ask(payer))
    await school.learning.learn()
    fresh = school.ability()
    school.clock.move(30 * 86_400)
    await school.learning.refresh()
    assert school.ability() == fresh, "the state is the same, nobody has looked at the time"
    await school.learning.age()
    assert fresh < school.ability() < start
    school.clock.move(3_000 * 86_400)
    await school.learning.age()
    assert school.ability() == pytest.approx(start)


async def test_under_another_estimate_what_is_general_is_kept(school: School, encoder: TextEncoder) -> None:
    payers = [await new_payer(school.world) for _ in range(8)]
    for payer in payers:
        await school.say(payer, await school.ask(payer))
    await school.learning.learn()
    ability = school.ability()
    newer = open_worker(school.world, encoder, school.clock, estimate="f" * 64)
    await newer.refresh()
    assert school.ability(newer) == pytest.approx(ability, abs=1e-3)
    assert newer.board.standings()[0].clusters == []
    await newer.close()


async def test_old_and_surplus_observations_are_deleted_and_few_states_are_kept(
    school: School, encoder: TextEncoder
) -> None:
    limits = LearnerLimits(answers_kept_s=3600, answers_max=4, feedback_kept_s=7200)
    worker = open_worker(school.world, encoder, school.clock, limits)
    payer = await new_payer(school.world)
    ids = [await school.ask(payer, f"q{number}") for number in range(6)]
    await school.learning.observer.write()
    await worker.learner.tidy()
    assert [row["request_id"] for row in await answers(school.world)] == ids[2:]
    for each in ids[2:]:
        await school.say(payer, each)
        await school.learning.learn()
    kept = await school.world.db.pool.fetch("SELECT version FROM quality_states ORDER BY version")
    assert [row["version"] for row in kept] == [3, 4]
    school.clock.move(3700)
    await worker.learner.tidy()
    assert await answers(school.world) == []
    assert len(await school.learning.feedback.newest(10)) == 4
    school.clock.move(3700)
    await worker.learner.tidy()
    assert await school.learning.feedback.newest(10) == []
    await worker.close()


async def test_where_learning_is_off_feedback_is_stored_and_nothing_else_happens(school: School) -> None:
    school.learning.enabled = False
    payer = await new_payer(school.world)
    request_id = await school.ask(payer)
    await school.say(payer, request_id, comment="kept")
    assert await school.learning.learn() == 0
    assert await answers(school.world) == []
    assert [each.comment for each in await school.learning.feedback.newest(1)] == ["kept"]
