"""The market on the answer path over a real ledger: prices that move, quotes, cached input, and those upstream."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace as changed
from tests.support.answering import NODE, Model, Payer, answer_path, assert_sound, new_payer, render, says
from tests.support.asks import target
from tests.support.ledger import World

from prsm.agents.answer import AnswerPath
from prsm.agents.call import Usage
from prsm.agents.plan import Ask
from prsm.agents.routers.model_router import roster
from prsm.agents.seams import UpstreamError
from prsm.core.errors import PrsmError
from prsm.node.market import at_posted_prices, bind
from prsm.receipt_verifier import verify as verify_receipt
from prsm.tokenomics.market.offers import Offer, State, Terms
from prsm.tokenomics.market.pricing import Band
from prsm.tokenomics.market.quote_book import Wish
from prsm.tokenomics.marketplace import Marketplace, MarketRules
from prsm.tokenomics.quotes import Price
from prsm.tokenomics.receipts import NodeSigner
from prsm.tokenomics.splits import MAX_ROYALTIES

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEAR = Price(5_000_000, 9_000_000, 1_000_000)


def post(path: AnswerPath, price: Price) -> None:
    """What every worker does when it hears of a move."""
    band = Band(1, 1, 1)
    offer = Offer(UUID(int=1), "up/m", "principal:owner", State.OPEN, 1, Terms(band, band, 1), price, datetime.now(UTC))
    path.models = roster(at_posted_prices(list(path.models.by_name.values()), {"up/m": offer}))


def market(world: World) -> Marketplace:
    signer = NodeSigner(NODE.node_id, NODE.public_key_hex, NODE.sign)
    return Marketplace(
        world.db.pool,
        world.ledger,
        signer,
        lambda: datetime.now(UTC),
        MarketRules(),
        world.subject_keys,
        metered_tokens=lambda _: 0,
    )


async def receipt_of(payer: Payer, ask: Ask) -> dict[str, Any]:
    signed = await payer.receipt(ask.call.request_id)
    assert signed is not None
    assert verify_receipt(signed)[0] == []
    return json.loads(signed)["receipt"]


# -- prices that move -----------------------------------------------------------------------------------------------


async def test_a_request_pays_the_price_of_its_plan_though_it_moves_before_the_answer(world: World) -> None:
    payer, model = await new_payer(world), Model(says("four"), pause=0)
    path = answer_path(world, model)
    first = payer.ask()
    answering = asyncio.create_task(path.chat(first, render))
    await model.reached.wait()
    post(path, DEAR)
    model.resume.set()
    _, bill = await answering
    assert bill.captured_micro == await payer.charged_micro() == 10 + 2 * 20
    assert (await receipt_of(payer, first))["prices"]["output_micro_per_mtok"] == 2_000_000
    second = payer.ask()
    _, bill = await path.chat(second, render)
    assert bill.captured_micro == 5 * 10 + 9 * 20
    assert (await receipt_of(payer, second))["prices"]["output_micro_per_mtok"] == 9_000_000
    await assert_sound(world)


async def test_so_does_a_stream_while_the_price_moves_in_its_midst(world: World) -> None:
    payer, model = await new_payer(world), Model(says("four", "teen"), pause=1)
    path = answer_path(world, model)
    stream = await path.chat_stream(payer.ask())
    assert await stream.next()
    pieces = asyncio.create_task(stream.next())
    await model.reached.wait()
    post(path, DEAR)
    model.resume.set()
    await pieces
    while await stream.next() is not None:
        pass
    _, bill = await stream.finish(render)
    assert bill.captured_micro == await payer.charged_micro() == 10 + 2 * 20


# -- quotes ---------------------------------------------------------------------------------------------------------


async def quoted(world: World, payer: Payer, *, input_tokens: int = 100, output_tokens: int = 40) -> UUID:
    wish = Wish(payer.account, "auto", input_tokens, output_tokens, 60)
    made = json.loads(await market(world).quotes.make(wish, "up/m", Price(1_000_000, 2_000_000)))
    assert made["quote"]["node"]["id"] == NODE.node_id
    return UUID(made["quote"]["id"])


async def test_a_quote_holds_though_the_posted_price_has_risen(world: World) -> None:
    payer, model = await new_payer(world), Model(says("four"))
    path = answer_path(world, model)
    quote_id = await quoted(world, payer)
    post(path, DEAR)
    ask = await bind(market(world), payer.ask(), quote_id)
    _, bill = await path.chat(ask, render)
    assert (bill.held_micro, bill.captured_micro) == (40 + 2 * 40, 10 + 2 * 20)
    assert model.asked[0].max_output_tokens == 40  # type: ignore[union-attr]
    receipt = await receipt_of(payer, ask)
    assert receipt["quote"] == str(quote_id)
    assert receipt["prices"]["input_micro_per_mtok"] == 1_000_000
    again = await bind(market(world), payer.ask(), quote_id)
    with pytest.raises(PrsmError) as refused:
        await path.chat(again, render)
    assert refused.value.code == "quote_used"
    assert await payer.charged_micro() == bill.captured_micro
    assert await payer.open_holds() == 0


async def test_of_requests_at_once_one_gets_the_quote_and_the_others_are_charged_nothing(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("four")))
    quote_id = await quoted(world, payer)
    asks = [await bind(market(world), payer.ask(), quote_id) for _ in range(6)]
    results = await asyncio.gather(*[path.chat(ask, render) for ask in asks], return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert {result.code for result in results if isinstance(result, PrsmError)} == {"quote_used"}
    assert await payer.charged_micro() == 50


async def test_a_model_that_fails_leaves_the_quote_to_the_next_try(world: World) -> None:
    payer, model = await new_payer(world), Model(error=UpstreamError("It broke.", retryable=False))
    path = answer_path(world, model)
    quote_id = await quoted(world, payer)
    with pytest.raises(UpstreamError):
        await path.chat(await bind(market(world), payer.ask(), quote_id), render)
    assert await payer.charged_micro() == 0
    model.error = None
    _, bill = await path.chat(await bind(market(world), payer.ask(), quote_id), render)
    assert bill.captured_micro == 50


@pytest.mark.parametrize(
    ("values", "quote", "code"),
    [
        ({}, {"input_tokens": 9}, "quote_too_small"),
        ({"choices": 41}, {}, "quote_too_small"),
    ],
)
async def test_a_quote_honours_no_more_than_it_says(
    world: World, values: dict[str, Any], quote: dict[str, int], code: str
) -> None:
    payer = await new_payer(world)
    quote_id = await quoted(world, payer, **quote)
    with pytest.raises(PrsmError) as refused:
        await bind(market(world), payer.ask(**values), quote_id)
    assert refused.value.code == code


async def test_a_quote_is_for_its_model_and_its_account(world: World) -> None:
    payer, other = await new_payer(world), await new_payer(world)
    quote_id = await quoted(world, payer)
    with pytest.raises(PrsmError) as foreign:
        await bind(market(world), other.ask(), quote_id)
    assert foreign.value.code == "unknown_quote"
    ask = payer.ask()
    with pytest.raises(PrsmError) as elsewhere:
        await bind(market(world), changed(ask, call=changed(ask.call, model="up/n")), quote_id)
    assert elsewhere.value.code == "quote_for_another_model"


# -- cached input ---------------------------------------------------------------------------------------------------


async def test_cached_input_costs_its_own_price_and_the_receipt_shows_it(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("four"), usage=Usage(10, 20, 8)))
    path.models = roster([replace(path.models.by_name["up/m"], cached_input_price_micro=100_000)])
    ask = payer.ask()
    _, bill = await path.chat(ask, render)
    # 2 x 1 + 8 x 0.1 = 2.8, rounded up once; the hold was for none of it cached.
    assert (bill.held_micro, bill.captured_micro) == (40 + 2 * 100, 3 + 40)
    receipt = await receipt_of(payer, ask)
    assert receipt["version"] == 3
    assert receipt["prices"]["cached_input_micro_per_mtok"] == 100_000
    assert receipt["usage"]["cached_input_tokens"] == 8
    assert await payer.charged_micro() == 43
    await assert_sound(world)


async def test_an_upstream_that_says_more_was_cached_than_read_charges_no_less_than_nothing(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("four"), usage=Usage(10, 20, 99)))
    path.models = roster([replace(path.models.by_name["up/m"], cached_input_price_micro=100_000)])
    ask = payer.ask()
    _, bill = await path.chat(ask, render)
    assert bill.captured_micro == 1 + 40
    assert (await receipt_of(payer, ask))["usage"]["cached_input_tokens"] == 10


# -- upstream -------------------------------------------------------------------------------------------------------


async def test_those_upstream_are_paid_of_the_owners_part(world: World) -> None:
    payer = await new_payer(world)
    path = answer_path(world, Model(says("four"), usage=Usage(1000, 0)))
    royalties = (("principal:base", 2500), ("principal:data", 1))
    path.models = roster([replace(path.models.by_name["up/m"], royalties=royalties, owner_account="principal:tuner")])
    ask = payer.ask()
    await path.chat(ask, render)
    receipt = await receipt_of(payer, ask)
    captured = receipt["amounts"]["captured_micro"]
    owner_part = captured - captured * 2000 // 10_000 - captured * 1000 // 10_000
    shown = {split["account"]: (split["kind"], split["amount_micro"]) for split in receipt["splits"]}
    assert shown["principal:base"] == ("royalty", owner_part // 4)
    assert shown["principal:tuner"] == ("owner", owner_part - owner_part // 4)
    assert (await world.ledger.balance("principal:base")).balance_micro == owner_part // 4
    await assert_sound(world)


async def test_a_batch_of_captures_with_all_the_legs_there_may_be(world: World) -> None:
    payers = [await new_payer(world, 50_000_000) for _ in range(20)]
    royalties = tuple((f"principal:up{number}", 10_000 // MAX_ROYALTIES) for number in range(MAX_ROYALTIES))
    path = answer_path(world, Model(says("four"), usage=Usage(40, 100)))
    dear = target(
        "up/m",
        price_in=10**10,
        price_out=10**10,
        capabilities=frozenset({"chat"}),
        royalties=royalties,
        owner_account="principal:owner",
    )
    path.models = roster([replace(dear, kind="kind0")])
    await asyncio.gather(*[path.chat(payer.ask(), render) for payer in payers])
    for payer in payers:
        assert await payer.charged_micro() == 1_400_000
    earned = [(await world.ledger.balance(account)).balance_micro for account, _ in royalties]
    assert earned == [20 * (980_000 * 625 // 10_000)] * MAX_ROYALTIES
    await assert_sound(world)
