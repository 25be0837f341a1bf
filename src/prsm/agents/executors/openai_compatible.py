"""Speaks to everything that speaks OpenAI chat: OpenAI, Ollama, vLLM, OpenRouter, LM Studio, another PRSM node.

``base_url`` includes the version (``https://api.openai.com/v1``). Answers are read by typed decoders made once; a
stream yields one list of deltas per network read, and its usage last, once, whatever the upstream's habit.
"""

import re
import struct
from collections.abc import AsyncIterator, Callable
from itertools import islice, takewhile
from typing import Annotated, Any

import msgspec

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Json, Target, Usage
from prsm.agents.executors.http_client import Headers, HttpClient, header_block
from prsm.agents.executors.model_list import fetch_models
from prsm.agents.executors.openai_tool_calls import Numbering, whole_calls
from prsm.agents.executors.sse import SseParser
from prsm.agents.executors.upstream_errors import bad_answer, cut_off, stream_error
from prsm.agents.executors.upstream_errors import read_error as default_read_error
from prsm.agents.seams import UpstreamError

ErrorReader = Callable[[int, Headers, bytes, str], UpstreamError]

_MAX_CACHED_KEYS = 1_024
_LEAST_RUN = 3
"""Events that have to follow a plain one for a run to be looked for: with fewer, that costs more than it saves."""
_CLOSING = re.compile(rb'["\\]')
_PROBE = b"prsm"


class OpenAICompatibleExecutor:
    """An Executor over a shared client. ``read_error`` lets a provider have its own notions."""

    def __init__(
        self,
        client: HttpClient,
        *,
        read_error: ErrorReader | None = None,
    ) -> None:
        self._client = client
        self._read_error = read_error or default_read_error
        self._headers: dict[str, bytes] = {}

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer."""
        body = _encode(self._chat_body(target, call, stream=False))
        url = f"{target.base_url}/chat/completions"
        response = await self._client.post(url, self.headers(target.api_key), body)
        if response.status != 200:
            raise self._read_error(response.status, response.headers, response.body, target.api_key)
        return completion_of(response.body, target.api_key, choices=_choices(call))

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes."""
        # The body has no name here: as long as the stream is open, it would be held.
        stream = await self._client.stream(
            f"{target.base_url}/chat/completions",
            self.headers(target.api_key),
            _encode(self._chat_body(target, call, stream=True)),
        )
        try:
            if stream.status != 200:
                raise self._read_error(stream.status, stream.headers, await stream.read_all(), target.api_key)
            reader = StreamReader(target.api_key, choices=_choices(call))
            while not reader.done:
                data = await stream.read()
                deltas = reader.feed(data) if data else reader.close()
                if reader.done:
                    stream.finish()
                if deltas:
                    yield deltas
        finally:
            stream.close()

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text."""
        body: Json = {"model": target.upstream_name, "input": call.texts, "encoding_format": "float"}
        if call.dimensions is not None:
            body["dimensions"] = call.dimensions
        url = f"{target.base_url}/embeddings"
        response = await self._client.post(url, self.headers(target.api_key), _encode(body))
        if response.status != 200:
            raise self._read_error(response.status, response.headers, response.body, target.api_key)
        return embeddings_of(response.body, call.texts, target.api_key)

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """The upstream's own names of its models, as far as it lists them."""
        headers = self.headers(api_key)
        return await fetch_models(self._client, f"{base_url}/models", headers, api_key, self._read_error)

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._client.aclose()

    def headers(self, api_key: str) -> bytes:
        """The header lines of a JSON call with ``api_key``."""
        block = self._headers.get(api_key)
        if block is None:
            pairs = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
            if api_key:
                pairs.append(("authorization", f"Bearer {api_key}"))
            if len(self._headers) >= _MAX_CACHED_KEYS:
                self._headers.clear()
            block = self._headers[api_key] = header_block(*pairs)
        return block

    def _chat_body(self, target: Target, call: ChatCall, *, stream: bool) -> Json:
        body: Json = {**call.options, "model": target.upstream_name, "messages": call.messages, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if call.max_output_tokens is not None:
            # OpenAI's reasoning models know the new name only; most others know the old one only.
            body["max_completion_tokens" if target.kind == "openai" else "max_tokens"] = call.max_output_tokens
        return body


class StreamReader:
    """The state of one chat stream: bytes in, deltas out, no I/O. ``done`` once nothing more is to come.

    What comes beyond the ``choices`` that were asked for is left out.
    """

    __slots__ = ("_calls", "_choices", "_finished", "_open", "_secret", "_sse", "_usage", "done")

    def __init__(self, secret: str = "", *, choices: int = 1) -> None:
        self._choices = choices
        self._sse = SseParser()
        self._secret = secret
        self._usage: Usage | None = None
        self._open = 0  # a bit for each choice that has begun and not ended: of small cost to a stream that rests
        self._finished = False
        self._calls: dict[int, Numbering] | None = None
        self.done = False

    def feed(self, data: bytes) -> list[Delta]:
        """The deltas that ``data`` completes. Raises UpstreamError."""
        return self._deltas(self._sse.feed(data))

    def close(self) -> list[Delta]:
        """The stream's end: its last deltas, or UpstreamError ``upstream_cut_off`` where the answer has no end."""
        deltas = self._deltas(self._sse.close())
        if not self.done:
            if not self._finished or self._open:
                raise cut_off()
            self._end(deltas)
        return deltas

    def _deltas(self, events: list[bytes]) -> list[Delta]:
        deltas: list[Delta] = []
        told = 0
        for place, event in enumerate(events, 1):
            if place <= told:
                continue
            if event == b"[DONE]":
                self._end(deltas)
                break
            if not event or event.isspace():
                continue
            try:
                chunk = _CHUNK.decode(event)
            except _UNREADABLE as error:
                raise bad_answer("holds an event that is not an OpenAI chunk") from error
            if chunk.error is not None:
                raise stream_error(event, secret=self._secret)
            if chunk.usage is not None:
                self._usage = usage_of(chunk.usage) or self._usage
            for choice in chunk.choices:
                index, part = choice.index, choice.delta
                if index >= self._choices:
                    continue
                if choice.finish_reason:
                    self._finished = True
                    self._open &= ~(1 << index)
                else:
                    self._open |= 1 << index
                reasoning = part.reasoning_content or part.reasoning
                rare = reasoning or part.tool_calls or part.refusal or choice.logprobs
                if part.content or choice.finish_reason or rare:
                    deltas.append(
                        Delta(
                            index,
                            part.content or None,
                            reasoning or None,
                            self._numbered(index, part.tool_calls) if part.tool_calls else None,
                            choice.finish_reason or None,
                            part.refusal,
                            choice.logprobs,
                        )
                    )
                    if len(events) - place >= _LEAST_RUN and not (index or choice.finish_reason or rare):
                        told = place + _take_run(deltas, events, place)
        return deltas

    def _numbered(self, choice: int, pieces: list[Json]) -> list[Json]:
        self._calls = self._calls or {}
        return self._calls.setdefault(choice, Numbering()).numbered(pieces)

    def _end(self, deltas: list[Delta]) -> None:
        self.done = True
        if self._usage is not None:
            deltas.append(Delta(usage=self._usage))


def _take_run(deltas: list[Delta], events: list[bytes], place: int) -> int:
    """Read the events from ``place`` on that differ from the one before in their text only; answers how many.

    Models that are faster than the network say much in one read, and all but the text of it is the same: there
    is nothing to decode in that. The last of ``deltas`` is that of the event before.
    """
    mold = _mold(events[place - 1], deltas[-1].content or "")
    if mold is None:
        return 0
    head, tail = mold
    begin, end = len(head), -len(tail)
    texts: list[bytes] = []
    for event in islice(events, place, None):
        if event[:begin] != head or event[end:] != tail or len(event) < begin - end:
            break
        texts.append(event[begin:end])
    # What has no quote and no escape is one text, whatever else it is.
    if _CLOSING.search(b"".join(texts)):
        texts = list(takewhile(lambda text: not _CLOSING.search(text), texts))
    try:
        pieces = _TEXTS.decode(b'["' + b'","'.join(texts) + b'"]') if texts else []
    except _UNREADABLE as error:
        raise bad_answer("holds an event that is not an OpenAI chunk") from error
    if said := list(filter(None, pieces)):
        deltas.append(Delta(content="".join(said), pieces=said))
    return len(texts)


def _mold(event: bytes, text: str) -> tuple[bytes, bytes] | None:
    """What stands before and after the text of a plain event; None where it cannot be told for certain."""
    for key in (b'"content":', b'"content": '):
        head, found, tail = event.partition(key + _encode(text))
        if found:
            mold = head + key + b'"', b'"' + tail
            # What was found could be another field of that name: it is the text if a change to it changes the text.
            chunk = _CHUNK.decode(_PROBE.join(mold))
            return mold if [choice.delta.content for choice in chunk.choices] == [_PROBE.decode()] else None
    return None


def completion_of(body: bytes, secret: str = "", *, choices: int = 1) -> Completion:
    """A Completion of the ``choices`` asked for from the bytes of a chat answer. Raises UpstreamError."""
    try:
        answer = _ANSWER.decode(body)
    except _UNREADABLE as error:
        raise bad_answer("is not in the OpenAI format") from error
    if answer.error is not None:
        raise stream_error(body, secret=secret)
    asked = sorted((choice for choice in answer.choices if choice.index < choices), key=lambda choice: choice.index)
    if not asked:
        raise bad_answer("holds no choice that was asked for")
    return Completion([_choice(choice) for choice in asked[:choices]], usage_of(answer.usage) if answer.usage else None)


def embeddings_of(body: bytes, texts: list[str], secret: str = "") -> Embeddings:
    """Embeddings from the bytes of an answer, checked against the texts asked for. Raises UpstreamError."""
    try:
        answer = _VECTORS.decode(body)
    except _UNREADABLE as error:
        raise bad_answer("is not a list of embeddings in the OpenAI format") from error
    if answer.error is not None:
        raise stream_error(body, secret=secret)
    rows = sorted(answer.data, key=lambda row: row.index)
    vectors = checked_vectors([row.embedding for row in rows], len(texts))
    metered = answer.usage.prompt_tokens if answer.usage else 0
    return Embeddings(vectors, Usage(metered, 0) if metered else estimated_usage(texts))


def checked_vectors(vectors: list[list[float]], count: int) -> list[list[float]]:
    """``vectors`` if there is one per text and all are of one length, of 32-bit floats, else UpstreamError."""
    if len(vectors) != count:
        raise bad_answer(f"holds {len(vectors)} vectors for {count} texts")
    if not all(vector and len(vector) == len(vectors[0]) for vector in vectors):
        raise bad_answer("holds empty vectors or vectors of different lengths")
    try:
        for vector in vectors:
            struct.pack(f"<{len(vector)}f", *vector)
    except OverflowError as error:
        raise bad_answer("holds vectors with numbers that are no 32-bit floats") from error
    return vectors


def estimated_usage(texts: list[str]) -> Usage:
    """Tokens of embedded texts where the upstream does not meter: one per four UTF-8 bytes, rounded up, per text."""
    return Usage(sum((len(text.encode("utf-8", "surrogatepass")) + 3) // 4 for text in texts), 0)


def usage_of(usage: "_Usage") -> Usage | None:
    """The metered usage, None where no token was counted; a part never exceeds what it is part of."""
    if not (usage.prompt_tokens or usage.completion_tokens):
        return None
    read, said = usage.prompt_tokens, usage.completion_tokens
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    thought = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else 0
    return Usage(read, said, min(cached or 0, read), min(thought or 0, said))


def _choices(call: ChatCall) -> int:
    return call.options.get("n") or 1


def _choice(choice: "_AnswerChoice") -> Choice:
    message = choice.message
    return Choice(
        choice.index,
        message.content,
        message.reasoning_content or message.reasoning or None,
        whole_calls(message.tool_calls) if message.tool_calls else [],
        choice.finish_reason or "stop",
        message.refusal,
        choice.logprobs,
    )


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_Index = Annotated[int, msgspec.Meta(ge=0, le=1_023)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: str | None = None


class _AnswerChoice(msgspec.Struct):
    message: _Message
    index: _Index = 0
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Answer(msgspec.Struct):
    choices: list[_AnswerChoice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _Message = msgspec.field(default_factory=_Message)
    index: _Index = 0
    finish_reason: str | None = None
    logprobs: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


class _Vector(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector] = []
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ANSWER = msgspec.json.Decoder(_Answer)
_CHUNK = msgspec.json.Decoder(_Chunk)
_VECTORS = msgspec.json.Decoder(_Vectors)
_TEXTS = msgspec.json.Decoder(list[str])
_encode = msgspec.json.Encoder().encode
