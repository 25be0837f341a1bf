"""Three providers of one model, of which one and then two die in the middle of many streams, seen by the openai SDK.

Nothing that had not started is lost; what had started is gone on with where the instances can, and ends with a clear
partial result where not. Every charge has its receipt, every hold an end, and the ledger adds up.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Thread
from typing import Any

import anthropic
import openai
import pytest
from openai import AsyncOpenAI
from tests.support.started_node import StartedNode, free_port, started_node
from tests.support.upstream import UpstreamServer

from prsm.receipt_verifier import verify as verify_receipt

WORDS = 40
TEXT = " ".join(f"word{number}" for number in range(WORDS))
STREAMS_AT_ONCE = 12


class Providers:
    """Upstreams of their own threads that can die and be started again where they were."""

    def __init__(self, count: int) -> None:
        self.ports = [free_port() for _ in range(count)]
        self._loop = asyncio.new_event_loop()
        self._servers: dict[int, UpstreamServer] = {}

    def __enter__(self) -> "Providers":
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        for number in range(len(self.ports)):
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._servers):
            self.kill(number)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def start(self, number: int) -> None:
        starting = UpstreamServer().start(self.ports[number])
        self._servers[number] = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)

    def kill(self, number: int) -> None:
        """Every connection is reset, and new ones are refused."""
        asyncio.run_coroutine_threadsafe(self._servers.pop(number).stop(), self._loop).result(10)


@dataclass
class Told:
    """What a client saw of one stream."""

    began: bool = False
    text: str = ""
    receipt_id: str = ""
    ended: dict[str, Any] | None = None
    broke: dict[str, Any] | None = None
    failed: Exception | None = None


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    with Providers(3) as started:
        yield started


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, providers: Providers) -> Iterator[StartedNode]:
    with ExitStack() as stack:
        node = stack.enter_context(started_node(tmp_path_factory.mktemp("node"), BREAKER_OPEN_S=1))
        for number, port in enumerate(providers.ports):
            node.add_provider(f"p{number}", f"http://127.0.0.1:{port}/v1")
            for name, able in (("typing", ["chat", "prefill"]), ("typing-plain", ["chat"])):
                node.call("PUT", f"/node/v1/models/p{number}/{name}", {
                    "capabilities": able, "input_price_micro": 1_000_000, "output_price_micro": 2_000_000,
                })  # fmt: skip
        yield node


@pytest.fixture
def payer(node: StartedNode) -> str:
    return node.new_client()[1]


def ask_for(text: str = TEXT) -> Any:
    return [{"role": "user", "content": text}]


async def follow(client: AsyncOpenAI, model: str) -> Told:
    """One stream from its beginning to its end."""
    told = Told()
    try:
        stream = await client.chat.completions.create(model=model, messages=ask_for(), max_tokens=100, stream=True)
        told.receipt_id = stream.response.headers["x-request-id"]
        async for chunk in stream:
            told.began = True
            told.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            told.ended = getattr(chunk, "prsm", None) or told.ended
    except openai.APIStatusError as error:
        told.failed = error
    except openai.APIError as error:
        told.broke = error.body["prsm"] if isinstance(error.body, dict) else {}
    return told


async def many(node: StartedNode, key: str, model: str, providers: Providers) -> list[Told]:
    """Streams while first one and then another provider dies, and new ones that begin all the while."""
    client = AsyncOpenAI(base_url=node.base_url, api_key=key, max_retries=0, timeout=60)
    streams = [asyncio.create_task(follow(client, model)) for _ in range(STREAMS_AT_ONCE)]
    for step in range(16):
        await asyncio.sleep(0.08)
        if step in (4, 9):
            await asyncio.to_thread(providers.kill, 0 if step == 4 else 1)
        streams.append(asyncio.create_task(follow(client, model)))
    told = await asyncio.gather(*streams)
    await client.close()
    return told


def until_settled(node: StartedNode, key: str) -> None:
    deadline = time.monotonic() + 15
    while node.wallet(key)["held_micro"]:
        assert time.monotonic() < deadline, "a hold was left open"
        time.sleep(0.05)


def assert_fair(node: StartedNode, key: str, before: dict[str, Any], told: list[Told]) -> list[dict[str, Any]]:
    """Each charge by its receipt, for what was told and nothing else; the wallet and the ledger add up."""
    until_settled(node, key)
    receipts = []
    for one in told:
        signed = node.call("GET", f"/node/v1/receipts/{one.receipt_id}", key=key)
        receipt = signed["receipt"]
        raw = json.dumps(signed).encode()
        assert verify_receipt(raw, answer=one.text.encode())[0] == []
        assert receipt["completed"] is (one.ended is not None)
        cost = (one.ended or one.broke or {})["cost_micro"]
        assert receipt["amounts"]["captured_micro"] == cost
        receipts.append(receipt)
    spent = before["balance_micro"] - node.wallet(key)["balance_micro"]
    assert spent == sum(receipt["amounts"]["captured_micro"] for receipt in receipts)
    proof = node.call("GET", "/node/v1/ledger/verify")
    assert (proof["ok"], proof["violations"], proof["open_holds"]) == (True, [], 0)
    return receipts


@pytest.fixture
def restarted(providers: Providers) -> Iterator[None]:
    yield
    for number in (0, 1):
        providers.start(number)


@pytest.mark.usefixtures("restarted")
def test_where_instances_can_go_on_no_client_notices_that_one_and_then_two_of_three_die(
    node: StartedNode, providers: Providers, payer: str
) -> None:
    before = node.wallet(payer)
    told = asyncio.run(many(node, payer, "typing", providers))
    assert [one.failed for one in told if one.failed] == []
    assert [one.text for one in told] == [TEXT] * len(told)
    receipts = assert_fair(node, payer, before, told)
    resumed = [receipt for receipt in receipts if receipt["segments"]]
    assert resumed
    for receipt in resumed:
        # The input once, whoever read it how often; and the tokens of the answer, once.
        assert receipt["usage"]["input_tokens"] <= WORDS
        assert receipt["amounts"]["captured_micro"] <= WORDS + 2 * -(-len(TEXT) // 4) + WORDS
    unbroken = [receipt for receipt in receipts if not receipt["segments"]]
    assert {receipt["amounts"]["captured_micro"] for receipt in unbroken} == {WORDS + 2 * WORDS}


@pytest.mark.usefixtures("restarted")
def test_where_they_cannot_what_had_started_ends_with_a_clear_partial_result_and_nothing_else_is_lost(
    node: StartedNode, providers: Providers, payer: str
) -> None:
    before = node.wallet(payer)
    told = asyncio.run(many(node, payer, "typing-plain", providers))
    assert [one.failed for one in told if one.failed] == []
    broken = [one for one in told if one.broke is not None]
    assert broken
    assert all(one.began for one in told)
    assert {one.text for one in told if one.broke is None} == {TEXT}
    for one in broken:
        assert one.broke is not None
        assert TEXT.startswith(one.text)
        assert 0 < len(one.text) < len(TEXT)
        tokens = one.broke["delivered_output_tokens"]
        assert tokens == -(-len(one.text) // 4)
        assert one.broke["cost_micro"] == 2 * tokens
        assert (one.broke["completed"], one.broke["request_id"]) == (False, one.receipt_id)
    receipts = assert_fair(node, payer, before, told)
    assert all(r["usage"]["input_tokens"] == 0 for r in receipts if not r["completed"])


# -- a partial result as each SDK shows it -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half(node: StartedNode) -> str:
    node.add_model("p2/end-early", price_in=1_000_000, price_out=2_000_000)
    return "p2/end-early"


def assert_partial(told: dict[str, Any], text: str) -> None:
    tokens = -(-len(text) // 4)
    assert text
    assert told["completed"] is False
    assert told["delivered_output_tokens"] == tokens
    assert told["cost_micro"] == 2 * tokens
    assert told["receipt_id"] == told["request_id"]


def test_openai_chat(node: StartedNode, half: str, payer: str) -> None:
    text: list[str] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model=half, messages=ask_for(), stream=True):
            text.append(chunk.choices[0].delta.content or "")

    client = openai.OpenAI(base_url=node.base_url, api_key=payer, max_retries=0)
    with pytest.raises(
        openai.APIError, match=r"ended its stream before.*tokens of the answer had come and cost"
    ) as got:
        read()
    assert isinstance(got.value.body, dict)
    assert got.value.code == "upstream_cut_off"
    assert_partial(got.value.body["prsm"], "".join(text))


def test_openai_responses(node: StartedNode, half: str, payer: str) -> None:
    client = openai.OpenAI(base_url=node.base_url, api_key=payer, max_retries=0)
    *_, last = client.responses.create(model=half, input=TEXT, stream=True, store=False)
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert "tokens of the answer had come" in last.response.error.message
    assert_partial(last.response.model_extra["prsm"], last.response.output_text)


def test_anthropic_messages(node: StartedNode, half: str, payer: str) -> None:
    text: list[str] = []

    def read() -> None:
        with client.messages.stream(model=half, max_tokens=90, messages=ask_for()) as stream:
            text.extend(stream.text_stream)

    client = anthropic.Anthropic(base_url=node.url, auth_token=payer, api_key=None, max_retries=0)
    with pytest.raises(anthropic.APIStatusError, match="ended its stream before") as got:
        read()
    assert isinstance(got.value.body, dict)
    assert got.value.body["request_id"] == got.value.body["prsm"]["request_id"]
    assert_partial(got.value.body["prsm"], "".join(text))


def test_half_a_tool_call_is_told_and_free(node: StartedNode, half: str, payer: str) -> None:
    before = node.wallet(payer)["balance_micro"]
    client = openai.OpenAI(base_url=node.base_url, api_key=payer, max_retries=0)
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    stream = client.chat.completions.create(model=half, messages=ask_for(), tools=[tool], stream=True)
    with pytest.raises(openai.APIError) as got:
        list(stream)
    assert isinstance(got.value.body, dict)
    assert (got.value.body["prsm"]["completed"], got.value.body["prsm"]["cost_micro"]) == (False, 0)
    until_settled(node, payer)
    assert node.wallet(payer)["balance_micro"] == before
