"""Three providers of one model over real HTTP, of which one and then two fail in some way before their first byte.

No request is lost that had not started: it is answered by who is left, who alone is paid.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.support.answering import Payer, answer_path, assert_sound, new_payer, render
from tests.support.ledger import World
from tests.support.started_node import free_port
from tests.support.upstream import UpstreamServer

from prsm.agents.answer import AnswerPath
from prsm.agents.executors.http_client import HttpClient
from prsm.agents.executors.http_connection import Limits
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.agents.plan import Ask
from prsm.core.errors import PrsmError

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = [
    "refused",
    "hang",
    "fault-500",
    "fault-503",
    "fault-429",
    "fault-401",
    "fault-404",
    "not-json",
    "garbage",
    "reset",
    "cut-before-first",
    "empty-stream",
    "error-mid-stream",
    "huge-head",
]
TEXT = "one two three"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[UpstreamServer]:
    server = await UpstreamServer().start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[HttpClient]:
    http = HttpClient(Limits(connect_s=10, first_byte_s=1, idle_s=1, total_s=30, sweep_s=0.02))
    yield http
    await http.aclose()


def instance(place: int, does: str, upstream: UpstreamServer, **more: Any) -> dict[str, Any]:
    port = free_port() if does == "refused" else upstream.port
    name = "echo" if does == "refused" else does
    return {
        "name": f"p{place}/{name}",
        "upstream_name": name,
        "provider": f"p{place}",
        "kind": f"kind{place}",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": "llm",
        "capabilities": frozenset({"chat"}),
        # Dearer from left to right, so that they are tried in this order.
        "input_price_micro": 1_000_000,
        "output_price_micro": 2_000_000 + place,
    } | more


def path_of(world: World, client: HttpClient, instances: list[dict[str, Any]]) -> AnswerPath:
    executor: Any = OpenAICompatibleExecutor(client)
    return answer_path(world, *[executor] * len(instances), changed=instances)


async def answered(path: AnswerPath, ask: Ask, *, streamed: bool) -> str:
    if not streamed:
        body, _ = await path.chat(ask, render)
        return body.decode().partition(" for ")[0]
    stream, text = await path.chat_stream(ask), ""
    while (deltas := await stream.next()) is not None:
        text += "".join(delta.content or "" for delta in deltas)
    await stream.finish(render)
    return text


async def who_answered(payer: Payer, ask: Ask) -> str:
    signed = await payer.receipt(ask.call.request_id)
    assert signed is not None
    return json.loads(signed)["receipt"]["provider"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("dead", [1, 2])
@pytest.mark.parametrize("way", WAYS)
async def test_no_request_is_lost_that_had_not_started(
    world: World, upstream: UpstreamServer, client: HttpClient, way: str, dead: int, streamed: bool
) -> None:
    payer = await new_payer(world)
    path = path_of(world, client, [instance(n, way if n < dead else "echo", upstream) for n in range(3)])
    asks = [payer.ask(TEXT) for _ in range(3)]
    texts = await asyncio.gather(*(answered(path, ask, streamed=streamed) for ask in asks))
    assert texts == [TEXT] * 3
    assert {await who_answered(payer, ask) for ask in asks} == {f"p{dead}"}
    assert await payer.charged_micro() == 3 * (3 + -(-3 * (2_000_000 + dead) // 1_000_000))
    assert await payer.open_holds() == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_where_all_are_dead_the_caller_is_told_and_pays_nothing(
    world: World, upstream: UpstreamServer, client: HttpClient, streamed: bool
) -> None:
    payer = await new_payer(world)
    path = path_of(world, client, [instance(n, "fault-503", upstream) for n in range(3)])
    with pytest.raises(PrsmError, match="overloaded or away"):
        await answered(path, payer.ask(TEXT), streamed=streamed)
    assert await payer.charged_micro() == await payer.open_holds() == 0


async def test_other_instances_of_the_model_step_in_before_other_models_though_they_are_dearer(
    world: World, upstream: UpstreamServer, client: HttpClient
) -> None:
    payer = await new_payer(world)
    ask = payer.ask(TEXT)
    path = path_of(
        world,
        client,
        [
            instance(0, "fault-503", upstream),
            instance(1, "echo", upstream, model="another"),
            instance(2, "echo", upstream),
        ],
    )
    assert await answered(path, ask, streamed=False) == TEXT
    assert await who_answered(payer, ask) == "p2"


async def test_who_names_a_model_is_never_given_another(
    world: World, upstream: UpstreamServer, client: HttpClient
) -> None:
    payer = await new_payer(world)
    dead = [instance(n, "fault-503", upstream) for n in range(2)]
    path = path_of(world, client, [*dead, instance(2, "echo", upstream, model="another")])
    for name in ("llm", "p0/fault-503"):
        ask = payer.ask(TEXT)
        with pytest.raises(PrsmError, match="overloaded or away"):
            await answered(path, replace(ask, call=replace(ask.call, model=name)), streamed=False)
    assert await payer.charged_micro() == 0


async def test_after_all_of_this_the_ledger_is_sound(world: World) -> None:
    await assert_sound(world)
