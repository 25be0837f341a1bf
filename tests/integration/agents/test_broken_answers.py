"""Answers that break off after their first piece, over a real ledger: who goes on, what the caller sees and pays."""

import asyncio
import json
from typing import Any

import pytest
from tests.support.answering import Interrupted, Payer, Words, answer_path, assert_sound, guarding, new_payer, render
from tests.support.ledger import World
from tests.support.writer import INPUT_TOKENS, Writer, broken

from prsm.agents.answer import AnswerPath
from prsm.agents.answer_digest import output_digest
from prsm.agents.answer_stream import AnswerStream
from prsm.agents.call import Choice, Delta
from prsm.agents.plan import Ask
from prsm.agents.seams import UpstreamError
from prsm.core.errors import PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.receipt_verifier import verify as verify_receipt
from prsm.safety.policy import Policy, Rule
from prsm.safety.seams import Category
from prsm.tokenomics.idempotency import IdempotencyKeys, Stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

PIECES = ["four", " of ", "six  ", "\nlines", " are ", "here"]
TEXT = "".join(PIECES)
KINDS = ("vllm", "anthropic", "openrouter")
ABLE = frozenset({"chat", "prefill"})


def path_of(world: World, *models: Any, able: frozenset[str] = ABLE, **values: Any) -> AnswerPath:
    changed = [{"kind": kind, "capabilities": able} for kind, _ in zip(KINDS, models, strict=False)]
    for number, fields in enumerate(values.pop("also", ())):
        changed[number] |= fields
    return answer_path(world, *models, changed=changed, **values)


async def read(stream: AnswerStream) -> str:
    text = ""
    while (deltas := await stream.next()) is not None:
        text += "".join(delta.content or "" for delta in deltas)
    return text


async def read_broken(stream: AnswerStream) -> tuple[str, PrsmError]:
    text = ""
    try:
        while (deltas := await stream.next()) is not None:
            text += "".join(delta.content or "" for delta in deltas)
    except PrsmError as error:
        return text, error
    raise AssertionError("it did not break off")


async def receipt_of(payer: Payer, ask: Ask) -> dict[str, Any]:
    signed = await payer.receipt(ask.call.request_id)
    assert signed is not None
    assert verify_receipt(signed)[0] == []
    return json.loads(signed)["receipt"]


# -- gone on with ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, len(PIECES) + 1))
async def test_another_instance_goes_on_unseen_wherever_it_broke_off(world: World, cut: int) -> None:
    payer = await new_payer(world)
    begins, goes_on, ask = Writer(PIECES, cut), Writer(PIECES), payer.ask()
    metrics = Metrics()
    stream = await path_of(world, begins, goes_on, metrics=metrics).chat_stream(ask)
    assert await read(stream) == TEXT
    _, bill = await stream.finish(render)
    said = "".join(PIECES[:cut])
    receipt = await receipt_of(payer, ask)
    assert receipt["completed"] is True
    assert receipt["output_digest"] == output_digest([Choice(content=TEXT)])
    # The input once, and every token of the answer; who went on read the beginning as input, which the node bears.
    usage = receipt["usage"]
    assert usage["input_tokens"] in (INPUT_TOKENS, INPUT_TOKENS - 1)
    assert usage["metered_by"] == "node"
    assert await payer.charged_micro() == bill.captured_micro == usage["input_tokens"] + 2 * usage["output_tokens"]
    assert [segment["model"] for segment in receipt["segments"]] == ["up/m", "up1/m"]
    assert (receipt["model"]["name"], receipt["provider"]) == ("up/m", "up")
    assert goes_on.asked[0].messages[-1] == {"role": "assistant", "content": said.rstrip()}
    assert begins.open_streams == goes_on.open_streams == 0
    shown = metrics.render()
    assert b'prsm_broken_off_answers_total{model="up/m",outcome="resumed"} 1.0' in shown
    assert b'prsm_upstream_errors_total{code="cut_off",model="up/m"} 1.0' in shown


async def test_the_second_may_break_off_too(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask()
    stream = await path_of(world, Writer(PIECES, 1), Writer(PIECES, 2), Writer(PIECES)).chat_stream(ask)
    assert await read(stream) == TEXT
    await stream.finish(render)
    receipt = await receipt_of(payer, ask)
    assert [segment["provider"] for segment in receipt["segments"]] == ["up", "up1", "up2"]
    assert sum(s["output_tokens"] for s in receipt["segments"]) == receipt["usage"]["output_tokens"]
    assert await payer.charged_micro() == receipt["amounts"]["captured_micro"]


class Thinks(Writer):
    """Goes on, and begins to think aloud in the middle of its text."""

    async def chat_stream(self, target: Any, call: Any) -> Any:
        self.open_streams += 1
        try:
            yield [Delta(content="six")]
            yield [Delta(reasoning="Let me see.")]
            yield [Delta(content=" never shown")]
        finally:
            self.open_streams -= 1


async def test_who_goes_on_with_anything_but_text_is_ended_and_the_next_goes_on(world: World) -> None:
    payer, thinks = await new_payer(world), Thinks([])
    ask = payer.ask()
    stream = await path_of(world, Writer(PIECES, 2), thinks, Writer(PIECES)).chat_stream(ask)
    seen = ""
    while "here" not in seen:
        seen += "".join(delta.content or "" for delta in await stream.next() or [])
        if "six" in seen:
            assert thinks.open_streams == (1 if seen.endswith("six") else 0)
    assert seen == TEXT
    await read(stream)
    await stream.finish(render)
    segments = (await receipt_of(payer, ask))["segments"]
    assert [segment["provider"] for segment in segments] == ["up", "up1", "up2"]


async def test_the_prices_are_those_of_who_began_and_the_cap_holds(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask(cap_micro=400)
    path = path_of(
        world, Writer(PIECES, 2), Writer(PIECES), also=({}, {"input_price_micro": 9**7, "output_price_micro": 9**7})
    )
    stream = await path.chat_stream(ask)
    assert await read(stream) == TEXT
    await stream.finish(render)
    receipt = await receipt_of(payer, ask)
    assert receipt["prices"]["output_micro_per_mtok"] == 2_000_000
    assert await payer.charged_micro() <= 400


async def test_where_who_went_on_does_not_meter_the_node_estimates_the_whole(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask()
    stream = await path_of(world, Writer(PIECES, 2), Writer(PIECES, metered=False)).chat_stream(ask)
    await read(stream)
    await stream.finish(render)
    assert await payer.charged_micro() == 10 + 2 * -(-len(TEXT) // 4)
    assert (await receipt_of(payer, ask))["usage"]["metered_by"] == "node"


async def test_the_limit_of_tokens_is_that_of_the_whole_answer(world: World) -> None:
    payer, goes_on = await new_payer(world), Writer(PIECES)
    stream = await path_of(world, Writer(PIECES, 2), goes_on).chat_stream(payer.ask())
    await read(stream)
    await stream.finish(render)
    assert goes_on.asked[0].max_output_tokens == 100 - 2  # "four of " is two tokens by the estimate


async def test_a_client_that_leaves_after_the_seam_pays_for_its_input_and_what_came(world: World) -> None:
    payer = await new_payer(world)
    ask = payer.ask()
    second = Writer(PIECES)
    stream = await path_of(world, Writer(PIECES, 1), second).chat_stream(ask)
    seen = ""
    for _ in range(3):
        seen += "".join(delta.content or "" for delta in await stream.next() or [])
    assert await stream.leave(render) is not None
    receipt = await receipt_of(payer, ask)
    assert (receipt["completed"], len(receipt["segments"])) == (False, 2)
    assert receipt["output_digest"] == output_digest([Choice(content=seen)])
    assert await payer.charged_micro() == 10 + 2 * -(-len(seen) // 4)
    assert second.open_streams == 0


@pytest.mark.parametrize(
    "refusal",
    [
        UpstreamError("No prefill here.", retryable=False, blames_caller=True, upstream_status=400),
        UpstreamError("Away.", retryable=True),
    ],
)
async def test_where_the_next_refuses_a_beginning_the_partial_result_stands(
    world: World, refusal: UpstreamError
) -> None:
    payer = await new_payer(world)
    refuses = Writer(PIECES, first=refusal)
    stream = await path_of(world, Writer(PIECES, 2), refuses).chat_stream(payer.ask())
    text, error = await read_broken(stream)
    assert (text, error.code) == ("four of ", "upstream_cut_off")
    await stream.leave(render)
    assert await payer.charged_micro() == 2 * 2
    assert len(refuses.asked) == 1


# -- not gone on with: a partial result --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("able", "also"),
    [
        (frozenset({"chat"}), ()),
        (ABLE, ({"version": "1"}, {"version": "2"})),
        (ABLE, ({}, {"model": "another"})),
    ],
)
async def test_an_instance_that_does_not_declare_it_or_is_another_model_is_never_asked(
    world: World, able: frozenset[str], also: tuple[dict[str, Any], ...]
) -> None:
    payer, other = await new_payer(world), Writer(PIECES)
    ask = payer.ask()
    metrics = Metrics()
    stream = await path_of(world, Writer(PIECES, 3), other, able=able, also=also, metrics=metrics).chat_stream(ask)
    text, error = await read_broken(stream)
    assert (text, error.code) == ("four of six  ", "upstream_cut_off")
    body = await stream.leave(render)
    assert body == b"four of six   for 8"
    # What was delivered and no input: to ask again costs the input then.
    assert await payer.charged_micro() == 2 * 4
    receipt = await receipt_of(payer, ask)
    assert (receipt["completed"], receipt["segments"]) == (False, [])
    assert receipt["usage"] == {
        "input_tokens": 0,
        "output_tokens": 4,
        "cached_input_tokens": 0,
        "metered_by": "node",
    }
    assert receipt["output_digest"] == output_digest([Choice(content="four of six  ")])
    assert other.asked == []
    assert b'prsm_broken_off_answers_total{model="up/m",outcome="partial"} 1.0' in metrics.render()
    assert await stream.leave(render) is None
    assert await payer.charged_micro() == 2 * 4


async def test_a_retry_under_the_same_key_is_shown_the_partial_result_that_was_paid_for(world: World) -> None:
    payer, keys, digest = await new_payer(world), IdempotencyKeys(world.db.pool), bytes(32)
    paid, free = payer.ask(keep=lambda body: b"kept " + body), payer.ask(keep=lambda body: b"kept " + body)
    for ask, model in ((paid, Writer(PIECES, 1)), (free, Calls([]))):
        assert await keys.claim(payer.key_id, str(ask.call.request_id), ask.call.request_id, digest) is None
        stream = await path_of(world, model).chat_stream(ask)
        await read_broken(stream)
        await stream.leave(render)
    assert await payer.charged_micro() == 2 * 1

    async def again(ask: Ask) -> Stored | None:
        return await keys.claim(payer.key_id, str(ask.call.request_id), payer.ask().call.request_id, digest)

    assert await again(paid) == Stored(paid.call.request_id, b"kept four for 2")
    assert await again(free) is None  # nothing was charged: the key is free for a try that costs the whole answer


class Calls(Writer):
    """Breaks off in the middle of a tool call."""

    async def chat_stream(self, target: Any, call: Any) -> Any:
        yield [Delta(content="I call ")]
        yield [Delta(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": '{"a'}}])]
        raise broken()


async def test_half_a_tool_call_costs_nothing(world: World) -> None:
    payer, other = await new_payer(world), Writer(PIECES)
    stream = await path_of(world, Calls([]), other).chat_stream(payer.ask())
    await read_broken(stream)
    assert await stream.leave(render) is None
    assert await payer.charged_micro() == await payer.open_holds() == 0
    assert other.asked == []


async def test_what_the_edge_cannot_show_is_charged_as_what_broke_off(world: World) -> None:
    payer, model = await new_payer(world), Writer(PIECES)
    stream = await path_of(world, model).chat_stream(payer.ask())
    await stream.next()
    assert await stream.leave(render, broken=True) is not None
    assert await payer.charged_micro() == 2 * 1
    assert model.open_streams == 0


async def test_a_partial_result_is_screened_and_what_was_shown_is_charged(world: World) -> None:
    payer = await new_payer(world)
    guard = guarding(world.db.pool, Words("four"), Policy((Rule(Category.HATE, "block"),), stream_lag_chars=4000))
    ask = payer.ask()
    stream = await path_of(world, Writer(PIECES, 2), guard=guard).chat_stream(ask)
    await read_broken(stream)
    await stream.leave(render)
    assert await payer.open_holds() == 0
    receipt = json.loads(await payer.receipt(ask.call.request_id) or b"{}")["receipt"]
    assert (receipt["completed"], receipt["screening"]["output"]) == (False, "block")


class EndsThenBreaks(Writer):
    """Says why it ended, and breaks off before it says what it metered."""

    async def chat_stream(self, target: Any, call: Any) -> Any:
        yield [Delta(content=TEXT)]
        yield [Delta(finish_reason="stop")]
        raise broken()


async def test_an_answer_that_had_ended_is_whole_whatever_breaks_after(world: World) -> None:
    payer, other = await new_payer(world), Writer(PIECES)
    ask = payer.ask()
    stream = await path_of(world, EndsThenBreaks([]), other).chat_stream(ask)
    assert await read(stream) == TEXT
    await stream.finish(render)
    receipt = await receipt_of(payer, ask)
    assert (receipt["completed"], receipt["usage"]["metered_by"]) == (True, "node")
    assert await payer.charged_micro() == 10 + 2 * -(-len(TEXT) // 4)
    assert other.asked == []


async def test_the_end_of_an_answer_that_breaks_after_it_is_looked_at_before_it_is_given(world: World) -> None:
    payer = await new_payer(world)
    guard = guarding(world.db.pool, Words("here"), Policy((Rule(Category.HATE, "block"),), stream_lag_chars=4000))
    ask = payer.ask()
    stream = await path_of(world, EndsThenBreaks([]), guard=guard).chat_stream(ask)
    text, error = await read_broken(stream)
    assert (text, error.code) == (TEXT, "answer_blocked")
    await stream.leave(render)
    receipt = await receipt_of(payer, ask)
    assert (receipt["completed"], receipt["screening"]["output"]) == (False, "block")


async def test_who_goes_on_is_bound_by_the_same_policies(world: World) -> None:
    payer, other = await new_payer(world), Writer(PIECES)
    guard = guarding(world.db.pool, Words("never said"))
    await guard.book.write("model:up1/m", Policy((Rule(Category.HATE, "review"),)), by="admin", reason="a test")
    stream = await path_of(world, Writer(PIECES, 3), other, guard=guard).chat_stream(payer.ask())
    text, _ = await read_broken(stream)
    await stream.leave(render)
    assert (text, other.asked) == ("four of six  ", [])
    await guard.book.write("model:up1/m", None, by="admin", reason="the test is over")


# -- cancelled anywhere ------------------------------------------------------------------------------------------------


async def served(path: AnswerPath, ask: Ask) -> None:
    """As the edge serves a stream."""
    stream = await path.chat_stream(ask)
    try:
        try:
            while await stream.next() is not None:
                pass
            await stream.finish(render)
        except PrsmError:
            await stream.leave(render, broken=True)
    except BaseException:
        await stream.leave(render)
        raise


@pytest.mark.parametrize("storm", [False, True])
@pytest.mark.parametrize("able", [ABLE, frozenset({"chat"})])
async def test_cancelled_at_any_point_of_a_broken_answer_nothing_is_left_open(
    world: World, able: frozenset[str], storm: bool
) -> None:
    ended, at = False, 0
    while not ended:
        first, second, payer = Writer(PIECES, 2), Writer(PIECES, 1), await new_payer(world)
        third = Writer(PIECES)
        path = path_of(world, first, second, third, able=able)
        ask = payer.ask()
        work = Interrupted(served(path, ask), at, storm=storm)
        task = asyncio.create_task(work.run())
        await asyncio.gather(task, return_exceptions=True)
        ended = work.points <= at
        assert task.cancelled() != ended
        await path.close()
        charged = await payer.charged_micro()
        assert await payer.open_holds() == 0, at
        assert first.open_streams == second.open_streams == third.open_streams == 0, at
        assert (await payer.receipt(ask.call.request_id) is not None) == (charged > 0), at
        at += 1
    assert at > (16 if able is ABLE else 8)


async def test_after_all_of_this_the_ledger_is_sound(world: World) -> None:
    await assert_sound(world)
