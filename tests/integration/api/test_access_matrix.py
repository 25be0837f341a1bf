"""Every route of the node, asked by every kind of caller, about things of its own and of others.

The routes are read from the running application: one that is new, and has no entry in ROUTES, fails here. What each
caller may do is written out in the tables, and what is refused must leave the thing it named as it was.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from fastapi.routing import iter_route_contexts
from msgspec.structs import replace
from tests.support.started_node import free_port

from prsm.agents.conversations import turn
from prsm.api.answers import Answers
from prsm.api.docs import QUESTION_PATHS
from prsm.api.door import Door
from prsm.api.main import hot_routes, serve
from prsm.api.node_api import build_node_api
from prsm.api.storage_content import STREAMED_ROUTES
from prsm.core.clock import uuid7
from prsm.core.config import Settings
from prsm.core.identity import SCOPES, USER_SCOPES, Grant
from prsm.data_layer.codec.cid import Cid
from prsm.monitoring.alerting.sinks import trial
from prsm.node import Node, open_node
from prsm.safety.policy import Action, Direction, Finding, Verdict
from prsm.safety.seams import Category
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.market.quote_book import Wish
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.quotes import Price
from prsm.tokenomics.receipts import NodeSigner, ReceiptFacts, sign_receipt
from prsm.tokenomics.splits import Leg

# Who asks. Each is one API key (or none); the comment says whose.
DEAD = ("no key", "malformed key", "foreign key", "expired", "revoked", "disabled principal")
USER = ("chat only", "embeddings only", "read only", "storage only", "market only", "keys only", "all user scopes")
ADMINS = ("admin role, user scopes", "admin scope only", "admin")
LIVE = (*USER, *ADMINS, "audit only")

# What a route asks for, and which live callers have it; all other live callers get a 403, all dead ones a 401.
MAY: dict[str, frozenset[str]] = {
    "any": frozenset(LIVE),
    "chat": frozenset({"chat only", "all user scopes", "admin role, user scopes", "admin"}),
    "embeddings": frozenset({"embeddings only", "all user scopes", "admin role, user scopes", "admin"}),
    "read": frozenset({"read only", "all user scopes", "admin role, user scopes", "admin"}),
    "storage": frozenset({"storage only", "all user scopes", "admin role, user scopes", "admin"}),
    "market": frozenset({"market only", "all user scopes", "admin role, user scopes", "admin"}),
    "keys": frozenset({"keys only", "all user scopes", "admin role, user scopes", "admin"}),
    "admin": frozenset({"admin scope only", "admin"}),
    "audit": frozenset({"audit only", "admin"}),
}
PUBLIC = "public"


@dataclass(frozen=True)
class Route:
    """``needs`` PUBLIC or a key of MAY; ``thing`` is what the request names and somebody owns.

    Another's thing is a 404 for all but those in ``reach``.
    """

    needs: str
    ok: int = 200
    body: Any = None
    thing: str = ""
    reach: frozenset[str] = frozenset()
    fill: dict[str, str] = field(default_factory=dict)
    query: str = ""


ADMIN_REACHES = frozenset({"admin"})
ASK = {"model": "auto", "messages": [{"role": "user", "content": "What is 1 + 2?"}]}
MODEL = {"input_price_micro": 0, "output_price_micro": 0}
PROVIDER = {"kind": "vllm", "base_url": "http://127.0.0.1:9/v1"}
SOURCE = {"kind": "vllm", "address": "http://127.0.0.1:9/v1"}
BAND = {"base_micro": 1, "floor_micro": 1, "ceiling_micro": 1}
OFFER = {"input": BAND, "output": BAND, "capacity_tokens_per_minute": 1}
WISH = {"model": "local/arithmetic", "input_tokens": 9, "output_tokens": 9}
THE_MODEL = {"provider": "matrix", "upstream_name": "a/b"}
NO_RUN = str(UUID(int=0))
PUBLICATION = {
    "run": NO_RUN, "evaluation_run": NO_RUN, "model": "m", "title": "t", "purpose": "p", "domain": "d",
    "licence": "MIT",
}  # fmt: skip
POLICY = {"policy": {"rules": []}, "reason": "test"}
BREAKER = {"board": "models", "name": "matrix/no/such"}
PREFERENCE = {"collection": "c", "prompt": "p", "chosen": "a", "rejected": "b"}
BUILT_IN = {"model": "arithmetic", "reference": "arithmetic"}

ROUTES: dict[str, Route] = {
    "GET /openapi.json": Route(PUBLIC),
    "GET /docs": Route(PUBLIC),
    "GET /": Route(PUBLIC),
    "GET /healthz": Route(PUBLIC),
    "GET /readyz": Route(PUBLIC),
    "GET /metrics": Route(PUBLIC),
    "GET /node/v1/node": Route(PUBLIC),
    "GET /node/v1/verifier": Route(PUBLIC),
    "GET /node/v1/audit/checkpoint": Route(PUBLIC),
    "GET /node/v1/audit/key": Route(PUBLIC),
    "GET /node/v1/audit/consistency": Route(PUBLIC, query="?first=1&second=1"),
    "GET /node/v1/audit/entries": Route("audit"),
    "GET /node/v1/audit/entries/{position}": Route("audit", fill={"position": "0"}),
    "GET /node/v1/audit/entries/{position}/proof": Route("audit", fill={"position": "0"}),
    "GET /node/v1/audit/checkpoints": Route("audit"),
    "GET /node/v1/audit/tile/{path:path}": Route("audit", fill={"path": "0/000.p/1"}),
    "POST /node/v1/audit/verify": Route("audit", body={}),
    "GET /node/v1/privacy/export": Route("read"),
    "POST /node/v1/privacy/erase": Route("keys", 404, {"principal_id": NO_RUN}),  # nobody is that principal
    "GET /node/v1/privacy/principals/{principal_id}/export": Route("admin", thing="stranger"),
    "POST /node/v1/privacy/principals/{principal_id}/erase": Route("admin", thing="stranger"),
    "GET /node/v1/privacy/consents": Route("read"),
    "PUT /node/v1/privacy/consents/{purpose}": Route("read", body={"granted": True}, fill={"purpose": "training"}),
    "GET /node/v1/privacy/records": Route("admin"),
    "GET /node/v1/privacy/retention": Route("read"),
    "POST /node/v1/privacy/retention": Route("admin"),
    "GET /v1/models": Route("any"),
    "GET /v1/models/{name:path}": Route("any", fill={"name": "local/arithmetic"}),
    "POST /v1/chat/completions": Route("chat", body=ASK),
    "POST /v1/responses": Route("chat", body={"model": "auto", "input": "What is 1 + 2?"}),
    "POST /v1/messages": Route("chat", body=ASK | {"max_tokens": 64}),
    "POST /v1/messages/count_tokens": Route("chat", body=ASK),
    "POST /node/v1/route/explain": Route("chat", body=ASK),
    "POST /v1/feedback": Route("chat", body={"rating": "good"}, thing="receipt"),
    "GET /node/v1/feedback": Route("admin"),
    "GET /node/v1/quality": Route("read"),
    "POST /v1/embeddings": Route("embeddings", body={"model": "auto", "input": "a text"}),
    "GET /node/v1/wallet": Route("read"),
    "GET /node/v1/receipts": Route("read"),
    "GET /node/v1/receipts/{receipt_id}": Route("read", thing="receipt", reach=ADMIN_REACHES),
    "GET /node/v1/sessions": Route("read"),
    "GET /node/v1/sessions/{session_id}": Route("read", thing="session"),
    "DELETE /node/v1/sessions/{session_id}": Route("read", 204, thing="session"),
    "GET /node/v1/liveness": Route("read"),
    "GET /node/v1/status": Route("read"),
    "GET /node/v1/capacity": Route("read"),
    "GET /node/v1/alerts": Route("admin"),
    "POST /node/v1/alerts/test": Route("admin"),
    "POST /node/v1/alerts/{alert_id}/ack": Route("admin", body={}, thing="alert"),
    "POST /node/v1/alerts/silences": Route("admin", 201, {"reason": "r", "for_s": 60, "rule": "OutboxLag"}),
    "DELETE /node/v1/alerts/silences/{silence_id}": Route("admin", 204, thing="silence"),
    "GET /node/v1/models/search": Route("read", query="?q=sums"),
    "GET /node/v1/keys": Route("keys"),
    "POST /node/v1/keys": Route("keys", 201, {"name": "n", "scopes": ["keys"]}, "principal", ADMIN_REACHES),
    "POST /node/v1/keys/{key_id}/rotate": Route("keys", 201, {}, "key", ADMIN_REACHES),
    "DELETE /node/v1/keys/{key_id}": Route("keys", 200, None, "key", ADMIN_REACHES),
    "PUT /node/v1/keys/{key_id}/cap": Route("keys", 200, {"cap_micro": 7}, "key", ADMIN_REACHES),
    "GET /node/v1/principals": Route("admin"),
    "POST /node/v1/principals": Route("admin", 201, {"name": "n"}),
    "DELETE /node/v1/principals/{principal_id}": Route("admin", thing="stranger"),
    "POST /node/v1/principals/{principal_id}/grants": Route("admin", 201, {"amount_micro": 5}, "stranger"),
    "GET /node/v1/providers": Route("admin"),
    "GET /node/v1/providers/{name}/models": Route("admin", fill={"name": "local"}),
    "PUT /node/v1/providers/{name}": Route("admin", body=PROVIDER, fill={"name": "matrix"}),
    "PUT /node/v1/models/{provider}/{upstream_name:path}": Route("admin", body=MODEL, fill=THE_MODEL),
    "DELETE /node/v1/models/{provider}/{upstream_name:path}": Route("admin", 204, fill=THE_MODEL, thing="model"),
    "GET /node/v1/discovery/sources": Route("admin"),
    "PUT /node/v1/discovery/sources/{name}": Route("admin", body=SOURCE, fill={"name": "elsewhere"}),
    "DELETE /node/v1/discovery/sources/{name}": Route("admin", 204, fill={"name": "elsewhere"}, thing="source"),
    "POST /node/v1/discovery/sync": Route("admin", 202),
    "GET /node/v1/discovery/listings": Route("read", query="?q=sums"),
    "GET /node/v1/discovery/listings/{source}/{name:path}": Route(
        "read", fill={"source": "local", "name": "arithmetic"}
    ),
    "POST /node/v1/discovery/adopt": Route("admin", 409, {"source": "local", "name": "arithmetic"}),  # built in
    "GET /node/v1/registry/models": Route("read"),
    "GET /node/v1/registry/models/{model:path}": Route("read", fill=BUILT_IN),
    "GET /node/v1/registry/versions/{reference:path}": Route("read", fill=BUILT_IN),
    "GET /node/v1/registry/history/{model:path}": Route("read", fill=BUILT_IN),
    "GET /node/v1/registry/compare": Route("read", query="?left=arithmetic&right=minilm-l6"),
    "POST /node/v1/registry/versions": Route("admin", 201, {"model": "matrix", "version": "v1"}),
    "POST /node/v1/registry/imports": Route("admin", 400, {"source": "hf:nobody"}),  # no ORG/NAME
    "PUT /node/v1/registry/states/{reference:path}": Route(
        "admin", 409, {"state": "retired"}, fill=BUILT_IN
    ),  # it lives
    "PUT /node/v1/registry/limits/{reference:path}": Route("admin", body={}, fill=BUILT_IN),
    "POST /node/v1/registry/promotions": Route("admin", 409, {"model": "arithmetic"}),  # no candidate
    "POST /node/v1/registry/rollbacks": Route("admin", 409, {"model": "arithmetic"}),  # no former version
    "PUT /node/v1/registry/aliases/{model:path}": Route("admin", body={"alias": "a", "version": ""}, fill=BUILT_IN),
    "GET /node/v1/ledger/verify": Route("admin"),
    "GET /node/v1/rollouts": Route("read"),
    "GET /node/v1/rollouts/{model:path}": Route("read", fill=BUILT_IN),
    "PUT /node/v1/rollouts/{model:path}": Route("admin", 404, {"candidate": "unheard-of"}, fill=BUILT_IN),
    "DELETE /node/v1/rollouts/{model:path}": Route("admin", 404, fill=BUILT_IN),  # none runs
    "GET /node/v1/market/offers": Route("read"),
    "GET /node/v1/market/offers/{offer_id}": Route("read", thing="listed"),
    "POST /node/v1/market/offers": Route("market", 201, OFFER, "instance", ADMIN_REACHES),
    "PUT /node/v1/market/offers/{offer_id}": Route("market", 200, {"state": "paused"}, "offer", ADMIN_REACHES),
    "DELETE /node/v1/market/offers/{offer_id}": Route("market", 200, None, "offer", ADMIN_REACHES),
    "POST /node/v1/market/quotes": Route("read", 201, WISH),
    "GET /node/v1/market/quotes/{quote_id}": Route("read", thing="quote"),
    "GET /node/v1/market/earnings": Route("read"),
    "GET /node/v1/market/statements/{month}": Route("read", fill={"month": "2026-01"}),
    "GET /node/v1/market/refunds": Route("read"),
    "POST /node/v1/market/refunds": Route("read", 201, {"reason": "other"}, "answered"),
    "GET /node/v1/market/refunds/{refund_id}": Route("read", thing="refund", reach=ADMIN_REACHES),
    "POST /node/v1/market/refunds/{refund_id}/decisions": Route(
        "market", 201, {"amount_micro": 0}, "refund", ADMIN_REACHES
    ),
    "POST /node/v1/storage/content": Route("storage", 201, {"some": "bytes"}),
    "GET /node/v1/storage/content/{cid}": Route("read", thing="object"),
    "GET /ipfs/{cid}": Route(PUBLIC, thing="object", query="?format=raw"),
    "GET /node/v1/storage/objects": Route("read"),
    "GET /node/v1/storage/objects/{cid}": Route("read", thing="object"),
    "GET /node/v1/storage/objects/{cid}/entries": Route("read", thing="directory"),
    "POST /node/v1/storage/directories": Route("storage", 201, {"entries": []}),
    "POST /node/v1/storage/objects/{cid}/fetch": Route("storage", thing="object"),
    "PUT /node/v1/storage/objects/{cid}/pin": Route("storage", 204, thing="object"),
    "DELETE /node/v1/storage/objects/{cid}/pin": Route("storage", 204, thing="pinned"),
    "POST /node/v1/storage/unpin": Route("storage", 200, {"cids": []}),
    "POST /node/v1/storage/objects/{cid}/publish": Route("storage", 409, thing="object"),  # no node to publish to
    "POST /node/v1/storage/objects/{cid}/verify": Route("storage", thing="object"),
    "POST /node/v1/storage/objects/{cid}/repair": Route("admin", thing="object"),
    "GET /node/v1/storage/objects/{cid}/provenance": Route("read", thing="object"),
    "POST /node/v1/storage/objects/{cid}/provenance": Route(
        "storage", 201, {"licence": "MIT", "title": "t"}, thing="object"
    ),
    "POST /v1/moderations": Route("chat", body={"input": "a text"}),
    "GET /node/v1/safety/policies": Route("read"),
    "GET /node/v1/safety/policy-history": Route("admin"),
    "PUT /node/v1/safety/policies/{scope:path}": Route("admin", body=POLICY, fill={"scope": "model:matrix"}),
    "DELETE /node/v1/safety/policies/{scope:path}": Route("admin", 404, fill={"scope": "model:unheard-of"}),
    "GET /node/v1/safety/incidents": Route("read"),
    "GET /node/v1/safety/incidents/{incident_id}": Route("admin", thing="incident"),
    "POST /node/v1/safety/incidents/{incident_id}/decision": Route(
        "admin", 200, {"decision": "upheld"}, thing="incident"
    ),
    "POST /node/v1/safety/appeals": Route("read", 201, {"words": "harmless"}, thing="blocked"),
    "GET /node/v1/safety/examples": Route("admin"),
    "GET /node/v1/safety/threats": Route("admin"),
    "DELETE /node/v1/safety/threats/{account}": Route("admin", 404, fill={"account": "nobody"}),
    "GET /node/v1/breakers": Route("admin"),
    "PUT /node/v1/breakers/{board}/{name:path}": Route("admin", 204, {"reason": "test"}, fill=BREAKER),
    "DELETE /node/v1/breakers/{board}/{name:path}": Route("admin", 204, fill=BREAKER),
    "POST /node/v1/training/runs": Route("admin", 201, {"name": "n", "recipe": "x", "budget_micro": 0}),
    "GET /node/v1/training/runs": Route("admin"),
    "GET /node/v1/training/runs/{run_id}": Route("admin", thing="run"),
    "GET /node/v1/training/runs/{run_id}/reports": Route("admin", thing="run"),
    "POST /node/v1/training/runs/{run_id}/stop": Route("admin", thing="run"),
    "POST /node/v1/training/runs/{run_id}/resume": Route("admin", 409, thing="run"),  # it waits for its turn
    "POST /node/v1/training/publications": Route("admin", 404, PUBLICATION),  # no such run
    "POST /node/v1/training/evaluations": Route("admin", 404, {"run": NO_RUN, "model": "m"}),
    "GET /node/v1/training/evaluations/{model}/{version}": Route("read", fill={"model": "m", "version": "v"}),
    "POST /node/v1/training/gates": Route("admin", 404, {"model": "m", "version": "v"}),  # no such model
    "GET /node/v1/training/gates/{model}": Route("read", fill={"model": "m"}),
    "POST /node/v1/preferences": Route("chat", 201, PREFERENCE),
    "GET /node/v1/preferences": Route("read", query="?collection=c"),
    "DELETE /node/v1/preferences/{preference_id}": Route("chat", 204, None, "preference", ADMIN_REACHES),
    "GET /node/v1/storage/status": Route("read"),
    "POST /node/v1/storage/gc": Route("admin"),
}


_HIDDEN = ("key", "principal", "receipt", "session", "pinned", "quote", "answered", "refund", "preference", "blocked")


def expected(route: Route, role: str, *, mine: bool) -> int:
    """The status that the tables say."""
    if route.needs == PUBLIC:
        return route.ok
    if role in DEAD:
        return 401
    if role not in MAY[route.needs]:
        return 403
    if mine or role in route.reach:
        return route.ok
    if route.thing in ("offer", "instance"):  # whose anybody may see
        return 403
    if route.thing in _HIDDEN:
        return 404
    return route.ok


@dataclass
class World:
    """A served node with its callers: a user, an admin, and a third whose things are the others'."""

    node: Node
    http: aiohttp.ClientSession
    user: UUID
    admin: UUID
    other: UUID
    tokens: dict[str, str] = field(default_factory=dict)

    def owner(self, role: str) -> UUID:
        return self.admin if role in ADMINS else self.user

    async def send(self, method: str, path: str, role: str, body: Any = None) -> tuple[int, Any]:
        token = self.tokens[role]
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with self.http.request(method, path, json=body, headers=headers) as response:
            answer = await response.read()
            is_json = response.content_type.endswith("json") and bool(answer)  # a tile of hashes may begin like it
            return response.status, json.loads(answer) if is_json else answer.decode(errors="replace")

    async def make(self, thing: str, owner: UUID) -> UUID | Cid:
        """A new thing of somebody's."""
        node = self.node
        if thing in ("object", "pinned"):
            left = [uuid4().hex.encode()]
            stored = await node.storage.add(lambda into: _take(left, into), f"principal:{owner}")
            return stored.cid
        if thing == "directory":
            return (await node.storage.add_directory([], f"principal:{owner}")).cid
        if thing == "key":
            grant = Grant("target", frozenset({"keys"}))
            return (await node.enrolment.key(owner, grant, actor=None, cap_micro=1)).key.id
        if thing == "session":
            session = uuid7()
            said, key = [{"role": "user", "content": "hello"}], await node.subject_keys.key(owner)
            query, arguments = turn(session, owner, uuid7(), said, key)
            await node.database.pool.execute(query, *arguments)
            return session
        if thing == "receipt":
            return await self.receipt(owner)
        if thing in ("offer", "listed", "instance"):
            return await self.offered(owner, offer=thing != "instance")
        if thing == "quote":
            wish = Wish(account_of(owner), "local/arithmetic", 9, 9, 60)
            made = await node.market.quotes.make(wish, "local/arithmetic", Price(1, 1))
            return UUID(json.loads(made)["quote"]["id"])
        if thing == "answered":
            return await self.sold(account_of(owner), "principal:seller")
        if thing == "refund":
            request_id = await self.sold("principal:buyer", account_of(owner))
            return (await node.market.refunds.ask(request_id, "principal:buyer", "other")).id
        if thing in ("incident", "blocked"):
            request_id = uuid7()
            who = (account_of(owner), "local/arithmetic", Direction.INPUT)
            verdict = Verdict(Action.BLOCK, (Finding(Category.HATE, 0.9, Action.BLOCK),))
            await node.safety.incidents.record(request_id, *who, verdict, ["a text"])
            made = await node.safety.incidents.listed(account=account_of(owner), limit=1)
            return request_id if thing == "blocked" else made[0].id
        if thing == "preference":
            return (await node.training.preferences.add(owner, "c", "p", "a", "b")).id
        if thing == "run":
            account = account_of(owner)
            book = node.training.book
            await node.database.pool.execute("DELETE FROM training_runs")  # only so many may be open
            return (await book.submit("train", "n", "x", account=account, api_key_id=None, budget_micro=0)).id
        if thing == "alert":
            alert = trial("page", time.time()).alerts[0]
            alert = replace(alert, id=uuid4(), key=uuid4().hex)
            await node.monitoring.book.keep([alert])
            return alert.id
        if thing == "silence":
            until = datetime.now(UTC) + timedelta(hours=1)
            return (await node.monitoring.book.silence("None", {}, "a", "r", until)).id
        if thing == "stranger":
            return (await node.enrolment.principal("stranger", "user")).id
        return owner

    async def offered(self, owner: UUID, *, offer: bool) -> UUID:
        """An instance of somebody's, with an offer; answers the offer's id, or the name of the instance's model."""
        name = uuid4()
        await self.send("PUT", "/node/v1/providers/matrix", "admin", PROVIDER)
        model = MODEL | {"owner_principal_id": str(owner)}
        await self.send("PUT", f"/node/v1/models/matrix/{name}", "admin", model)
        if not offer:
            return name
        new = OFFER | {"instance": f"matrix/{name}"}
        return UUID((await self.send("POST", "/node/v1/market/offers", "admin", new))[1]["id"])

    async def sold(self, payer: str, seller: str) -> UUID:
        """A request that one account was charged for and another paid by."""
        ledger = self.node.ledger
        payer_id = await ledger.account_id(payer)
        await ledger.transfer(uuid4(), "issuance", payer, 9, "grant")
        order = HoldOrder(uuid7(), payer_id, None, 9)
        await ledger.hold(order)
        legs = (Leg(seller, "owner", 9),)
        facts = ReceiptFacts(
            request_id=order.id,
            account=payer,
            operation="chat",
            request_digest="0" * 64,
            output_digest="0" * 64,
            model="m",
            model_version="",
            model_cid="",
            provider="p",
            input_tokens=9,
            output_tokens=0,
            cached_input_tokens=0,
            metered_by="node",
            input_price_micro=1_000_000,
            output_price_micro=0,
            held_micro=9,
            captured_micro=9,
            completed=True,
            screened_by=(),
            at=datetime.now(UTC),
        )
        key = self.node.key
        receipt = sign_receipt(facts, legs, NodeSigner(key.node_id, key.public_key_hex, key.sign))
        await ledger.capture(order.id, legs, receipt=receipt)
        return order.id

    async def receipt(self, owner: UUID) -> UUID:
        account_id = await self.node.ledger.account_id(account_of(owner))
        found = await self.node.database.pool.fetchval(
            "SELECT id FROM receipts WHERE account_id = $1 ORDER BY id LIMIT 1", account_id
        )
        assert found, "each owner has asked once"
        return found

    async def state(self, thing: str, thing_id: Any, owner: UUID) -> Any:
        """What a refused request must not have changed."""
        node = self.node
        if thing == "key":
            key = await node.identities.key(thing_id, actor=None)
            return key.revoked_at, key.expires_at, await node.ledger.budgets([thing_id])
        if thing == "session":
            return await node.conversations.history(thing_id, owner)
        if thing == "stranger":
            return await node.identities.principal(thing_id), await node.ledger.balance(account_of(thing_id))
        if thing == "principal":
            return [key.id for key in await node.identities.list_keys(actor=None, owner=thing_id)]
        if thing in ("object", "pinned", "directory"):
            return await node.storage.object(thing_id), await node.storage.catalog.pins(thing_id)
        if thing == "model":
            return sorted(node.path.models.by_name)
        if thing == "offer":
            return await node.market.offers.history(thing_id)
        if thing == "instance":
            return f"matrix/{thing_id}" in node.market.live
        if thing == "answered":
            return await node.market.refunds.refunds(account_of(owner), limit=1000)
        if thing == "refund":
            return await node.market.refunds.refund(thing_id)
        if thing == "preference":
            return await node.training.preferences.of("c", limit=1000)
        if thing == "run":
            return await node.training.book.run(thing_id)
        if thing == "alert":
            return [(one.id, one.acked_by) for one in await node.monitoring.book.recent(1000)]
        if thing == "silence":
            return await node.monitoring.book.silences()
        if thing == "source":
            return [(each.name, each.removing) for each in await node.discovery.book.all()]
        return None


@asynccontextmanager
async def open_world(folder: Path, postgres: str, valkey: str) -> AsyncGenerator[World]:
    settings = Settings(home=folder, port=free_port(), training_at_once=0)
    folder.mkdir(exist_ok=True)
    async with open_node(settings, postgres, valkey) as node:
        serving = asyncio.create_task(serve(node))
        async with aiohttp.ClientSession(f"http://127.0.0.1:{settings.port}") as http:
            ids = [(await node.enrolment.principal(n, r)).id for n, r in PRINCIPALS.items()]  # type: ignore[arg-type]
            world = World(node, http, *ids)
            await until_served(http)
            await enrol(world)
            try:
                yield world
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)


def _take(left: list[bytes], into: memoryview) -> int:
    data = left.pop() if left else b""
    into[: len(data)] = data
    return len(data)


PRINCIPALS = {"user": "user", "admin": "admin", "other": "user"}


async def until_served(http: aiohttp.ClientSession) -> None:
    for _ in range(500):
        try:
            async with http.get("/healthz"):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.02)
    raise AssertionError("the node does not listen")


async def enrol(world: World) -> None:
    """A key for each caller, and one answered question for each owner."""
    node = world.node

    async def key(owner: UUID, scopes: frozenset[str]) -> tuple[UUID, str]:
        issued = await node.enrolment.key(owner, Grant("caller", scopes), actor=None, cap_micro=None)
        return issued.key.id, issued.token

    gone = (await node.enrolment.principal("gone", "user")).id
    expired, world.tokens["expired"] = await key(world.user, USER_SCOPES)
    revoked, world.tokens["revoked"] = await key(world.user, USER_SCOPES)
    _, world.tokens["disabled principal"] = await key(gone, USER_SCOPES)
    past = datetime.now(UTC) - timedelta(seconds=1)
    await node.database.pool.execute("UPDATE api_keys SET expires_at = $2 WHERE id = $1", expired, past)
    await node.identities.revoke(revoked, actor=None)
    await node.identities.disable_principal(gone)
    world.tokens |= {"no key": "", "malformed key": "prsm_nonsense", "foreign key": "prsm_00000000_" + "A" * 43}
    for scope in sorted(USER_SCOPES):
        _, world.tokens[f"{scope} only"] = await key(world.user, frozenset({scope}))
    _, world.tokens["all user scopes"] = await key(world.user, USER_SCOPES)
    _, world.tokens["admin role, user scopes"] = await key(world.admin, USER_SCOPES)
    _, world.tokens["admin scope only"] = await key(world.admin, frozenset({"admin"}))
    _, world.tokens["admin"] = await key(world.admin, SCOPES)
    _, world.tokens["audit only"] = await key(world.user, frozenset({"audit"}))
    _, world.tokens["other"] = await key(world.other, USER_SCOPES)
    for role in ("all user scopes", "admin", "other"):
        status, answer = await world.send("POST", "/v1/chat/completions", role, ASK)
        assert status == 200, answer
    assert set(world.tokens) == {*DEAD, *LIVE, "other"}


def routes_of(node: Node) -> set[str]:
    """Every method and path that the node serves."""
    door = Door(node)
    hot = hot_routes(Answers(node, door))
    assert set(hot) == QUESTION_PATHS, "docs.py describes every route that FastAPI does not serve"
    found = {f"POST {path}" for path in hot} | set(STREAMED_ROUTES)
    api = build_node_api(node, door)
    described = {f"{method.upper()} {path}" for path, methods in api.openapi()["paths"].items() for method in methods}
    assert set(STREAMED_ROUTES) <= described
    for route in iter_route_contexts(api.routes):
        assert route.path, "a mounted application would hide its routes from this test"
        found |= {f"{method} {route.path}" for method in route.methods or () if method != "HEAD"}
    return found


_IDS = ("cid", "key_id", "receipt_id", "session_id", "principal_id", "offer_id", "quote_id", "refund_id", "run_id",
        "preference_id", "incident_id", "alert_id", "silence_id",)  # fmt: skip


async def ask(world: World, name: str, role: str, *, mine: bool) -> str | None:
    """Send one request of the matrix; what is wrong about its answer, if anything is."""
    route = ROUTES[name]
    method, _, path = name.partition(" ")
    owner = world.owner(role) if mine else world.other
    if route.thing == "model":
        await world.send("PUT", "/node/v1/providers/matrix", "admin", PROVIDER)
        await world.send("PUT", "/node/v1/models/matrix/a/b", "admin", MODEL)
    if route.thing == "source":
        await world.send("PUT", "/node/v1/discovery/sources/elsewhere", "admin", SOURCE)
    thing_id = await world.make(route.thing, owner)
    body = route.body
    if name == "POST /node/v1/keys":
        body = body | {"principal_id": str(owner)}
    if name == "POST /node/v1/safety/appeals":
        body = body | {"request_id": str(thing_id)}
    if name == "POST /v1/feedback":
        body = body | {"request_id": str(thing_id)}
    if name == "POST /node/v1/market/offers":
        body = body | {"instance": f"matrix/{thing_id}"}
    if name == "POST /node/v1/market/refunds":
        body = body | {"request_id": str(thing_id)}
    if name.endswith("/grants"):
        body = body | {"id": str(uuid4())}
    fill = {**dict.fromkeys(_IDS, str(thing_id)), **route.fill}
    path = re.sub(r"\{(\w+)(:path)?\}", lambda part: fill[part[1]], path) + route.query
    before = await world.state(route.thing, thing_id, owner)
    status, answer = await world.send(method, path, role, body)
    wanted = expected(route, role, mine=mine)
    what = f"{name} by {role!r} about {'its own' if mine else 'another'}"
    if status != wanted:
        return f"{what}: {status}, expected {wanted}: {str(answer)[:200]}"
    if status >= 400 and wanted != route.ok:
        # Anthropic's shape holds an error too; neither says anything about the thing beyond the id that was sent.
        if set(answer) != {"error"} and set(answer) != {"type", "error", "request_id"}:
            return f"{what}: refused in no known shape: {answer}"
        if await world.state(route.thing, thing_id, owner) != before:
            return f"{what}: refused, and yet it changed something"
    return None


@pytest.mark.timeout(240)
async def test_every_route_for_every_caller(tmp_path: Path, fresh_database: str, valkey_url: str) -> None:
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        assert routes_of(world.node) == set(ROUTES)
        wrong: list[str] = []
        asked = 0
        for name, route in ROUTES.items():
            for role in (*DEAD, *LIVE):
                for mine in (True, False) if route.thing else (True,):
                    problem = await ask(world, name, role, mine=mine)
                    wrong += [problem] if problem else []
                    asked += 1
        assert not wrong, f"{len(wrong)} of {asked}:\n" + "\n".join(wrong)
        assert asked >= len(ROUTES) * len((*DEAD, *LIVE))


async def test_no_nul_in_a_path_or_a_query_makes_the_node_fail(
    tmp_path: Path, fresh_database: str, valkey_url: str
) -> None:
    """No text in PostgreSQL holds one, and a path is decoded: what reaches a statement has to be looked at before."""
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        described = build_node_api(world.node, Door(world.node)).openapi()["paths"]
        routes = {re.sub(":path}", "}", name): route for name, route in ROUTES.items()}
        written = {"scope": "model:matrix"}  # a policy must be there, or a reason to remove it is never written
        assert (await world.send("PUT", "/node/v1/safety/policies/model:matrix", "admin", POLICY))[0] == 200
        failed: list[str] = []
        for method, path, one in ((m, p, one) for p, each in described.items() for m, one in each.items()):
            route = routes[name := f"{method.upper()} {path}"]
            named = [each["name"] for each in one.get("parameters", []) if each["in"] == "path"]
            good = dict.fromkeys(named, NO_RUN) | route.fill | (written if "policies/{scope}" in path else {})
            asked = [path.format(**good | {each: "a%00b"}) + route.query for each in named]
            query = [each["name"] for each in one.get("parameters", []) if each["in"] == "query"]
            asked += [f"{path.format(**good)}?{each}=a%00b&{route.query[1:]}" for each in query]
            for each in asked:
                if (status := (await world.send(method, each, "admin", route.body))[0]) >= 500:
                    failed.append(f"{name} as {each}: {status}")
        assert not failed, "\n".join(failed)


async def test_nobody_sees_what_is_another_s(tmp_path: Path, fresh_database: str, valkey_url: str) -> None:
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        mine, theirs = "all user scopes", "other"
        ids: dict[str, dict[str, set[str]]] = {mine: {}, theirs: {}}
        for role, owner in ((mine, world.user), (theirs, world.other)):
            await world.make("session", owner)
            for what in ("keys", "sessions"):
                _, found = await world.send("GET", f"/node/v1/{what}", role)
                ids[role][what] = {item["id"] for item in found}
            _, found = await world.send("GET", "/node/v1/receipts", role)
            ids[role]["receipts"] = {item["receipt"]["id"] for item in found}
            assert {item["receipt"]["account"] for item in found} == {account_of(owner)}
            _, wallet = await world.send("GET", "/node/v1/wallet", role)
            assert wallet["account"] == account_of(owner)
        for what in ("keys", "sessions", "receipts"):
            assert ids[mine][what]
            assert ids[theirs][what]
            assert not ids[mine][what] & ids[theirs][what]
        _, everyone = await world.send("GET", "/node/v1/keys?limit=1000", "admin")
        assert ids[mine]["keys"] | ids[theirs]["keys"] < {key["id"] for key in everyone}
        _, own = await world.send("GET", "/node/v1/keys", "admin role, user scopes")
        assert {key["principal_id"] for key in own} == {str(world.admin)}


async def test_another_s_conversation_can_neither_be_continued_nor_read(
    tmp_path: Path, fresh_database: str, valkey_url: str
) -> None:
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        status, answer = await world.send(
            "POST", "/v1/responses", "other", {"model": "auto", "input": "What is 1 + 2?", "store": True}
        )
        assert status == 200
        session = UUID(answer["prsm"]["session_id"])
        before = await world.node.conversations.history(session, world.other)
        assert before
        _, wallet = await world.send("GET", "/node/v1/wallet", "all user scopes")
        for role in ("all user scopes", "admin"):
            for path, body in (
                ("/v1/responses", {"model": "auto", "input": "and 3?", "previous_response_id": answer["id"]}),
                ("/v1/responses", {"model": "auto", "input": "and 3?", "conversation": f"conv_{session.hex}"}),
                ("/v1/chat/completions", ASK | {"prsm": {"session_id": str(session)}}),
                ("/v1/messages", ASK | {"max_tokens": 9, "prsm": {"session_id": str(session)}}),
            ):
                status, refused = await world.send("POST", path, role, body)
                assert status == 404, (role, path, refused)
        assert await world.node.conversations.history(session, world.other) == before
        assert (await world.send("GET", "/node/v1/wallet", "all user scopes"))[1] == wallet


async def test_no_key_grants_what_it_lacks(tmp_path: Path, fresh_database: str, valkey_url: str) -> None:
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        _, before = await world.send("GET", "/node/v1/keys?limit=1000", "admin")
        for role, scopes in (
            ("keys only", ["chat"]),
            ("keys only", ["keys", "admin"]),
            ("all user scopes", ["admin"]),
            ("admin role, user scopes", ["admin"]),
        ):
            status, answer = await world.send("POST", "/node/v1/keys", role, {"name": "more", "scopes": scopes})
            assert status == 403, (role, scopes, answer)
        assert (await world.send("GET", "/node/v1/keys?limit=1000", "admin"))[1] == before


async def test_a_capped_key_gets_no_further_by_other_keys(tmp_path: Path, fresh_database: str, valkey_url: str) -> None:
    async with open_world(tmp_path / "home", fresh_database, valkey_url) as world:
        node, grant = world.node, Grant("capped", frozenset({"keys"}))
        capped = await node.enrolment.key(world.user, grant, actor=None, cap_micro=100)
        free = await node.enrolment.key(world.user, grant, actor=None, cap_micro=None)
        world.tokens["capped"] = capped.token
        status, child = await world.send("POST", "/node/v1/keys", "capped", {"name": "child", "scopes": ["keys"]})
        assert (status, child["budget"]["cap_micro"]) == (201, 100)
        status, second = await world.send("POST", "/node/v1/keys", "capped", {"name": "child", "scopes": ["keys"]})
        assert (status, second["budget"]["cap_micro"]) == (201, 0)
        status, refused = await world.send("POST", f"/node/v1/keys/{free.key.id}/rotate", "capped", {})
        assert (status, refused["error"]["code"]) == (403, "cap_not_held")
        assert (await node.identities.key(free.key.id, actor=None)).revoked_at is None
        assert (await world.send("POST", f"/node/v1/keys/{capped.key.id}/rotate", "capped", {}))[0] == 201
