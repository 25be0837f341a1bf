"""Traces of a served node at a real OTLP receiver: whose they are, what is in them, and what never is."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from tests.support.served_node import Served, serve_node

from prsm.core.errors import ConfigError
from prsm.monitoring import tracing

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET_WORD = "xylophone"


@dataclass
class OtlpReceiver:
    """Takes traces as a collector does."""

    port: int = 0
    raw: bytes = b""
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, str] = field(default_factory=dict)
    schemas: set[str] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw += body
        self.headers.append(dict(request.headers))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = {each.key: each.value.string_value for each in group.resource.attributes}
            for scope in group.scope_spans:
                self.schemas.add(scope.schema_url)
                for span in scope.spans:
                    self.spans[span.span_id.hex()] = span
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def until(self, count: int) -> list[Any]:
        """The spans of TRACE, once there are so many."""
        async with asyncio.timeout(60):
            while len(found := [s for s in self.spans.values() if s.trace_id.hex() == TRACE]) < count:
                await asyncio.sleep(0.1)
        return found


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


def attributes(span: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [one.string_value for one in value.values] if kind == "array_value" else value
    return found


async def ask(one: Served, model: str, *, stream: bool = False) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": SECRET_WORD}], "stream": stream, "max_tokens": 50}
    headers = {"authorization": f"Bearer {one.user}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    async with one.http.post("/v1/chat/completions", json=body, headers=headers) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("stream", [False, True])
async def test_a_question_is_a_span_under_the_callers_and_the_upstream_is_told(
    stream: bool, tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with receiving() as receiver:
        given = {"otlp_endpoint": f"http://127.0.0.1:{receiver.port}", "otlp_headers": "x-key=k1"}
        async with serve_node(tmp_path, postgres_url, valkey_url, **given) as one:
            await one.done("PUT", "/node/v1/models/up/echo", {"input_price_micro": 1, "output_price_micro": 1})
            assert await ask(one, "up/echo", stream=stream) == 200
            spans = await receiver.until(2)
            server = next(each for each in spans if each.kind == each.SPAN_KIND_SERVER)
            client = next(each for each in spans if each.kind == each.SPAN_KIND_CLIENT)
            assert server.name == "POST /v1/chat/completions"
            assert server.parent_span_id.hex() == CALLER
            assert client.parent_span_id == server.span_id
            told = next(each["traceparent"] for each in reversed(one.upstream.headers) if "traceparent" in each)
            assert told == f"00-{TRACE}-{client.span_id.hex()}-01"
            seen = attributes(client)
            assert client.name == "chat echo"
            assert seen["gen_ai.operation.name"] == "chat"
            assert (seen["gen_ai.provider.name"], seen["gen_ai.request.model"]) == ("up", "echo")
            assert (seen["gen_ai.request.max_tokens"], seen["gen_ai.usage.output_tokens"]) == (50, 1)
            assert seen["gen_ai.response.finish_reasons"] == ["stop"]
            assert seen["server.address"] == "127.0.0.1"
            assert attributes(server)["http.response.status_code"] == 200
            assert seen["prsm.request.id"] == attributes(server)["prsm.request.id"]
        assert receiver.resource["service.name"] == "prsm"
        assert receiver.schemas == {f"https://opentelemetry.io/schemas/{tracing.SEMCONV}"}
        assert SECRET_WORD.encode() not in receiver.raw
        assert all(each["x-key"] == "k1" for each in receiver.headers)


async def test_a_failure_names_its_code_and_quotes_nothing(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with receiving() as receiver:
        given = {"otlp_endpoint": f"http://127.0.0.1:{receiver.port}", "retry_attempts": 1}
        async with serve_node(tmp_path, postgres_url, valkey_url, **given) as one:
            await one.done("PUT", "/node/v1/models/up/quote-500", {"input_price_micro": 1, "output_price_micro": 1})
            assert await ask(one, "up/quote-500") == 502
            spans = await receiver.until(2)
            failed = [attributes(each).get("error.type") for each in spans]
            assert None not in failed
            assert "502" in failed
        assert SECRET_WORD.encode() not in receiver.raw


async def test_texts_are_in_them_only_where_the_operator_says_so(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with receiving() as receiver:
        given = {"otlp_endpoint": f"http://127.0.0.1:{receiver.port}", "otlp_content": True}
        async with serve_node(tmp_path, postgres_url, valkey_url, **given) as one:
            await one.done("PUT", "/node/v1/models/up/echo", {"input_price_micro": 1, "output_price_micro": 1})
            assert await ask(one, "up/echo") == 200
            client = next(each for each in await receiver.until(2) if each.kind == each.SPAN_KIND_CLIENT)
            seen = attributes(client)
            assert json.loads(seen["gen_ai.input.messages"])[0]["content"] == SECRET_WORD
            assert SECRET_WORD in json.loads(seen["gen_ai.output.messages"])[0]["content"]


async def test_storage_is_traced_and_what_machines_ask_all_the_time_is_not(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with receiving() as receiver:
        given = {"otlp_endpoint": f"http://127.0.0.1:{receiver.port}"}
        async with serve_node(tmp_path, postgres_url, valkey_url, **given) as one:
            headers = {"authorization": f"Bearer {one.user}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
            async with one.http.post("/node/v1/storage/content", data=b"hello", headers=headers) as response:
                cid = (await response.json())["cid"]
            for path in (f"/node/v1/storage/content/{cid}", "/healthz", "/metrics", "/node/v1/wallet"):
                async with one.http.get(path, headers=headers) as response:
                    assert response.status == 200
            names = {each.name for each in await receiver.until(3)}
            assert names == {
                "POST /node/v1/storage/content", "GET /node/v1/storage/content/{id}", "GET /node/v1/wallet"
            }  # fmt: skip


async def test_a_receiver_that_is_away_fails_no_request(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path, postgres_url, valkey_url, otlp_endpoint="http://127.0.0.1:9") as one:
        await one.done("PUT", "/node/v1/models/up/echo", {"input_price_micro": 1, "output_price_micro": 1})
        assert await ask(one, "up/echo") == 200


def test_every_name_is_one_of_the_conventions_of_the_pinned_version() -> None:
    modules = (gen_ai_attributes, error_attributes, http_attributes, server_attributes)
    known = {value for module in modules for name, value in vars(module).items() if name.isupper()}
    ours = {value for name, value in vars(tracing).items() if name.isupper() and isinstance(value, str)}
    named = {each for each in ours if re.match(r"[a-z_]+\.", each) and not each.startswith("prsm.")}
    assert len(named) >= 15
    assert named <= known
    assert f"V{tracing.SEMCONV.replace('.', '_')}" in {each.name for each in Schemas}


def test_without_an_endpoint_there_is_nothing() -> None:
    assert tracing.open_tracing("", "", "n", share_bps=10_000, content=False) is None


def test_without_the_extra_the_start_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"prsm\[tracing\]"):
        tracing.open_tracing("http://127.0.0.1:9", "", "n", share_bps=10_000, content=False)
