"""The answer path over a real ledger: who is charged for what, whatever ends a request and wherever it is cancelled."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import pytest
from tests.support.answering import (
    BLOCKING,
    Interrupted,
    Model,
    Payer,
    Recorded,
    Words,
    answer_path,
    assert_sound,
    guarding,
    new_payer,
    render,
    says,
)
from tests.support.ledger import World

from prsm.agents.answer import AnswerPath
from prsm.agents.answer_digest import output_digest
from prsm.agents.answer_stream import AnswerStream
from prsm.agents.billing import Bill
from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.learning.outcomes import Ended
from prsm.agents.plan import Ask, PathLimits
from prsm.agents.seams import UpstreamError
from prsm.core.errors import Kind, PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.receipt_verifier import verify as verify_receipt
from prsm.safety.policy import Policy, Rule, digest
from prsm.safety.policy_book import of_key, of_model
from prsm.safety.seams import Category
from prsm.safety.threat import Event
from prsm.tokenomics.idempotency import IdempotencyKeys, Stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHARGE = 10 + 2 * 20
"""Of Usage(10, 20) at the prices of the test's models."""
BROKEN = UpstreamError("It broke off.", retryable=True, code="upstream_cut_off")


async def refused(call: Awaitable[object]) -> PrsmError:
    with pytest.raises(PrsmError) as raised:
        await call
    return raised.value


async def all_of(stream: AnswerStream) -> str:
    text = ""
    while (deltas := await stream.next()) is not None:
        text += "".join(delta.content or "" for delta in deltas)
    return text


async def receipt_of(payer: Payer, request_id: UUID) -> dict[str, Any]:
    signed = await payer.receipt(request_id)
    assert signed is not None
    assert verify_receipt(signed)[0] == []
    return json.loads(signed)["receipt"]


def embedded(embeddings: Embeddings, bill: Bill) -> bytes:
    return f"{len(embeddings.vectors)} for {bill.captured_micro}".encode()


# -- whole ------------------------------------------------------------------------------------------------------------


async def test_a_whole_answer_is_charged_paid_out_and_receipted(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask()
    before = [await world.ledger.balance(name) for name in ("principal:owner", "node:self", "treasury")]
    body, bill = await answer_path(world, Model(says("four"))).chat(ask, render)
    assert body == b"four for 50"
    assert await payer.charged_micro() == bill.captured_micro == CHARGE
    after = [await world.ledger.balance(name) for name in ("principal:owner", "node:self", "treasury")]
    assert [now.balance_micro - was.balance_micro for now, was in zip(after, before, strict=True)] == [35, 10, 5]
    receipt = await receipt_of(payer, ask.call.request_id)
    assert receipt["account"] == payer.account
    assert receipt["amounts"] == {"held_micro": 40 + 2 * 100, "captured_micro": CHARGE}
    assert receipt["output_digest"] == output_digest([Choice(content="four")])
    assert (receipt["completed"], receipt["usage"]["metered_by"]) == (True, "upstream")


async def test_the_model_is_sent_the_limit_that_was_held_for(world: World) -> None:
    payer, model = await new_payer(world), Model(says("x"))
    await answer_path(world, model).chat(payer.ask(cap_micro=100), render)
    assert [call.max_output_tokens for call in model.asked] == [30]  # type: ignore[union-attr]


async def test_what_nobody_metered_is_estimated_by_the_node(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask()
    told: list[Usage | None] = []

    def telling(completion: Completion, bill: Bill) -> bytes:
        told.append(completion.usage)
        return render(completion, bill)

    await answer_path(world, Model(says("x" * 12), usage=None)).chat(ask, telling)
    assert await payer.charged_micro() == 10 + 2 * 3
    assert told == [Usage(10, 3)]
    assert (await receipt_of(payer, ask.call.request_id))["usage"]["metered_by"] == "node"


async def test_more_than_was_held_is_never_charged(world: World) -> None:
    payer = await new_payer(world)
    metrics = Metrics()
    path = answer_path(world, Model(says("x"), usage=Usage(10**6, 10**6)), metrics=metrics)
    _, bill = await path.chat(payer.ask(), render)
    assert await payer.charged_micro() == bill.held_micro == 240
    assert b'prsm_uncovered_micro_ftns_total{model="up/m"} 2.99976e+06' in metrics.render()


@pytest.mark.parametrize("error", [BROKEN, ZeroDivisionError("a defect"), PrsmError("odd", code="odd")])
async def test_a_model_that_fails_costs_nothing(world: World, error: Exception) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(error=error))
    for call in (path.chat(payer.ask(), render), path.chat_stream(payer.ask())):
        with pytest.raises(type(error)):
            await call
    with pytest.raises(type(error)):
        await path.embed(payer.ask(embed=True), embedded)
    assert await payer.charged_micro() == 0
    assert await payer.open_holds() == 0


async def test_the_next_model_steps_in_and_is_the_one_that_is_paid(world: World) -> None:
    payer = await new_payer(world)
    for stream in (False, True):
        ask = payer.ask()
        path = answer_path(world, Model(error=BROKEN), Model(says("second")))
        if stream:
            answer = await path.chat_stream(ask)
            assert await all_of(answer) == "second"
            await answer.finish(render)
        else:
            await path.chat(ask, render)
        assert (await receipt_of(payer, ask.call.request_id))["model"]["name"] == "up1/m"
    assert await payer.charged_micro() == 2 * CHARGE


async def test_an_empty_stream_is_a_failure(world: World) -> None:
    payer, empty = await new_payer(world), Model(usage=None)
    answer = await answer_path(world, empty, Model(says("second"))).chat_stream(payer.ask())
    assert answer.candidate.target.name == "up1/m"
    assert await all_of(answer) == "second"
    await answer.finish(render)
    assert empty.open_streams == 0


async def test_a_rendering_that_fails_charges_nothing(world: World) -> None:
    payer = await new_payer(world)

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    path = answer_path(world, Model(says("x")))
    with pytest.raises(ZeroDivisionError):
        await path.chat(payer.ask(), broken)
    stream = await path.chat_stream(payer.ask())
    await all_of(stream)
    with pytest.raises(ZeroDivisionError):
        await stream.finish(broken)
    with pytest.raises(ZeroDivisionError):
        await path.embed(payer.ask(embed=True), broken)
    assert await payer.charged_micro() == 0


async def test_no_model_is_asked_without_money_or_by_a_request_that_cannot_be_paid(world: World) -> None:
    poor, model = await new_payer(world, 239), Model(says("x"))
    path = answer_path(world, model)
    assert (await refused(path.chat(poor.ask(), render))).code == "insufficient_funds"
    assert (await refused(path.chat_stream(poor.ask()))).code == "insufficient_funds"
    assert (await refused(path.chat(poor.ask(cap_micro=1), render))).code == "cost_cap_too_low"
    assert model.asked == []
    await path.chat(poor.ask(cap_micro=239), render)
    assert await poor.charged_micro() == CHARGE


async def test_one_request_id_is_answered_once(world: World) -> None:
    payer = await new_payer(world)
    path, ask = answer_path(world, Model(says("x"))), payer.ask()
    await path.chat(ask, render)
    assert (await refused(path.chat(ask, render))).code == "duplicate_request"
    assert await payer.charged_micro() == CHARGE


# -- streamed ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_charged_when_it_ends_and_its_receipt_binds_all_of_it(world: World) -> None:
    payer, model = await new_payer(world), Model(says("one ", "two"))
    ask = payer.ask()
    stream = await answer_path(world, model).chat_stream(ask)
    assert await all_of(stream) == "one two"
    assert await payer.open_holds() == 1
    body, bill = await stream.finish(render)
    assert body == b"one two for 50"
    assert await payer.charged_micro() == CHARGE
    receipt = await receipt_of(payer, ask.call.request_id)
    assert receipt["output_digest"] == output_digest([Choice(content="one two")])
    assert receipt["completed"] is bill.completed is True
    await stream.leave(render)
    assert await payer.charged_micro() == CHARGE
    assert model.open_streams == 0


async def test_who_leaves_mid_stream_pays_for_what_came(world: World) -> None:
    payer, model = await new_payer(world), Model(says("four", "more", "never"), pause=2)
    ask = payer.ask()
    stream = await answer_path(world, model).chat_stream(ask)
    await stream.next()
    await stream.next()
    await stream.leave(render)
    assert await payer.charged_micro() == 10 + 2 * 2
    receipt = await receipt_of(payer, ask.call.request_id)
    assert receipt["output_digest"] == output_digest([Choice(content="fourmore")])
    assert (receipt["completed"], receipt["usage"]["metered_by"]) == (False, "node")
    assert model.open_streams == 0
    await stream.leave(render)
    assert await payer.charged_micro() == 10 + 2 * 2


@pytest.mark.parametrize(
    "piece",
    [Delta(reasoning="hmm"), Delta(refusal="no!!"), Delta(tool_calls=[{"index": 0, "function": {"name": "f"}}])],
)
async def test_whatever_was_shown_is_paid_for(world: World, piece: Delta) -> None:
    payer = await new_payer(world)
    stream = await answer_path(world, Model([piece], pause=1)).chat_stream(payer.ask())
    await stream.next()
    await stream.leave(render)
    assert await payer.charged_micro() > 10


async def test_who_leaves_before_anything_was_said_pays_nothing(world: World) -> None:
    payer, model = await new_payer(world), Model([Delta(), Delta(content="late")], pause=1)
    stream = await answer_path(world, model).chat_stream(payer.ask())
    await stream.next()
    await stream.leave(render)
    assert await payer.charged_micro() == 0
    assert await payer.open_holds() == model.open_streams == 0


async def test_who_leaves_before_the_first_piece_pays_nothing(world: World) -> None:
    payer, model = await new_payer(world), Model(says("x"), pause=0)
    waiting = asyncio.create_task(answer_path(world, model).chat_stream(payer.ask()))
    await model.reached.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await payer.charged_micro() == 0
    assert await payer.open_holds() == model.open_streams == 0


async def test_a_stream_that_the_model_breaks_off_costs_what_was_delivered_without_the_input(world: World) -> None:
    payer, model = await new_payer(world), Model(says("one"), error=BROKEN)
    ask = payer.ask()
    stream = await answer_path(world, model).chat_stream(ask)
    await stream.next()
    assert (await refused(stream.next())).code == "upstream_cut_off"
    assert await payer.open_holds() == 1
    assert await stream.leave(render) == b"one for 2"
    assert await payer.charged_micro() == 2 * 1
    assert await payer.open_holds() == model.open_streams == 0
    receipt = await receipt_of(payer, ask.call.request_id)
    assert (receipt["completed"], receipt["usage"]["input_tokens"]) == (False, 0)


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), PrsmError("odd", code="odd")])
async def test_a_stream_that_a_defect_ends_costs_nothing(world: World, error: Exception) -> None:
    payer, model = await new_payer(world), Model(says("one"), error=error)
    metrics = Metrics()
    stream = await answer_path(world, model, metrics=metrics).chat_stream(payer.ask())
    await stream.next()
    with pytest.raises(type(error)):
        await stream.next()
    await stream.leave(render)
    assert await payer.charged_micro() == 0
    assert await payer.open_holds() == model.open_streams == 0
    assert b'prsm_upstream_errors_total{code="cut_off",model="up/m"} 1.0' in metrics.render()


async def test_an_answer_without_end_is_cut_off_and_costs_nothing(world: World) -> None:
    payer, model = await new_payer(world), Model(says("x" * 600, "x" * 600))
    stream = await answer_path(world, model).chat_stream(payer.ask())
    await stream.next()
    assert (await refused(stream.next())).code == "answer_too_large"
    assert await payer.charged_micro() == model.open_streams == 0


@dataclass
class Slow(Model):
    """Takes its time for each piece."""

    takes_s: float = 0.55

    async def _wait(self, number: int) -> None:
        await asyncio.sleep(self.takes_s)


async def test_the_time_of_a_request_covers_its_whole_stream(world: World) -> None:
    payer, model, metrics = await new_payer(world), Slow(says("one", "two")), Metrics()
    path = answer_path(world, model, limits=PathLimits(100, 1000, request_timeout_s=1), metrics=metrics)
    stream = await path.chat_stream(payer.ask())
    await stream.next()
    error = await refused(all_of(stream))
    assert (error.kind, error.code) == (Kind.TIMEOUT, "upstream_timeout")
    await stream.leave(render)
    assert await payer.charged_micro() == 2 * 1  # what came in time
    assert model.open_streams == 0
    assert b'prsm_upstream_errors_total{code="cut_off",model="up/m"} 1.0' in metrics.render()


@pytest.mark.parametrize(
    ("model", "slept_s"),
    [
        (Model(says("one", "two")), 1.1),
        (Slow(says("one", "two"), takes_s=0.3), 0.6),
        (Model(says("one"), error=UpstreamError("It was not read in time.", retryable=True)), 1.1),
    ],
)
async def test_a_client_that_reads_too_slowly_pays_its_input_and_the_model_is_not_blamed(
    world: World, model: Model, slept_s: float
) -> None:
    payer, metrics, seen = await new_payer(world), Metrics(), list[Ended]()

    def observe(ask: Ask, target: Target, ended: Ended) -> None:
        seen.append(ended)

    limits = PathLimits(100, 1000, request_timeout_s=1)
    path = answer_path(world, model, Model(says("again")), limits=limits, metrics=metrics, observe=observe)
    stream = await path.chat_stream(payer.ask())
    await stream.next()
    await asyncio.sleep(slept_s)
    error = await refused(all_of(stream))
    assert (error.kind, error.code) == (Kind.CONFLICT, "client_too_slow")
    assert await stream.leave(render) == b"one for 12"
    assert await payer.charged_micro() == 10 + 2 * 1
    assert model.open_streams == 0
    assert seen == [Ended.LEFT]
    assert b"prsm_upstream_errors_total{" not in metrics.render()


async def test_an_answer_that_had_ended_is_whole_however_slowly_it_was_read(world: World) -> None:
    payer = await new_payer(world)
    limits = PathLimits(100, 1000, request_timeout_s=1)
    stream = await answer_path(world, Model(says("one")), limits=limits).chat_stream(payer.ask())
    await stream.next()
    await stream.next()
    await asyncio.sleep(1.1)
    assert await stream.next() is None
    await stream.finish(render)
    assert await payer.charged_micro() == CHARGE


async def test_closing_the_path_waits_for_what_is_still_being_charged(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("four"), pause=1))
    stream = await path.chat_stream(payer.ask())
    await stream.next()
    async with world.sequencer_held():
        leaving = asyncio.create_task(stream.leave(render))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        closing = asyncio.create_task(path.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
    await closing
    assert await payer.charged_micro() == 10 + 2 * 1


# -- screens ----------------------------------------------------------------------------------------------------------


async def test_what_may_not_come_in_is_asked_of_no_model_and_costs_nothing(world: World) -> None:
    payer, model, told = await new_payer(world), Model(says("x")), Recorded()
    path = answer_path(world, model, guard=guarding(world.db.pool, Words("bad"), told=told))
    for call in (
        path.chat(payer.ask("a bad thing"), render),
        path.chat_stream(payer.ask("a bad thing")),
        path.embed(payer.ask("a bad thing", embed=True), embedded),
    ):
        error = await refused(call)
        assert (error.kind, error.code) == (Kind.FORBIDDEN, "content_blocked")
    assert model.asked == []
    assert await payer.charged_micro() == await payer.open_holds() == 0
    assert [(direction, texts) for direction, _, _, texts in told.incidents] == [("input", ("a bad thing",))] * 3
    assert told.events == [(payer.account, Event.BLOCKED)] * 3


async def test_where_no_detector_is_there_nothing_passes_and_nothing_is_charged(world: World) -> None:
    payer, model, words = await new_payer(world), Model(says("so ", "four", "teen")), Words("bad")
    path = answer_path(world, model, guard=guarding(world.db.pool, words))
    words.away = True
    assert (await refused(path.chat(payer.ask(), render))).code == "screening_unavailable"
    assert model.asked == []
    words.away = False
    stream = await path.chat_stream(payer.ask())
    assert await stream.next() == says("so ")
    words.away = True
    error = await refused(stream.next())
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "screening_unavailable")
    assert await stream.leave(render, broken=True) is not None
    assert await payer.charged_micro() == 2 * 1
    assert await payer.open_holds() == 0


async def test_what_may_not_go_out_costs_nothing(world: World) -> None:
    payer, told = await new_payer(world), Recorded()
    path = answer_path(world, Model(says("so ", "bad")), guard=guarding(world.db.pool, Words("bad"), told=told))
    assert (await refused(path.chat(payer.ask(), render))).code == "answer_blocked"
    assert await payer.charged_micro() == await payer.open_holds() == 0
    assert told.events == []  # what a model says is not its caller's doing


async def test_a_stream_that_turns_is_cut_off_and_what_was_shown_is_charged(world: World) -> None:
    payer, model = await new_payer(world), Model(says("so ", "it is a ", "bad ", "thing", "."))
    path = answer_path(world, model, guard=guarding(world.db.pool, Words("bad")))
    ask = payer.ask()
    stream = await path.chat_stream(ask)
    shown = [await stream.next(), await stream.next()]
    assert shown == [says("so "), says("it is a ")]
    assert await stream.next() == says("bad ")  # four characters may be shown before they are looked at
    assert (await refused(stream.next())).code == "answer_blocked"
    assert await stream.leave(render, broken=True) is not None
    receipt = await receipt_of(payer, ask.call.request_id)
    assert receipt["completed"] is False
    assert receipt["screening"]["output"] == "block"
    assert receipt["screening"]["categories"] == ["hate"]
    assert 0 < await payer.charged_micro() == 2 * receipt["usage"]["output_tokens"]
    assert await payer.open_holds() == 0 == model.open_streams


async def test_the_end_of_a_stream_is_not_given_before_all_of_it_was_looked_at(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("so ", "bad")), guard=guarding(world.db.pool, Words("bad"), _PATIENT))
    stream = await path.chat_stream(payer.ask())
    assert await stream.next() == says("so ")
    assert await stream.next() == says("bad")
    await stream.next()  # what was metered
    assert (await refused(stream.next())).code == "answer_blocked"


async def test_a_word_over_two_pieces_is_found(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("so b", "a", "d, no")), guard=guarding(world.db.pool, Words("bad"), _EAGER))
    stream = await path.chat_stream(payer.ask())
    assert [await stream.next(), await stream.next()] == [says("so b"), says("a")]
    assert (await refused(stream.next())).code == "answer_blocked"


async def test_what_is_redacted_is_read_by_no_model_and_shown_to_no_caller(world: World) -> None:
    payer, model = await new_payer(world), Model(says("a ", "bad", " answer"))
    path = answer_path(world, model, guard=guarding(world.db.pool, Words("bad"), _REDACTING))
    body, _ = await path.chat(payer.ask("a bad question"), render)
    assert body.startswith(b"a [word] answer for")
    call = model.asked[0]
    assert isinstance(call, ChatCall)
    assert call.messages[-1]["content"] == "a [word] question"
    stream = await path.chat_stream(payer.ask("a bad question"))
    said = await all_of(stream)
    assert said == "a [word] answer"
    await stream.finish(render)
    await path.embed(payer.ask("a bad text", embed=True), embedded)
    assert cast("EmbedCall", model.asked[-1]).texts == ["a [word] text"]


async def test_a_policy_of_a_model_keeps_a_request_from_it_alone(world: World) -> None:
    payer, one, other = await new_payer(world), Model(says("one")), Model(says("other"))
    guard = guarding(world.db.pool, Words("bad"), Policy(()))
    await guard.book.write(of_model("up/m"), BLOCKING, by="test", reason="careful")
    path = answer_path(world, one, other, guard=guard)
    try:
        body, bill = await path.chat(payer.ask("a bad thing"), render)
        assert (bill.model, body.split()[0]) == ("up1/m", b"other")
        assert one.asked == []
        await guard.book.write(of_key(payer.key_id), BLOCKING, by="test", reason="careful")
        assert (await refused(path.chat(payer.ask("a bad thing"), render))).code == "content_blocked"
    finally:
        await guard.book.write(of_model("up/m"), None, by="test", reason="over")


async def test_screening_sees_both_sides_and_stands_in_the_receipt(world: World) -> None:
    payer, words, told = await new_payer(world), Words("quest"), Recorded()
    ask = payer.ask("question")
    guard = guarding(world.db.pool, words, _ANNOTATING, told)
    await answer_path(world, Model(says("answer")), guard=guard).chat(ask, render)
    assert words.seen == ["question", "answer"]
    receipt = await receipt_of(payer, ask.call.request_id)
    assert receipt["screened_by"] == ["words"]
    assert receipt["screening"] == {
        "policy": digest((_ANNOTATING,)),
        "input": "annotate",
        "output": "allow",
        "categories": ["hate"],
    }
    assert told.counted == [("input", "annotate", 1), ("output", "allow", 1)]
    assert told.incidents == []


_PATIENT = Policy((Rule(Category.HATE, "block"),), stream_lag_chars=100)
_EAGER = Policy((Rule(Category.HATE, "block"),), stream_lag_chars=0)
_REDACTING = Policy((Rule(Category.HATE, "redact"),))
_ANNOTATING = Policy((Rule(Category.HATE, "annotate"),))


# -- what is committed with the capture -------------------------------------------------------------------------------


async def test_the_kept_answer_is_there_exactly_when_it_was_charged(world: World) -> None:
    payer, keys = await new_payer(world), IdempotencyKeys(world.db.pool)
    digest = hashlib.sha256(b"body").digest()
    asks = [payer.ask(keep=lambda body: b"kept " + body) for _ in range(3)]
    for number, ask in enumerate(asks):
        assert await keys.claim(payer.key_id, f"key-{number}", ask.call.request_id, digest) is None
    path = answer_path(world, Model(says("four", "more")))
    path_broken = answer_path(world, Model(says("x"), error=BROKEN))
    await path.chat(asks[0], render)
    stream = await path.chat_stream(asks[1])
    await stream.next()
    await stream.leave(render)
    await refused(path_broken.chat(asks[2], render))
    assert await payer.charged_micro() == CHARGE + 10 + 2

    async def again(number: int) -> Stored | None:
        return await keys.claim(payer.key_id, f"key-{number}", payer.ask().call.request_id, digest)

    assert await again(0) == Stored(asks[0].call.request_id, b"kept fourmore for 50")
    assert await again(1) == Stored(asks[1].call.request_id, b"kept four for 12")
    assert await again(2) is None


async def test_a_turn_is_remembered_with_a_whole_answer_and_with_no_other(world: World) -> None:
    payer = await new_payer(world)
    await world.db.pool.execute("CREATE TABLE IF NOT EXISTS remembered (request uuid, said text)")

    def remembering(payer: Payer) -> Ask:
        ask = payer.ask(remember=lambda whole: (statement, (ask.call.request_id, whole.choices[0].content)))
        return ask

    statement = "INSERT INTO remembered VALUES ($1, $2)"
    path = answer_path(world, Model(says("four", "more")))
    whole, streamed, left, failed = (remembering(payer) for _ in range(4))
    await path.chat(whole, render)
    stream = await path.chat_stream(streamed)
    await all_of(stream)
    await stream.finish(render)
    stream = await path.chat_stream(left)
    await stream.next()
    await stream.leave(render)
    await refused(answer_path(world, Model(says("x"), error=BROKEN)).chat(failed, render))
    rows = await world.db.pool.fetch("SELECT * FROM remembered")
    assert {(row["request"], row["said"]) for row in rows} == {
        (whole.call.request_id, "fourmore"),
        (streamed.call.request_id, "fourmore"),
    }


# -- embeddings -------------------------------------------------------------------------------------------------------


async def test_embeddings_go_the_same_way(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask(embed=True)
    body, bill = await answer_path(world, Model(usage=Usage(7, 0))).embed(ask, embedded)
    assert body == b"1 for 7"
    assert await payer.charged_micro() == bill.captured_micro == 7
    receipt = await receipt_of(payer, ask.call.request_id)
    assert (receipt["operation"], receipt["amounts"]["held_micro"]) == ("embeddings", 40)


# -- cancellation -----------------------------------------------------------------------------------------------------


async def whole(path: AnswerPath, ask: Ask) -> None:
    await path.chat(ask, render)


async def embeds(path: AnswerPath, ask: Ask) -> None:
    await path.embed(ask, embedded)


async def streamed(path: AnswerPath, ask: Ask) -> None:
    """As the edge serves a stream: what was sent is charged when the client goes."""
    stream = await path.chat_stream(ask)
    try:
        while await stream.next() is not None:
            await asyncio.sleep(0)
        await stream.finish(render)
    except BaseException:
        await stream.leave(render)
        raise


@pytest.mark.parametrize("storm", [False, True])
@pytest.mark.parametrize("serve", [whole, streamed, embeds])
async def test_cancelled_at_any_point_no_hold_is_left_and_every_charge_has_its_receipt(
    world: World, serve: Any, storm: bool
) -> None:
    ended, at = False, 0
    charges: list[int] = []
    while not ended:
        model = Model(says("four", "more"), usage=None if serve is not embeds else Usage(7, 0))
        # New accounts each time, so that looking them up is among the points.
        payer = await new_payer(world)
        path = answer_path(world, model, guard=guarding(world.db.pool, Words("bad")), owner=f"principal:{payer.key_id}")
        ask = payer.ask(embed=serve is embeds)
        work = Interrupted(serve(path, ask), at, storm=storm)
        task = asyncio.create_task(work.run())
        await asyncio.gather(task, return_exceptions=True)
        ended = work.points <= at
        assert task.cancelled() != ended
        await path.close()
        charged = await payer.charged_micro()
        charges.append(charged)
        assert await payer.open_holds() == 0, at
        assert model.open_streams == 0, at
        assert (await payer.receipt(ask.call.request_id) is not None) == (charged > 0), at
        at += 1
    full = 7 if serve is embeds else 10 + 2 * 2
    assert charges[-1] == full
    assert set(charges) <= ({0, full} if serve is not streamed else {0, 10 + 2 * 1, full})
    assert charges == sorted(charges)
    assert at > 8


async def test_after_all_of_this_the_ledger_is_sound(world: World) -> None:
    await assert_sound(world)
