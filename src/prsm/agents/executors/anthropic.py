"""Speaks Anthropic's Messages API: the call goes out translated, answers and named events come back as OpenAI's.

``base_url`` is the host (``https://api.anthropic.com``); a trailing ``/v1`` is accepted too. Anthropic has no
embeddings.
"""

from collections.abc import AsyncIterator

import msgspec

from prsm.agents.call import ChatCall, Completion, Delta, EmbedCall, Embeddings, Target
from prsm.agents.executors.anthropic_wire import (
    WireBlock,
    WireMessage,
    WireUsage,
    completion_of,
    finish_reason,
    request_of,
    tool_call,
    usage_of,
)
from prsm.agents.executors.http_client import HttpClient, header_block
from prsm.agents.executors.model_list import fetch_models
from prsm.agents.executors.sse import SseParser
from prsm.agents.executors.upstream_errors import bad_answer, cut_off, read_error, status_error, stream_error
from prsm.core.errors import InvalidRequest

API_VERSION = "2023-06-01"

_MAX_CACHED_KEYS = 1_024
_FINAL_ERRORS = frozenset({"invalid_request_error", "authentication_error", "permission_error", "not_found_error"})


class AnthropicExecutor:
    """An Executor over a shared client."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._headers: dict[str, bytes] = {}

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer. Raises InvalidRequest where Anthropic cannot be told what the call asks."""
        body = _encode(request_of(target, call, stream=False))
        response = await self._client.post(_url(target.base_url, "messages"), self._header_lines(target.api_key), body)
        if response.status != 200:
            raise status_error(response.status, response.headers, response.body, secret=target.api_key)
        try:
            return completion_of(_MESSAGE.decode(response.body))
        except _UNREADABLE as error:
            raise bad_answer("is not an Anthropic message") from error

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes."""
        # The body has no name here: as long as the stream is open, it would be held.
        stream = await self._client.stream(
            _url(target.base_url, "messages"),
            self._header_lines(target.api_key),
            _encode(request_of(target, call, stream=True)),
        )
        try:
            if stream.status != 200:
                raise status_error(stream.status, stream.headers, await stream.read_all(), secret=target.api_key)
            reader = StreamReader(target.api_key)
            while not reader.done:
                data = await stream.read()
                if not data:
                    raise cut_off()
                deltas = reader.feed(data)
                if reader.done:
                    stream.finish()
                if deltas:
                    yield deltas
        finally:
            stream.close()

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """Refused: there is no such API."""
        raise InvalidRequest(
            f"{target.name} is an Anthropic model, and Anthropic offers no embeddings.",
            param="model",
            remedy="Name an embedding model of another provider.",
        )

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """Anthropic's own names of its models, the first 1,000."""
        url = _url(base_url, "models?limit=1000")
        return await fetch_models(self._client, url, self._header_lines(api_key), api_key, read_error)

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._client.aclose()

    def _header_lines(self, api_key: str) -> bytes:
        block = self._headers.get(api_key)
        if block is None:
            if len(self._headers) >= _MAX_CACHED_KEYS:
                self._headers.clear()
            block = self._headers[api_key] = header_block(
                ("content-type", "application/json"), ("anthropic-version", API_VERSION), ("x-api-key", api_key)
            )
        return block


class StreamReader:
    """The state of one Messages stream: bytes in, deltas out, no I/O. ``done`` after message_stop."""

    __slots__ = ("_secret", "_sse", "_tools", "_usage", "done")

    def __init__(self, secret: str = "") -> None:
        self._sse = SseParser()
        self._secret = secret
        self._usage = WireUsage()
        self._tools: dict[int, int] = {}
        self.done = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that ``data`` completes. Raises UpstreamError."""
        deltas: list[Delta] = []
        for raw in self._sse.feed(data):
            if self.done:
                break
            try:
                event = _EVENT.decode(raw)
            except _UNREADABLE as error:
                raise bad_answer("holds an event that is not Anthropic's") from error
            delta = self._delta(event, raw)
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _delta(self, event: "_Event", raw: bytes) -> Delta | None:
        match event.type:
            case "content_block_delta":
                return self._block_delta(event)
            case "content_block_start" if event.content_block is not None:
                return self._block_start(event.index, event.content_block)
            case "message_start" if event.message is not None:
                self._meter(event.message.usage)
            case "message_delta":
                if event.usage is not None:
                    self._meter(event.usage)
                if event.delta is not None and event.delta.stop_reason:
                    return Delta(finish_reason=finish_reason(event.delta.stop_reason))
            case "message_stop":
                self.done = True
                return Delta(usage=usage_of(self._usage))
            case "error":
                final = event.error is not None and event.error.type in _FINAL_ERRORS
                raise stream_error(raw, secret=self._secret, retryable=not final)
            case _:
                pass  # ping, content_block_stop, and what later versions add
        return None

    def _block_start(self, index: int, block: WireBlock) -> Delta | None:
        if block.type == "tool_use":
            number = self._tools[index] = len(self._tools)
            return Delta(tool_calls=[{"index": number, **tool_call(block.id, block.name, "")}])
        if block.type == "text" and block.text:
            return Delta(content=block.text)
        return None

    def _block_delta(self, event: "_Event") -> Delta | None:
        delta = event.delta
        if delta is None:
            return None
        if delta.type == "text_delta":
            return Delta(content=delta.text) if delta.text else None
        if delta.type == "thinking_delta":
            return Delta(reasoning=delta.thinking) if delta.thinking else None
        if delta.type == "input_json_delta" and delta.partial_json and event.index in self._tools:
            number = self._tools[event.index]
            return Delta(tool_calls=[{"index": number, "function": {"arguments": delta.partial_json}}])
        return None

    def _meter(self, usage: WireUsage) -> None:
        seen = self._usage
        for name in WireUsage.__struct_fields__:
            value = getattr(usage, name)
            if value is not None:
                setattr(seen, name, value)


def _url(base_url: str, path: str) -> str:
    return f"{base_url.removesuffix('/v1')}/v1/{path}"


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None


class _Start(msgspec.Struct):
    usage: WireUsage


class _Fault(msgspec.Struct):
    type: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    delta: _Delta | None = None
    content_block: WireBlock | None = None
    message: _Start | None = None
    usage: WireUsage | None = None
    error: _Fault | None = None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MESSAGE = msgspec.json.Decoder(WireMessage)
_EVENT = msgspec.json.Decoder(_Event)
_encode = msgspec.json.Encoder().encode
