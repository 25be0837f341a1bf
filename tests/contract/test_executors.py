"""One suite for every executor that calls a provider, run against a real local upstream."""

import asyncio
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.upstream import KEY, UpstreamServer

from prsm.agents.call import ChatCall, Delta, EmbedCall, Target, Usage
from prsm.agents.executors.anthropic import AnthropicExecutor
from prsm.agents.executors.http_client import HttpClient, Limits
from prsm.agents.executors.huggingface import HuggingFaceExecutor
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.clock import uuid7
from prsm.core.errors import ConfigError, InvalidRequest, Kind

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
LIMITS = Limits(
    connect_s=2, first_byte_s=0.4, idle_s=0.2, total_s=5, sweep_s=0.05, max_body_bytes=1_000_000, max_head_bytes=16_384
)
KINDS = ("openai", "anthropic", "huggingface")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@dataclasses.dataclass
class Bench:
    server: UpstreamServer
    client: HttpClient
    executor: Executor
    kind: str

    def target(self, model: str = "echo", **more: Any) -> Target:
        base = self.server.origin if self.kind == "anthropic" else f"{self.server.origin}/v1"
        fields: dict[str, Any] = {"kind": self.kind, "base_url": base, "api_key": KEY, **more}
        return Target(name=f"up/{model}", upstream_name=model, provider="up", **fields)


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops a node may run on: they differ in what a dying connection looks like."""
    if request.param == "asyncio":
        return asyncio.DefaultEventLoopPolicy()
    return pytest.importorskip("uvloop").EventLoopPolicy()


@pytest.fixture
async def server() -> AsyncIterator[UpstreamServer]:
    server = await UpstreamServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient(LIMITS)
    yield client
    await client.aclose()


@pytest.fixture(params=KINDS)
async def bench(request: pytest.FixtureRequest, server: UpstreamServer, client: HttpClient) -> Bench:
    executors = {
        "openai": OpenAICompatibleExecutor,
        "anthropic": AnthropicExecutor,
        "huggingface": HuggingFaceExecutor,
    }
    return Bench(server, client, executors[request.param](client), request.param)


def ask(text: str = "how are  you, Zoë? 你好 🙂", **more: Any) -> ChatCall:
    return ChatCall(uuid7(), [{"role": "user", "content": text}], "any", **more)


async def collect(stream: AsyncIterator[list[Delta]]) -> list[Delta]:
    deltas: list[Delta] = []
    async for batch in stream:
        assert batch, "an empty batch"
        deltas.extend(batch)
    return deltas


def joined(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, str, str]], list[str], list[Usage]]:
    """Text, reasoning, tool calls, finish reasons and usages of a stream."""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for call in delta.tool_calls or []:
            known = calls.setdefault(call["index"], ["", "", ""])
            function = call.get("function", {})
            for slot, part in enumerate((call.get("id"), function.get("name"), function.get("arguments"))):
                known[slot] += part or ""
    return (
        "".join(d.content or "" for d in deltas),
        "".join(d.reasoning or "" for d in deltas),
        [(a, b, c) for a, b, c in calls.values()],
        [d.finish_reason for d in deltas if d.finish_reason],
        [d.usage for d in deltas if d.usage],
    )


async def test_chat_answers_and_meters(bench: Bench) -> None:
    completion = await bench.executor.chat(bench.target(), ask(max_output_tokens=77))
    [choice] = completion.choices
    assert choice.content == "how are  you, Zoë? 你好 🙂"
    assert (choice.finish_reason, choice.tool_calls, choice.reasoning) == ("stop", [], None)
    assert completion.usage == Usage(6, 6, 1)
    sent = bench.server.requests[-1]
    assert sent["model"] == "echo"
    assert sent["stream"] is False
    limit = {"openai": "max_completion_tokens", "anthropic": "max_tokens", "huggingface": "max_tokens"}[bench.kind]
    assert {k: v for k, v in sent.items() if "max" in k} == {limit: 77}
    headers = bench.server.headers[-1]
    assert headers.get("authorization" if bench.kind != "anthropic" else "x-api-key", "").endswith(KEY)
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("model", ["echo", "thinker", "drip", "until-eof", "early-hints"])
async def test_a_stream_says_what_the_whole_answer_says(bench: Bench, model: str) -> None:
    whole = await bench.executor.chat(bench.target(model), ask())
    deltas = await collect(bench.executor.chat_stream(bench.target(model), ask(stream=True)))
    text, reasoning, _, finishes, usages = joined(deltas)
    assert text == whole.choices[0].content
    assert reasoning == (whole.choices[0].reasoning or "")
    assert finishes == [whole.choices[0].finish_reason]
    assert usages == [whole.usage]
    assert deltas[-1].usage is not None, "usage comes last"


async def test_events_that_come_together_make_one_batch(bench: Bench) -> None:
    batches = [batch async for batch in bench.executor.chat_stream(bench.target(), ask("a b c d", stream=True))]
    assert len(batches) == 1
    assert sum(len(delta.pieces or (delta,)) for delta in batches[0]) == 6  # four words, the finish, the usage


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_pass_both_ways(bench: Bench, stream: bool) -> None:
    call = ask(stream=stream, options={"tools": [TOOL], "tool_choice": "auto"})
    if stream:
        text, _, calls, finishes, usages = joined(await collect(bench.executor.chat_stream(bench.target(), call)))
        assert (text, finishes, len(usages)) == ("", ["tool_calls"], 1)
    else:
        completion = await bench.executor.chat(bench.target(), call)
        [choice] = completion.choices
        assert (choice.content, choice.finish_reason) == (None, "tool_calls")
        calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in choice.tool_calls]
    [(call_id, name, arguments)] = calls
    assert (call_id, name) == ("call_1", "weather")
    assert json.loads(arguments) == {"city": "Zürich", "days": 2}
    answered = ask("weather?", options={"tools": [TOOL]})
    answered.messages.extend(
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ]
    )
    completion = await bench.executor.chat(bench.target(), answered)
    assert "sunny" in (completion.choices[0].content or "")


FAULTS: dict[str, dict[str, Any]] = {
    "fault-400": {"code": "upstream_rejected", "retryable": False, "kind": Kind.INVALID, "blames_caller": True},
    "fault-401": {"code": "upstream_key_refused", "retryable": False},
    "fault-402": {"code": "upstream_no_credit", "retryable": False},
    "fault-404": {"code": "upstream_unknown_model", "retryable": False},
    "fault-408": {"code": "upstream_timeout", "retryable": True},
    "fault-413": {"code": "upstream_rejected", "retryable": False, "kind": Kind.TOO_LARGE},
    "fault-429": {"code": "upstream_rate_limited", "retryable": True, "retry_after_s": 3.0, "kind": Kind.UNAVAILABLE},
    "fault-500": {"code": "upstream_failed", "retryable": True, "upstream_status": 500, "kind": Kind.UPSTREAM},
    "fault-501": {"code": "upstream_failed", "retryable": False},
    "fault-503": {"code": "upstream_unavailable", "retryable": True, "retry_after_s": 3.0},
    "fault-529": {"code": "upstream_unavailable", "retryable": True},
    "hang": {"code": "upstream_timeout", "retryable": True, "kind": Kind.TIMEOUT},
    "stall": {"code": "upstream_timeout", "retryable": True, "kind": Kind.TIMEOUT},
    "reset": {"code": "upstream_reset", "retryable": True},
    "garbage": {"code": "upstream_bad_answer", "retryable": False},
    "not-json": {"code": "upstream_bad_answer", "retryable": False},
    "huge": {"code": "upstream_too_large", "retryable": False},
    "huge-head": {"code": "upstream_too_large", "retryable": False},
    "cut-mid-stream": {"code": "upstream_cut_off", "retryable": True},
    "end-early": {"code": "upstream_cut_off", "retryable": True},
    "error-mid-stream": {"code": "upstream_failed", "retryable": True},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", FAULTS)
async def test_each_fault_has_its_error(bench: Bench, model: str, stream: bool) -> None:
    target = bench.target(model)
    asked = collect(bench.executor.chat_stream(target, ask())) if stream else bench.executor.chat(target, ask())
    with pytest.raises(UpstreamError) as caught:
        await asked
    seen = {name: getattr(caught.value, name) for name in FAULTS[model]}
    assert seen == FAULTS[model]
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert bench.client.open_connections() <= 1
    completion = await bench.executor.chat(bench.target(), ask("still fine"))
    assert completion.choices[0].content == "still fine"


async def test_a_slow_first_byte_within_the_limit_is_waited_for(bench: Bench) -> None:
    completion = await bench.executor.chat(bench.target("slow-first-byte"), ask("patience"))
    assert completion.choices[0].content == "patience"


async def test_nobody_listening_is_retryable(bench: Bench) -> None:
    await bench.server.stop()
    with pytest.raises(UpstreamError) as caught:
        await bench.executor.chat(bench.target(), ask())
    assert (caught.value.code, caught.value.retryable) == ("upstream_unreachable", True)


async def test_a_connection_closed_while_idle_is_replaced_unseen(bench: Bench) -> None:
    assert (await bench.executor.chat(bench.target("stale-once"), ask("one"))).choices[0].content == "one"
    assert (await bench.executor.chat(bench.target("stale-once"), ask("two"))).choices[0].content == "two"
    assert bench.server.attempts["stale-once"] == 3
    assert bench.server.accepted == 2


@pytest.mark.parametrize(("limit", "accepted"), [(3, 4), (100, 4)])
async def test_one_stale_connection_costs_no_other(server: UpstreamServer, limit: int, accepted: int) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, max_connections_per_origin=limit))
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    await asyncio.gather(*(bench.executor.chat(bench.target("slow-first-byte"), ask(str(n))) for n in range(3)))
    assert server.accepted == 3
    for text in ("one", "two"):
        assert (await bench.executor.chat(bench.target("stale-once"), ask(text))).choices[0].content == text
    assert server.accepted == accepted
    assert client.open_connections() == 3
    await client.aclose()


async def test_bytes_behind_an_answer_are_never_taken_for_the_next(bench: Bench) -> None:
    for text in ("one", "two", "three"):
        completion = await bench.executor.chat(bench.target("excess"), ask(text))
        assert completion.choices[0].content == text
    assert bench.server.accepted == 3


async def test_cancelling_a_chat_closes_the_upstream_connection(bench: Bench) -> None:
    task = asyncio.create_task(bench.executor.chat(bench.target("hang"), ask()))
    await bench.server.until_connections(1)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.server.until_connections(0)
    assert bench.client.open_connections() == 0


async def test_leaving_a_stream_closes_the_upstream_connection(bench: Bench) -> None:
    stream = bench.executor.chat_stream(bench.target("stall"), ask("a long answer of many words", stream=True))
    async for _ in stream:
        break
    assert len(bench.server.connections) == 1
    await stream.aclose()  # type: ignore[attr-defined]
    await bench.server.until_connections(0)
    assert bench.client.open_connections() == 0


async def test_one_connection_carries_all_that_come_one_after_the_other(bench: Bench) -> None:
    for number in range(10):
        await bench.executor.chat(bench.target(), ask(f"whole {number}"))
        await collect(bench.executor.chat_stream(bench.target(), ask(f"streamed {number}", stream=True)))
    assert bench.server.accepted == 1
    assert bench.client.open_connections() == 1


async def test_close_ends_what_is_running(bench: Bench) -> None:
    task = asyncio.create_task(bench.executor.chat(bench.target("hang"), ask()))
    await bench.server.until_connections(1)
    await asyncio.sleep(0.02)
    await bench.executor.aclose()
    await bench.executor.aclose()
    with pytest.raises(UpstreamError, match="ended here"):
        await task
    await bench.server.until_connections(0)


async def test_models_are_listed(bench: Bench) -> None:
    assert isinstance(bench.executor, OpenAICompatibleExecutor | AnthropicExecutor | HuggingFaceExecutor)
    assert await bench.executor.list_models(bench.target().base_url, KEY) == ["echo", "instant"]


async def test_embeddings(bench: Bench) -> None:
    texts = ["one text", "another, longer text"]
    call = EmbedCall(uuid7(), texts, "any")
    if bench.kind == "anthropic":
        with pytest.raises(InvalidRequest):
            await bench.executor.embed(bench.target(), call)
        return
    embeddings = await bench.executor.embed(bench.target(), call)
    assert [len(vector) for vector in embeddings.vectors] == [8, 8]
    assert embeddings.vectors[0][0] == pytest.approx((len(texts[0]) % 7) / 7)
    assert embeddings.vectors[1][0] == pytest.approx((len(texts[1]) % 7) / 7)
    assert embeddings.usage == (Usage(5, 0) if bench.kind == "openai" else Usage(2 + 5, 0))


async def test_a_hugging_face_model_that_loads_names_its_time(server: UpstreamServer, client: HttpClient) -> None:
    bench = Bench(server, client, HuggingFaceExecutor(client), "huggingface")
    with pytest.raises(UpstreamError) as caught:
        await bench.executor.embed(bench.target("loading"), EmbedCall(uuid7(), ["x"], "any"))
    error = caught.value
    assert (error.code, error.retryable, error.retry_after_s) == ("upstream_loading", True, 12.5)
    with pytest.raises(UpstreamError, match="one per token"):
        await bench.executor.embed(bench.target("token-level"), EmbedCall(uuid7(), ["x"], "any"))
    with pytest.raises(InvalidRequest, match="dimensions"):
        await bench.executor.embed(bench.target(), EmbedCall(uuid7(), ["x"], "any", dimensions=4))


# The client itself.


async def test_connections_per_origin_and_waiters_are_bounded(server: UpstreamServer) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, max_connections_per_origin=2, max_waiters_per_origin=3))
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    calls = [bench.executor.chat(bench.target("slow-first-byte"), ask(str(n))) for n in range(6)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, UpstreamError)]
    assert [error.code for error in refused] == ["upstream_busy"]
    assert len(results) - len(refused) == 5
    assert server.accepted == 2
    await client.aclose()


async def test_a_waiter_gets_the_slot_of_a_connection_that_died(server: UpstreamServer) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, max_connections_per_origin=1))
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    calls = [bench.executor.chat(bench.target(model), ask("x")) for model in ("reset", "echo", "garbage", "echo")]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, UpstreamError) for result in results] == [True, False, True, False]
    await client.aclose()


async def test_a_cancelled_waiter_leaves_the_queue(server: UpstreamServer) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, max_connections_per_origin=1, max_waiters_per_origin=1))
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    first = asyncio.create_task(bench.executor.chat(bench.target("slow-first-byte"), ask("first")))
    await server.until_connections(1)
    second = asyncio.create_task(bench.executor.chat(bench.target(), ask("second")))
    await asyncio.sleep(0.02)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    third = await bench.executor.chat(bench.target(), ask("third"))
    assert third.choices[0].content == "third"
    assert (await first).choices[0].content == "first"
    await client.aclose()


async def test_idle_connections_are_closed_after_their_time(server: UpstreamServer) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, keep_alive_s=0.1))
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    await bench.executor.chat(bench.target(), ask())
    assert client.open_connections() == 1
    await server.until_connections(0)
    assert client.open_connections() == 0
    await client.aclose()


async def test_a_reader_that_does_not_read_stops_the_sender(server: UpstreamServer) -> None:
    client = HttpClient(dataclasses.replace(LIMITS, max_body_bytes=2**30, total_s=2, idle_s=5))
    body = b'{"model":"huge","stream":true,"messages":[]}'
    stream = await client.stream(f"{server.origin}/v1/chat/completions", b"", body)
    await stream.read()
    await asyncio.sleep(0.3)
    buffered = len(await stream.read())
    assert 0 < buffered <= LIMITS.high_water_bytes + 256 * 1024 + 70_000
    [peer] = server.connections
    assert peer.transport.get_write_buffer_size() > 1_000_000, "the sender must be left waiting"
    stream.close()
    await server.until_connections(0)
    await client.aclose()


@pytest.mark.parametrize(
    "url",
    ["ftp://x/v1", "http://", "http://u:p@x/", "http://x/a b", "http://x:99999/", "http://x/#f", "http://x/\r\nx"],
)
async def test_a_wrong_base_url_is_named(client: HttpClient, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await client.get(url)
    assert caught.value.param == "base_url"


async def test_a_key_with_a_line_break_is_refused(server: UpstreamServer, client: HttpClient) -> None:
    bench = Bench(server, client, OpenAICompatibleExecutor(client), "openai")
    with pytest.raises(InvalidRequest) as caught:
        await bench.executor.chat(bench.target(api_key="sk-x\r\nhost: evil"), ask())
    assert caught.value.param == "authorization"
    assert "evil" not in str(caught.value)


# TLS, with an authority made for the test.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for 127.0.0.1, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    server.set_alpn_protocols(["h2", "http/1.1"])
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_tls_with_a_trusted_certificate(authority: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = await UpstreamServer().start(tls=authority[0])
    client = HttpClient(LIMITS, tls=authority[1])
    executor = OpenAICompatibleExecutor(client)
    target = Target("x", "echo", "up", "openai", base_url=f"https://127.0.0.1:{server.port}/v1", api_key=KEY)
    for text in ("first", "second"):
        assert (await executor.chat(target, ask(text))).choices[0].content == text
    assert joined(await collect(executor.chat_stream(target, ask("streamed"))))[0] == "streamed"
    assert server.accepted == 1
    [peer] = server.connections
    assert peer.transport.get_extra_info("ssl_object").selected_alpn_protocol() in ("http/1.1", None)
    await client.aclose()
    await server.stop()


async def test_tls_with_an_unknown_certificate_is_refused(authority: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server = await UpstreamServer().start(tls=authority[0])
    client = HttpClient(LIMITS)
    with pytest.raises(UpstreamError) as caught:
        await client.get(f"https://127.0.0.1:{server.port}/v1/models")
    assert (caught.value.code, caught.value.retryable) == ("upstream_untrusted", False)
    assert client.open_connections() == 0
    await client.aclose()
    await server.stop()
