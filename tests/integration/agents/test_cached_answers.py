"""Answers given again, over a real Valkey, index of vectors and encoder: to whom, when, and at what price."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from msgspec.structs import replace as with_
from tests.support.answering import Model, Payer, answer_path, assert_sound, new_payer, render, says
from tests.support.ledger import World

from prsm.agents.answer import AnswerPath
from prsm.agents.answer_digest import output_digest
from prsm.agents.call import Choice, Delta, Usage
from prsm.agents.plan import Ask, CacheWish
from prsm.agents.response_cache import CachePolicy, Meaning, ResponseCache
from prsm.agents.routers.model_router import roster
from prsm.core.cache import Cache, CacheLimits
from prsm.core.encoder import DIMENSION, MAX_TOKENS, TextEncoder
from prsm.core.vectors import pgvector_index
from prsm.monitoring.metrics import Metrics
from prsm.receipt_verifier import verify as verify_receipt

pytestmark = pytest.mark.asyncio(loop_scope="module")

FULL, AGAIN = 10 + 2 * 20, 10 + 4
"""Usage(10, 20) at the prices of the test's models, and with a tenth of the output's price."""
EXACT, SEMANTIC = CacheWish("exact"), CacheWish("semantic", 0.93)


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class Setting:
    """One node's cache over real stores, and paths that use it."""

    def __init__(self, world: World, store: Cache, encoder: TextEncoder, index: Any) -> None:
        self.world, self.clock, self.metrics = world, Clock(), Metrics()
        self.store = store
        self.keys = world.subject_keys
        self.meaning = Meaning(
            index,
            lambda texts: asyncio.to_thread(encoder.encode, texts),
            lambda text: encoder.count_tokens(text) <= MAX_TOKENS,
        )
        self.index = index

    def path(self, model: Model, policy: CachePolicy | None = None, **changed: Any) -> AnswerPath:
        cache = ResponseCache(self.store, policy or CachePolicy(), self.metrics, self.clock, self.keys, self.meaning)
        path = answer_path(self.world, model, cache=cache)
        if changed:
            path.models = roster([replace(target, **changed) for target in path.models.by_name.values()])
        return path

    def looked_up(self, found: str) -> float:
        sample = f'prsm_cache_lookups_total{{found="{found}"}} '
        lines = self.metrics.render().decode().splitlines()
        return next((float(line.removeprefix(sample)) for line in lines if line.startswith(sample)), 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def encoder() -> TextEncoder:
    return await asyncio.to_thread(TextEncoder.load)


@pytest_asyncio.fixture(loop_scope="module")
async def here(world: World, valkey_url: str, encoder: TextEncoder) -> AsyncIterator[Setting]:
    # A test may wait for the processor longer than a node may.
    store = Cache(valkey_url, namespace=f"answers-{uuid4().hex}", limits=CacheLimits(call_timeout_s=10))
    index = await pgvector_index.open_index(world.db.pool, f"a{uuid4().hex[:20]}", DIMENSION)
    yield Setting(world, store, encoder, index)
    await store.aclose()


async def ask_of(payer: Payer, text: str = "hello", wish: CacheWish | None = EXACT, **options: Any) -> Ask:
    ask = payer.ask(text, cache=wish)
    return with_(ask, call=with_(ask.call, options=options))


async def answered(path: AnswerPath, ask: Ask) -> tuple[bytes, int]:
    """The body and the price, when what is kept of it is kept."""
    body, bill = await path.chat(ask, render)
    await path.close()
    return body.partition(b" for ")[0], bill.captured_micro


async def receipt_of(payer: Payer, ask: Ask) -> dict[str, Any]:
    signed = await payer.receipt(ask.call.request_id)
    assert signed is not None
    assert verify_receipt(signed)[0] == []
    return json.loads(signed)["receipt"]


async def test_the_same_question_is_answered_again_without_a_model_at_the_stated_price(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("four"))
    path = here.path(model)
    first, second = await ask_of(payer), await ask_of(payer)
    assert await answered(path, first) == (b"four", FULL)
    assert await answered(path, second) == (b"four", AGAIN)
    assert len(model.asked) == 1
    assert await payer.charged_micro() == FULL + AGAIN
    receipt = await receipt_of(payer, second)
    assert receipt["cached_from"] == str(first.call.request_id)
    assert receipt["usage"] == {
        "input_tokens": 10,
        "output_tokens": 20,
        "cached_input_tokens": 10,
        "metered_by": "upstream",
    }
    assert receipt["output_digest"] == output_digest([Choice(content="four")])
    assert (receipt["prices"]["output_micro_per_mtok"], receipt["completed"]) == (200_000, True)
    assert (await receipt_of(payer, first))["cached_from"] == ""
    assert (here.looked_up("nothing"), here.looked_up("exact")) == (1, 1)


async def test_cached_input_has_its_own_price_where_the_model_has_one(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("four"))
    path = here.path(model, cached_input_price_micro=100_000)
    await answered(path, await ask_of(payer))
    assert (await answered(path, await ask_of(payer)))[1] == 1 + 4


async def test_a_stream_is_answered_again_as_a_stream_and_either_serves_the_other(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("fo", "ur"))
    path = here.path(model)
    stream = await path.chat_stream(await ask_of(payer))
    while await stream.next() is not None:
        pass
    await stream.finish(render)
    await path.close()
    assert await answered(path, await ask_of(payer)) == (b"four", AGAIN)
    ask = await ask_of(payer)
    again = await path.chat_stream(ask)
    text = ""
    while (deltas := await again.next()) is not None:
        text += "".join(delta.content or "" for delta in deltas)
    await again.finish(render)
    assert (text, len(model.asked)) == ("four", 1)
    assert (await receipt_of(payer, ask))["cached_from"]
    left = await path.chat_stream(await ask_of(payer))
    await left.next()
    await left.leave(render)
    assert await payer.open_holds() == 0


async def test_who_leaves_an_answer_that_is_given_again_pays_no_more_than_who_stays(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("four"))
    path = here.path(model, cached_input_price_micro=100_000)
    await answered(path, await ask_of(payer))
    ask = await ask_of(payer)
    left = await path.chat_stream(ask)
    await left.next()
    await left.leave(render)
    receipt = await receipt_of(payer, ask)
    assert receipt["cached_from"]
    assert (receipt["usage"]["cached_input_tokens"], receipt["usage"]["metered_by"]) == (10, "node")
    assert receipt["amounts"]["captured_micro"] <= 1 + 4


async def test_nobody_is_given_what_another_was_told(here: Setting) -> None:
    one, other = await new_payer(here.world), await new_payer(here.world)
    model = Model(says("a secret"))
    path = here.path(model)
    for wish in (EXACT, SEMANTIC):
        assert (await answered(path, await ask_of(one, "Why is that so?", wish)))[1] in (FULL, AGAIN)
        assert (await answered(path, await ask_of(other, "Why is that so?", wish)))[1] in (FULL, AGAIN)
    # Each paid a model once, for its own first question.
    assert len(model.asked) == 2


async def test_without_a_wish_only_deterministic_requests_are_answered_again(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("four"))
    path = here.path(model)
    for options in ({}, {"temperature": 0.7}):
        for _ in range(2):
            assert (await answered(path, await ask_of(payer, wish=None, **options)))[1] == FULL
    assert (await answered(path, await ask_of(payer, wish=None, temperature=0)))[1] == FULL
    assert (await answered(path, await ask_of(payer, wish=None, temperature=0)))[1] == AGAIN
    assert (await answered(path, await ask_of(payer, wish=CacheWish("off"), temperature=0)))[1] == FULL


async def test_a_new_version_of_the_model_is_asked_anew(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("four"))
    for version, price in (("1", FULL), ("1", AGAIN), ("2", FULL)):
        assert (await answered(here.path(model, version=version), await ask_of(payer)))[1] == price


async def test_a_question_like_it_is_answered_again_only_above_the_floor_that_its_caller_set(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("by mail"))
    path = here.path(model)
    first = await ask_of(payer, "How do I reset my password?", SEMANTIC)
    assert (await answered(path, first))[1] == FULL
    like = await ask_of(payer, "How can I reset my password?", SEMANTIC)
    assert await answered(path, like) == (b"by mail", AGAIN)
    assert (await receipt_of(payer, like))["cached_from"] == str(first.call.request_id)
    strict = await ask_of(payer, "How can I reset my password?", CacheWish("semantic", 0.9999))
    assert (await answered(path, strict))[1] == FULL
    other = await ask_of(payer, "How do I change my user name?", SEMANTIC)
    assert (await answered(path, other))[1] == FULL
    exact_only = await ask_of(payer, "How could I reset my password?", EXACT)
    assert (await answered(path, exact_only))[1] == FULL


async def test_what_is_no_plain_question_is_never_answered_by_likeness(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("by mail"))
    path = here.path(model)
    await answered(path, await ask_of(payer, "How do I reset my password?", SEMANTIC))
    for ask in (
        await ask_of(payer, "How can I reset my password?", SEMANTIC, stop="x"),
        with_(await ask_of(payer, "How can I reset my password?", SEMANTIC), history_bytes=1),
        await ask_of(payer, "How can I reset my password? " * 60, SEMANTIC),
    ):
        assert (await answered(path, ask))[1] > AGAIN
    assert here.looked_up("semantic") == 0


async def test_an_old_answer_is_not_given_again_and_its_vector_is_swept(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("by mail"))
    path = here.path(model, CachePolicy(ttl_s=60))
    await answered(path, await ask_of(payer, "How do I reset my password?", SEMANTIC))
    assert await here.index.count() == 1
    assert await path.sweep() == 0
    here.clock.now += timedelta(seconds=61)
    assert (await answered(path, await ask_of(payer, "How can I reset my password?", SEMANTIC)))[1] == FULL
    assert await path.sweep() == 1
    assert await here.index.count() == 1  # the new one
    short = here.path(model, CachePolicy(ttl_s=1))
    await answered(short, await ask_of(payer, "soon forgotten"))
    await asyncio.sleep(1.1)
    assert (await answered(short, await ask_of(payer, "soon forgotten")))[1] == FULL


async def test_too_large_an_answer_and_too_much_for_one_caller_is_not_kept(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("x" * 600))
    path = here.path(model, CachePolicy(answer_bytes=300))
    for _ in range(2):
        assert (await answered(path, await ask_of(payer)))[1] == FULL
    path = here.path(model, CachePolicy(caller_bytes=2_000))
    prices = [(await answered(path, await ask_of(payer, f"question {n // 2}")))[1] for n in range(8)]
    assert prices == [FULL, AGAIN, FULL, AGAIN, FULL, FULL, FULL, FULL]


@pytest.mark.parametrize("pieces", [[Delta(content="cut", finish_reason="length")]])
async def test_an_answer_that_a_limit_cut_is_not_kept(here: Setting, pieces: list[Delta]) -> None:
    payer = await new_payer(here.world)
    path = here.path(Model(pieces, usage=None))
    for _ in range(2):
        stream = await path.chat_stream(await ask_of(payer))
        while await stream.next() is not None:
            pass
        await stream.finish(render)
        await path.close()
    assert here.looked_up("exact") == 0


async def test_an_answer_that_nobody_metered_says_so_when_it_is_given_again(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("x" * 12), usage=None)
    path = here.path(model)
    await answered(path, await ask_of(payer))
    ask = await ask_of(payer)
    await answered(path, ask)
    assert (await receipt_of(payer, ask))["usage"]["metered_by"] == "node"


async def test_a_store_that_is_away_has_found_nothing(world: World, encoder: TextEncoder) -> None:
    payer, model = await new_payer(world), Model(says("four"))
    store = Cache("redis://127.0.0.1:9/0", namespace="gone")
    path = Setting(world, store, encoder, None).path(model)
    for _ in range(2):
        assert (await answered(path, await ask_of(payer)))[1] == FULL
    await store.aclose()


async def test_a_hit_takes_no_more_than_the_hold_and_resolves_it(here: Setting) -> None:
    payer, model = await new_payer(here.world), Model(says("x"), usage=Usage(10**6, 10**6))
    path = here.path(model)
    await answered(path, await ask_of(payer))
    assert (await answered(path, await ask_of(payer)))[1] == 240  # the whole hold
    assert await payer.open_holds() == 0


async def test_after_all_of_this_the_ledger_is_sound(world: World) -> None:
    await assert_sound(world)
