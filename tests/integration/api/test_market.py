"""The market of a served node over HTTP: selling, prices that follow demand, quotes, refunds and statements."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from tests.support.servers import new_database
from tests.support.started_node import free_port
from tests.support.upstream import UpstreamServer

from prsm.api.main import serve
from prsm.core.config import Settings
from prsm.core.identity import SCOPES, USER_SCOPES, Grant
from prsm.node import Node, open_node
from prsm.receipt_verifier import verify
from prsm.tokenomics.enrolment import account_of

BASE = {"base_micro": 1_000_000, "floor_micro": 500_000, "ceiling_micro": 2_000_000}
CACHED = {"base_micro": 100_000, "floor_micro": 50_000, "ceiling_micro": 200_000}
TERMS = {"input": BASE, "output": BASE, "cached_input": CACHED, "capacity_tokens_per_minute": 60_000}


pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)


@dataclass
class World:
    """A served node with ``instance``, which ``seller`` owns, and keys by name."""

    node: Node
    http: aiohttp.ClientSession
    instance: str = ""
    keys: dict[str, str] = field(default_factory=dict[str, str])
    accounts: dict[str, str] = field(default_factory=dict[str, str])

    async def send(self, who: str, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        async with self.http.request(method, path, json=body, headers=headers) as response:
            answer = await response.read()
            assert response.status == status, (method, path, response.status, answer[:500])
            return json.loads(answer) if answer else None

    async def market(self, who: str, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        return await self.send(who, method, f"/node/v1/market/{path}", body, status=status)

    async def offer(self, **changes: Any) -> Any:
        return await self.market(
            "seller", "POST", "offers", {"instance": self.instance, **TERMS, **changes}, status=201
        )

    async def ask(self, who: str = "buyer", *, status: int = 200, text: str = "one two three", **body: Any) -> Any:
        question = {"model": self.instance, "messages": [{"role": "user", "content": text}], **body}
        return await self.send(who, "POST", "/v1/chat/completions", question, status=status)

    async def receipt(self, answer: Any) -> Any:
        found = await self.send("buyer", "GET", f"/node/v1/receipts/{answer['prsm']['receipt_id']}")
        assert verify(json.dumps(found).encode())[0] == []
        return found["receipt"]


@asynccontextmanager
async def serving(folder: Path, postgres: str, valkey: str, **settings: Any) -> AsyncIterator[World]:
    """A node that answers with what it was asked."""
    upstream = await UpstreamServer().start()
    made = Settings(home=folder, port=free_port(), learning_enabled=False, **settings)
    async with open_node(made, postgres, valkey) as node:
        server = asyncio.create_task(serve(node))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{made.port}") as http:
            await until_served(http)
            world = World(node, http)
            await enrol(world, "admin", "admin", SCOPES)
            provider = {"kind": "vllm", "base_url": f"{upstream.origin}/v1"}
            await world.send("admin", "PUT", "/node/v1/providers/up", provider)
            yield world
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
    await upstream.stop()


async def enrol(world: World, name: str, role: Any, scopes: frozenset[str]) -> None:
    principal = await world.node.enrolment.principal(name, role)
    issued = await world.node.enrolment.key(principal.id, Grant(name, scopes), actor=None, cap_micro=None)
    world.keys[name], world.accounts[name] = issued.token, account_of(principal.id)


async def with_an_instance(served: World) -> World:
    """The same node with an instance, a seller and a buyer that are new."""
    world = World(served.node, served.http, f"up/echo{next(_numbers)}", dict(served.keys), dict(served.accounts))
    await enrol(world, "seller", "user", USER_SCOPES)
    await enrol(world, "buyer", "user", USER_SCOPES - {"market"})
    model = {
        "input_price_micro": 3_000_000,
        "output_price_micro": 3_000_000,
        "licence": "MIT",
        "owner_principal_id": world.accounts["seller"].removeprefix("principal:"),
    }
    await world.send("admin", "PUT", f"/node/v1/models/{world.instance}", model)
    return world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, valkey_url: str) -> AsyncIterator[World]:
    """A node whose prices stand still for a day."""
    with new_database(postgres_url, f"market_{uuid4().hex}") as url:
        folder = tmp_path_factory.mktemp("market")
        async with serving(folder, url, valkey_url, market_epoch_s=86_400) as world:
            yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(served: World) -> World:
    return await with_an_instance(served)


async def until_served(http: aiohttp.ClientSession) -> None:
    for _ in range(500):
        try:
            async with http.get("/healthz"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
    raise AssertionError("the node does not listen")


async def test_an_offer_decides_what_a_request_costs_until_it_is_withdrawn(world: World) -> None:
    before = (await world.ask())["prsm"]["cost_micro"]
    offer = await world.offer()
    assert offer["posted"] == {"input_micro": 1_000_000, "output_micro": 1_000_000, "cached_input_micro": 100_000}
    answer = await world.ask()
    assert answer["prsm"]["cost_micro"] * 3 == before
    prices = (await world.receipt(answer))["prices"]
    assert prices["cached_input_micro_per_mtok"] == 100_000
    listed = await world.market(
        "buyer", "GET", f"offers?model={world.instance.removeprefix('up/')}&capability=chat&licence=MIT"
    )
    assert [one["id"] for one in listed] == [offer["id"]]
    assert (
        await world.market("buyer", "GET", f"offers?owner={world.accounts['seller']}&max_input_price_micro=999999")
        == []
    )
    assert await world.market("buyer", "GET", f"offers?after={offer['id']}") == []
    changed = {"terms": TERMS | {"output": BASE | {"base_micro": 2_000_000}}, "state": "paused"}
    await world.market("seller", "PUT", f"offers/{offer['id']}", changed)
    assert await world.market("buyer", "GET", f"offers?owner={world.accounts['seller']}") == []
    assert (await world.receipt(await world.ask()))["prices"]["output_micro_per_mtok"] == 2_000_000
    await world.market("admin", "DELETE", f"offers/{offer['id']}")
    assert (await world.ask())["prsm"]["cost_micro"] == before
    history = await world.market("buyer", "GET", f"offers/{offer['id']}")
    assert [one["state"] for one in history["revisions"]] == ["withdrawn", "paused", "open"]
    assert [one["by_account"] for one in history["revisions"]] == [
        world.accounts["admin"],
        world.accounts["seller"],
        world.accounts["seller"],
    ]


async def test_who_may_sell_what(world: World) -> None:
    new = {"instance": world.instance, **TERMS}
    await world.market("buyer", "POST", "offers", new, status=403)
    built_in = {"instance": "local/arithmetic", **TERMS}
    refused = await world.market("seller", "POST", "offers", built_in, status=403)
    assert refused["error"]["code"] == "not_the_owner"
    await world.market("admin", "POST", "offers", built_in, status=201)
    await world.market("admin", "POST", "offers", {**new, "instance": "up/none"}, status=404)
    staked = await world.market("seller", "POST", "offers", {**new, "stake_micro": 1}, status=503)
    assert staked["error"]["code"] == "stakes_off"
    offer = await world.offer()
    assert "no stakes" in offer["stake"]
    await world.market("seller", "POST", "offers", new, status=409)
    wrong = {**new, "cached_input": BASE | {"ceiling_micro": 2_000_001}}
    assert (await world.market("seller", "POST", "offers", wrong, status=400))["error"]["param"] == "cached_input"
    await world.market("buyer", "DELETE", f"offers/{offer['id']}", status=403)
    await world.market("seller", "DELETE", f"offers/{uuid4()}", status=404)
    sold = {"input_price_micro": 1, "output_price_micro": 1}
    sold["owner_principal_id"] = world.accounts["buyer"].removeprefix("principal:")  # type: ignore[assignment]
    await world.send("admin", "PUT", f"/node/v1/models/{world.instance}", sold)
    await world.market("seller", "DELETE", f"offers/{offer['id']}", status=403)


async def test_a_quote_binds_when_the_posted_price_rises(world: World) -> None:
    offer = await world.offer()
    wish = {"model": world.instance, "input_tokens": 200, "output_tokens": 50, "ttl_s": 60}
    quote = await world.market("buyer", "POST", "quotes", wish, status=201)
    assert quote["quote"]["instance"] == world.instance
    assert await world.market("buyer", "GET", f"quotes/{quote['quote']['id']}") == quote
    await world.market("seller", "GET", f"quotes/{quote['quote']['id']}", status=404)
    dear = TERMS | {"input": BASE | {"base_micro": 2_000_000}, "output": BASE | {"base_micro": 2_000_000}}
    await world.market("seller", "PUT", f"offers/{offer['id']}", {"terms": dear})
    bound = {"prsm": {"quote_id": quote["quote"]["id"]}}
    await world.ask("seller", status=404, **bound)
    answer = await world.ask(**bound)
    receipt = await world.receipt(answer)
    assert receipt["quote"] == quote["quote"]["id"]
    assert receipt["prices"]["input_micro_per_mtok"] == 1_000_000
    refused = await world.ask(status=409, **bound)
    assert refused["error"]["code"] == "quote_used"
    assert (await world.receipt(await world.ask()))["prices"]["input_micro_per_mtok"] == 2_000_000
    too_long = await world.market("buyer", "POST", "quotes", wish | {"ttl_s": 601}, status=400)
    assert too_long["error"]["param"] == "ttl_s"


async def test_a_quote_by_auto_and_one_for_embeddings(world: World) -> None:
    wish = {"model": "auto", "input_tokens": 200, "output_tokens": 50, "question": "What is 1 + 2?"}
    quote = (await world.market("buyer", "POST", "quotes", wish, status=201))["quote"]
    assert quote["instance"] in ("local/arithmetic", world.instance)
    bound = {"model": "auto", "prsm": {"quote_id": quote["id"]}}
    if quote["instance"] == "local/arithmetic":  # which refuses what is no arithmetic, and the quote is free again
        await world.ask(status=422, **bound)
    answer = await world.ask(text="What is 1 + 2?", **bound)
    assert answer["prsm"]["model"] == quote["instance"]
    wish = {"model": "auto", "input_tokens": 100, "output_tokens": 0}
    quote = (await world.market("buyer", "POST", "quotes", wish, status=201))["quote"]
    body = {"model": "auto", "input": "a text", "prsm": {"quote_id": quote["id"]}}
    vectors = await world.send("buyer", "POST", "/v1/embeddings", body)
    assert vectors["prsm"]["model"] == quote["instance"] == "local/minilm-l6"


async def test_prices_follow_what_was_metered(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    """A capacity that one request exceeds: the price rises by an eighth, and every reader sees the same."""
    with new_database(postgres_url, f"market_{uuid4().hex}") as url:
        async with serving(tmp_path, url, valkey_url, market_epoch_s=1) as served:
            world = await with_an_instance(served)
            offer = await world.offer(capacity_tokens_per_minute=1)
            found: Any = {"moves": []}
            while not any(move["used_tokens"] for move in found["moves"]):
                await world.ask()
                await asyncio.sleep(0.2)
                found = await world.market("buyer", "GET", f"offers/{offer['id']}")
            moves = [BASE["base_micro"], *[move["posted"]["input_micro"] for move in reversed(found["moves"])]]
            used = [move["used_tokens"] for move in reversed(found["moves"])]
            for before, after, tokens in zip(moves, moves[1:], used, strict=False):
                step = before // 8 if tokens else -(before // 8)
                assert after == min(max(before + step, BASE["floor_micro"]), BASE["ceiling_micro"])
            target = posted = None
            # A second without a request lets the price fall again, and a slow machine may take longer to look.
            while target in (None, BASE["base_micro"]) or target != posted:
                await world.ask()
                posted = (await world.market("buyer", "GET", "offers"))[0]["posted"]["input_micro"]
                target = world.node.path.models.by_name[world.instance].input_price_micro


async def test_a_refund_from_the_ask_to_the_statement(world: World) -> None:
    request = (await world.ask())["prsm"]
    cost = request["cost_micro"]
    await world.market(
        "seller", "POST", "refunds", {"request_id": request["receipt_id"], "reason": "other"}, status=404
    )
    asked = {"request_id": request["receipt_id"], "reason": "poor_quality", "note": "it only echoes"}
    refund = await world.market("buyer", "POST", "refunds", asked, status=201)
    assert (refund["state"], refund["asked_micro"]) == ("asked", cost)
    await world.market("buyer", "POST", "refunds", asked, status=409)
    path = f"refunds/{refund['id']}"
    await world.market("buyer", "POST", f"{path}/decisions", {"amount_micro": cost}, status=403)
    by_seller = await world.market("seller", "POST", f"{path}/decisions", {"amount_micro": 5}, status=201)
    assert by_seller["decisions"][0]["parts"] == {world.accounts["seller"]: 5}
    rest = {"amount_micro": cost - 5}
    paid = await world.market("admin", "POST", f"{path}/decisions", rest, status=201)
    assert (paid["state"], paid["paid_micro"]) == ("paid", cost)
    assert [one["id"] for one in await world.market("seller", "GET", "refunds")] == [refund["id"]]
    assert await world.market("buyer", "GET", path) == paid
    month = datetime.now(UTC).strftime("%Y-%m")
    for who in ("buyer", "seller"):
        made = await world.market(who, "GET", f"statements/{month}")
        lines = {line["kind"]: line["received_micro"] - line["paid_micro"] for line in made["lines"]}
        assert made["opening_micro"] + sum(lines.values()) == made["closing_micro"]
        wallet = await world.send(who, "GET", "/node/v1/wallet")
        assert made["closing_micro"] == wallet["balance_micro"]
        assert lines["refund"] == (
            cost
            if who == "buyer"
            else -next(iter(line["paid_micro"] for line in made["lines"] if line["kind"] == "refund"))
        )
    earned = await world.market("seller", "GET", "earnings")
    assert (earned["net_micro"], earned["earned_micro"]["owner"]) == (0, earned["refunded_micro"])
    await world.market("buyer", "GET", f"earnings?account={world.accounts['seller']}", status=403)
    assert await world.market("admin", "GET", f"earnings?account={world.accounts['seller']}") == earned
    for path in ("earnings", "statements/2026-01"):
        await world.market("admin", "GET", f"{path}?account=nope", status=404)
    proof = await world.send("admin", "GET", "/node/v1/ledger/verify")
    assert proof["ok"], proof
    await world.market("buyer", "GET", "statements/2026-13", status=400)


async def test_offers_change_while_requests_run_and_every_receipt_is_of_one_price(world: World) -> None:
    offer = await world.offer()
    prices = [1_000_000, 1_500_000, 2_000_000]

    async def change() -> None:
        for price in prices * 3:
            terms = TERMS | {"input": BASE | {"base_micro": price}, "output": BASE | {"base_micro": price}}
            await world.market("seller", "PUT", f"offers/{offer['id']}", {"terms": terms})

    async def many() -> list[Any]:
        return [await world.ask() for _ in range(15)]

    _, *asked = await asyncio.gather(change(), *[many() for _ in range(4)])
    for answer in [answer for answers in asked for answer in answers]:
        stated = (await world.receipt(answer))["prices"]  # the verifier has computed the charge from them
        assert stated["input_micro_per_mtok"] == stated["output_micro_per_mtok"] in prices
    proof = await world.send("admin", "GET", "/node/v1/ledger/verify")
    assert proof["ok"], proof
