"""Kill -9 of the node, of PostgreSQL and of Valkey at random points under load, and a race on a key's last budget.

Clients ask under an Idempotency-Key of their own and repeat until they have the answer. After each round what they
were told is compared with the ledger: each acknowledged charge stands there once, and nothing else was charged.
``PRSM_TEST_KILL_ROUNDS`` sets the rounds, ``PRSM_TEST_KILL_SEED`` repeats the choices of a run.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import psutil
import pytest
from tests.support.started_node import StartedNode, started_node
from tests.support.upstream import UpstreamServer

ROUNDS = int(os.environ.get("PRSM_TEST_KILL_ROUNDS", "3"))
SEED = int(os.environ.get("PRSM_TEST_KILL_SEED", str(random.SystemRandom().randrange(2**32))))
CLIENTS = 12
HOLD_TTL_S = 66
_ANSWERED_WITHIN_S = 150
_UNSURE = (aiohttp.ClientError, TimeoutError, ConnectionError)


@dataclass
class Acknowledged:
    """What the clients were told: costs by receipt, and each session's questions in order."""

    costs: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, list[str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)


class Client:
    """One caller with a conversation of its own, asking in all ways until told to stop."""

    def __init__(self, node: StartedNode, token: str, name: str, told: Acknowledged, rng: random.Random) -> None:
        self._url = node.base_url
        self._headers = {"authorization": f"Bearer {token}"}
        self._name = name
        self._told = told
        self._rng = rng
        self._session = str(UUID(int=rng.getrandbits(128), version=4))
        self._asked = 0

    async def run(self, http: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._asked += 1
            await self._ask(http, f"{self._name} question {self._asked}")

    async def _ask(self, http: aiohttp.ClientSession, question: str) -> None:
        way = self._rng.choice(["whole", "stream", "session", "streamed session", "embed"])
        path, body = "/chat/completions", self._body(way, question)
        if way == "embed":
            path, body = "/embeddings", {"model": "up/embed", "input": [question]}
        headers = self._headers | {"idempotency-key": question.replace(" ", "-")}
        deadline = time.monotonic() + _ANSWERED_WITHIN_S
        while (bill := await self._once(http, path, body, headers, question)) is None:
            assert time.monotonic() < deadline, f"{question!r} has no answer: {self._told.refusals}"
            await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        assert bill["receipt_id"] not in self._told.costs, "two questions with one receipt"
        self._told.costs[bill["receipt_id"]] = bill["cost_micro"]
        if "session" in way:
            assert bill["session_id"] == self._session
            self._told.sessions.setdefault(self._session, []).append(question)

    def _body(self, way: str, question: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._rng.choice(["up/echo", "up/slow-first-byte", "up/drip"]),
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 20,
        }
        if "stream" in way:
            body["stream"] = True
        if "session" in way:
            body["prsm"] = {"session_id": self._session}
        return body

    async def _once(
        self, http: aiohttp.ClientSession, path: str, body: Any, headers: dict[str, str], question: str
    ) -> dict[str, Any] | None:
        """The bill of the whole right answer, or None when it is to be asked for again."""
        try:
            async with http.post(self._url + path, json=body, headers=headers) as response:
                data = await response.read()
        except _UNSURE as error:
            self._told.refusals[type(error).__name__] += 1
            return None
        if response.status != 200:
            error = json.loads(data)["error"]
            self._told.refusals[f"{response.status} {error['code']}"] += 1
            # Whatever dies, a caller is told to come back, never that it has erred or that the node has a fault.
            assert response.status in (409, 502, 503, 504), (response.status, error)
            return None
        if body.get("stream"):
            return self._streamed(data.decode(), question)
        answer = json.loads(data)
        if path == "/chat/completions":
            assert answer["choices"][0]["message"]["content"] == question
        return answer["prsm"]

    def _streamed(self, data: str, question: str) -> dict[str, Any] | None:
        events = [line.removeprefix("data: ") for line in data.splitlines() if line]
        if not events or events[-1] != "[DONE]":
            self._told.refusals["cut"] += 1
            return None
        said, bill = "", None
        for event in map(json.loads, events[:-1]):
            if "error" in event:
                self._told.refusals[f"event {event['error']['code']}"] += 1
                return None
            said += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            bill = event.get("prsm") or bill
        assert said == question
        assert bill is not None
        return bill


@contextmanager
def loaded_node(folder: Path, upstream: UpstreamServer, **settings: int) -> Iterator[StartedNode]:
    limits = {"RATE_LIMIT_PER_MINUTE": 1_000_000, "RATE_LIMIT_BURST": 100_000}
    times = {"REQUEST_TIMEOUT_S": 5, "HOLD_TTL_S": HOLD_TTL_S}
    with started_node(folder, **limits, **times, **settings) as node:
        node.add_provider("up", f"{upstream.origin}/v1")
        for name in ("echo", "slow-first-byte", "drip"):
            node.add_model(f"up/{name}")
        node.add_model("up/embed", capabilities=["embeddings"], price_out=0)
        node.add_model("up/exact", price_in=0, price_out=2_000_000)
        node.until_known("up/exact")
        yield node


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamServer) -> Iterator[StartedNode]:
    with loaded_node(tmp_path_factory.mktemp("kill9"), upstream) as node:
        yield node


@pytest.mark.timeout(60 + 300 * max(1, ROUNDS))
async def test_kill_9_loses_nothing_and_charges_nothing_twice(own_node: StartedNode) -> None:
    await rounds(own_node, ROUNDS, "node", "postgres", "valkey")


@pytest.mark.timeout(60 + 300 * max(1, ROUNDS))
async def test_kill_9_of_workers_and_of_their_parent_loses_nothing(tmp_path: Path, upstream: UpstreamServer) -> None:
    with loaded_node(tmp_path, upstream, WORKERS=2) as node:
        await rounds(node, max(2, ROUNDS // 2), "worker", "node", "postgres")


async def rounds(node: StartedNode, number_of_rounds: int, *parts: str) -> None:
    """Kill some of the parts, each in a round of its own, under load; what was told must stand after each."""
    print(f"PRSM_TEST_KILL_SEED={SEED} PRSM_TEST_KILL_ROUNDS={ROUNDS}")
    rng = random.Random(SEED)
    _, token = node.new_client("crowd")
    begun = node.wallet(token)["balance_micro"]
    told = Acknowledged()
    # Each part at least once, then by chance.
    victims = sorted(rng.sample(parts, len(parts)), key=lambda part: part != "worker")
    victims += [rng.choice([*parts, "node and postgres"]) for _ in range(number_of_rounds)]
    for number, victim in enumerate(victims[:number_of_rounds], 1):
        asked = time.monotonic()
        clients = [Client(node, token, f"r{number}c{n}", told, random.Random(rng.random())) for n in range(CLIENTS)]
        stop = asyncio.Event()
        timeout = aiohttp.ClientTimeout(total=40)
        http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        async with http, asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(http, stop))
            await asyncio.sleep(rng.uniform(0.5, 2.5))
            await asyncio.to_thread(kill, node, victim)
            await asyncio.to_thread(node.until_ready)
            await asyncio.sleep(1)
            stop.set()
        print(f"round {number}: {victim}, {len(told.costs)} answers so far, {time.monotonic() - asked:.1f} s")
        compare(node, token, told, begun)
    print(f"told to come back: {dict(told.refusals)}")
    await asyncio.to_thread(until_no_hold_is_open, node)
    assert node.wallet(token)["held_micro"] == 0
    done = node.cli("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.stop() == 0
    done = node.cli("ledger", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    node.start()


def kill(node: StartedNode, victim: str) -> None:
    if "postgres" in victim or "valkey" in victim:
        pid = node.server_pid(victim.rpartition(" ")[2])
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    if victim == "worker":
        os.kill(random.choice(worker_pids(node)), signal.SIGKILL)
    if "node" in victim:
        node.kill()
        node.start()


def worker_pids(node: StartedNode) -> list[int]:
    pids = [child.pid for child in psutil.Process(node.pid).children() if "prsm.cli.workers" in child.cmdline()]
    assert pids
    return pids


def compare(node: StartedNode, token: str, told: Acknowledged, begun_micro: int) -> None:
    """The ledger against what was acknowledged."""
    receipts = all_receipts(node, token)
    charged = {receipt["id"]: receipt["amounts"]["captured_micro"] for receipt in receipts}
    lost, unasked = told.costs.keys() - charged.keys(), charged.keys() - told.costs.keys()
    assert not lost, f"acknowledged and not in the ledger: {lost}"
    assert not unasked, f"charged and never acknowledged, though each request was repeated until it was: {unasked}"
    assert charged == told.costs
    assert begun_micro - node.wallet(token)["balance_micro"] == sum(charged.values())
    for session, questions in told.sessions.items():
        messages = node.call("GET", f"/node/v1/sessions/{session}", key=token)["messages"]
        assert [m["content"] for m in messages if m["role"] == "user"] == questions
        assert [m["content"] for m in messages if m["role"] == "assistant"] == questions


def all_receipts(node: StartedNode, token: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        before = f"&before={found[-1]['id']}" if found else ""
        page = node.call("GET", f"/node/v1/receipts?limit=1000{before}", key=token)
        found += [signed["receipt"] for signed in page]
        if len(page) < 1000:
            return found


def until_no_hold_is_open(node: StartedNode) -> None:
    deadline = time.monotonic() + HOLD_TTL_S + 20
    while (proof := node.call("GET", "/node/v1/ledger/verify"))["open_holds"]:
        assert time.monotonic() < deadline, proof
        time.sleep(1)
    assert proof["ok"], proof["violations"]


async def test_500_callers_on_a_keys_last_budget_never_overspend_it(own_node: StartedNode) -> None:
    """Each request holds exactly what it costs, so that exactly as many pass as the cap pays for."""
    cost, payable, callers = 6, 70, 500
    key_id, token = own_node.new_key("raced", cap_micro=cost * payable + cost - 1)
    body = {"model": "up/exact", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 3}
    headers = {"authorization": f"Bearer {token}"}

    async def ask(http: aiohttp.ClientSession) -> tuple[int, str]:
        async with http.post(f"{own_node.base_url}/chat/completions", json=body, headers=headers) as response:
            answer = await response.json()
            return response.status, answer.get("error", {}).get("code", "")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        outcomes = Counter(await asyncio.gather(*(ask(http) for _ in range(callers))))
    assert outcomes == {(200, ""): payable, (402, "key_cap_exceeded"): callers - payable}
    budget = own_node.wallet(token)["key"]
    assert (budget["spent_micro"], budget["held_micro"]) == (cost * payable, 0)
    [key] = [k for k in own_node.call("GET", "/node/v1/keys") if k["id"] == key_id]
    assert key["budget"]["spent_micro"] <= key["budget"]["cap_micro"]
    assert own_node.cli("ledger", "verify").returncode == 0
