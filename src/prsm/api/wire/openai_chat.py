"""OpenAI Chat Completions: a request body to a ParsedCall, an answer to a body or to server-sent chunks.

Known fields are checked for type and range, unknown ones pass through in ``options``. The ``prsm`` object stands at
the top of the body, and in a stream on the last chunk before ``[DONE]``; the reason why each choice ended is held
back until then.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from prsm.agents.call import Choice, Completion, Delta, Json, Usage
from prsm.api.wire import limits
from prsm.api.wire.errors import openai_error
from prsm.api.wire.limits import convert, decode
from prsm.api.wire.parsed import ParsedCall, take_extension
from prsm.core.errors import InvalidRequest, PrsmError


def parse(body: bytes, *, max_bytes: int) -> ParsedCall:
    """Check a request body; raises InvalidRequest naming the field and what was expected."""
    options = decode(body, max_bytes)
    prsm = take_extension(options)
    known = convert(options, _Request)
    _refuse_unable(known)
    del options["model"]
    messages: list[Json] = options.pop("messages")
    for name in _TAKEN:
        options.pop(name, None)
    return ParsedCall(
        model=known.model,
        messages=messages,
        options=options,
        stream=known.stream is True,
        include_usage=known.stream_options is not None and known.stream_options.include_usage is True,
        max_output_tokens=known.max_completion_tokens or known.max_tokens,
        n=known.n or 1,
        prsm=prsm,
    )


def render(completion: Completion, *, answer_id: str, created: int, model: str, prsm: Json) -> bytes:
    """The ``chat.completion`` object."""
    return _encode(
        {
            "id": answer_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [_choice(choice) for choice in completion.choices],
            "usage": _usage(completion.usage) if completion.usage is not None else None,
            "prsm": prsm,
        }
    )


class ChatStream:
    """The chunks of one streamed answer: ``start``, then ``feed`` as deltas come, then ``finish`` or ``fail``."""

    __slots__ = ("_content_head", "_content_tail", "_head", "_include_usage", "_reasons", "_tail")

    def __init__(self, *, answer_id: str, created: int, model: str, include_usage: bool = False, n: int = 1) -> None:
        head = _encode({"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model})
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._content_head = self._head + b'{"index":0,"delta":{"content":'
        self._include_usage = include_usage
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._content_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._reasons: dict[int, str | None] = dict.fromkeys(range(n))

    def start(self) -> bytes:
        """The chunk that names the role, once for each choice."""
        role = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._chunk(index, role) for index in self._reasons)

    def feed(self, deltas: list[Delta]) -> bytes:
        """One chunk for each delta that holds something to show."""
        chunks: list[bytes] = []
        for delta in deltas:
            if delta.finish_reason is not None:
                self._reasons[delta.index] = delta.finish_reason
            if delta.index or delta.logprobs or delta.tool_calls or delta.reasoning or delta.refusal:
                shown = _delta(delta)
                if shown or delta.logprobs:
                    chunks.append(self._chunk(delta.index, shown, logprobs=delta.logprobs))
            elif delta.pieces is not None:
                between = b'"' + self._content_tail + self._content_head + b'"'
                texts = between.decode().join(delta.pieces).encode()
                chunks += (self._content_head, b'"', texts, b'"', self._content_tail)
            elif delta.content:
                chunks += (self._content_head, _encode(delta.content), self._content_tail)
        return b"".join(chunks)

    def finish(self, usage: Usage | None, prsm: Json) -> bytes:
        """Why each choice ended, the usage if it was asked for, ``[DONE]``."""
        chunks: list[bytes] = []
        *firsts, last = sorted(self._reasons.items())
        chunks += [self._chunk(index, {}, reason=reason or "stop") for index, reason in firsts]
        extra = b',"prsm":' + _encode(prsm)
        if self._include_usage:
            chunks.append(self._chunk(last[0], {}, reason=last[1] or "stop"))
            counted = _encode(_usage(usage)) if usage is not None else b"null"
            chunks += (self._head, b'],"usage":', counted, extra, b"}\n\n")
        else:
            chunks.append(self._chunk(last[0], {}, reason=last[1] or "stop", tail=b"]" + extra + b"}\n\n"))
        chunks.append(_DONE)
        return b"".join(chunks)

    def fail(self, error: PrsmError, prsm: Json | None = None) -> bytes:
        """The error as the last event; the SDKs raise it."""
        return b"data: " + openai_error(error, prsm) + b"\n\n" + _DONE

    def _chunk(
        self, index: int, delta: Json, *, reason: str | None = None, logprobs: Json | None = None, tail: bytes = b""
    ) -> bytes:
        ended = None if reason is None else _FINISH.get(reason, "stop")
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": ended}
        return self._head + _encode(choice) + (tail or self._tail)


class _TextPart(Struct, tag="text", tag_field="type"):
    text: str


class _ImageUrl(Struct):
    url: str
    detail: str | None = None


class _ImagePart(Struct, tag="image_url", tag_field="type"):
    image_url: _ImageUrl


class _Audio(Struct):
    data: str
    format: str


class _AudioPart(Struct, tag="input_audio", tag_field="type"):
    input_audio: _Audio


class _File(Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _FilePart(Struct, tag="file", tag_field="type"):
    file: _File


class _RefusalPart(Struct, tag="refusal", tag_field="type"):
    refusal: str


_Text = str | list[_TextPart]


class _Function(Struct):
    name: limits.Name
    arguments: str


class _ToolCall(Struct):
    id: str
    function: _Function
    type: Literal["function"] = "function"


class _System(Struct, tag="system", tag_field="role"):
    content: _Text
    name: str | None = None


class _Developer(_System, tag="developer", tag_field="role"):
    pass


class _User(Struct, tag="user", tag_field="role"):
    content: str | list[_TextPart | _ImagePart | _AudioPart | _FilePart]
    name: str | None = None


class _Assistant(Struct, tag="assistant", tag_field="role"):
    content: str | list[_TextPart | _RefusalPart] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: Annotated[list[_ToolCall], Meta(max_length=limits.MAX_TOOLS)] | None = None


class _ToolResult(Struct, tag="tool", tag_field="role"):
    content: _Text
    tool_call_id: str


class _FunctionTool(Struct):
    name: limits.Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(Struct):
    function: _FunctionTool
    type: Literal["function"]


class _NamedFunction(Struct):
    name: limits.Name


class _ToolChoice(Struct):
    type: Literal["function", "allowed_tools"]
    function: _NamedFunction | None = None
    allowed_tools: dict[str, Any] | None = None


class _JsonSchema(Struct):
    name: limits.Name
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class _ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(Struct):
    include_usage: bool | None = None


_Penalty = Annotated[float, Meta(ge=-2, le=2)]


class _Request(Struct):
    model: limits.Name
    messages: Annotated[
        list[_System | _Developer | _User | _Assistant | _ToolResult],
        Meta(min_length=1, max_length=limits.MAX_MESSAGES),
    ]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: limits.Tokens | None = None
    max_completion_tokens: limits.Tokens | None = None
    n: Annotated[int, Meta(ge=1, le=limits.MAX_CHOICES)] | None = None
    temperature: limits.Temperature | None = None
    top_p: limits.Fraction | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    stop: str | limits.Stops | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: limits.TopLogprobs | None = None
    logit_bias: Annotated[dict[str, float], Meta(max_length=1024)] | None = None
    tools: Annotated[list[_Tool], Meta(max_length=limits.MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    modalities: list[str] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    metadata: limits.Metadata | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None


_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"
_TAKEN = ("stream", "stream_options", "max_tokens", "max_completion_tokens")
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
}
"""Strict clients know no other reason; what an upstream calls otherwise ended of itself, as far as it says."""


def _refuse_unable(known: _Request) -> None:
    """What is well formed but cannot be done here, or contradicts itself."""
    if known.max_tokens is not None and known.max_completion_tokens is not None:
        raise InvalidRequest(
            "`max_tokens` and `max_completion_tokens` are the same limit.",
            param="max_tokens",
            remedy="Send one of them.",
        )
    if known.stream_options is not None and not known.stream:
        raise InvalidRequest(
            "`stream_options` is only allowed when `stream` is true.", param="stream_options", remedy="Leave it out."
        )
    if known.functions is not None:
        raise InvalidRequest("`functions` is not supported.", param="functions", remedy="Use `tools` instead.")
    if known.function_call is not None:
        raise InvalidRequest(
            "`function_call` is not supported.", param="function_call", remedy="Use `tool_choice` instead."
        )
    if known.modalities is not None and known.modalities != ["text"]:
        raise InvalidRequest('`modalities`: only ["text"] can be answered.', param="modalities")
    choice = known.tool_choice
    if (
        isinstance(choice, _ToolChoice)
        and (choice.function if choice.type == "function" else choice.allowed_tools) is None
    ):
        raise InvalidRequest(f"`tool_choice.{choice.type}` is required.", param=f"tool_choice.{choice.type}")
    answer = known.response_format
    if answer is not None and answer.type == "json_schema" and answer.json_schema is None:
        raise InvalidRequest("`response_format.json_schema` is required.", param="response_format.json_schema")
    for place, message in enumerate(known.messages):
        if type(message) is _Assistant and message.content is None and not message.tool_calls and not message.refusal:
            at = f"messages[{place}].content"
            raise InvalidRequest(f"`{at}` is required when there are no tool calls.", param=at)


def _choice(choice: Choice) -> Json:
    message: Json = {"role": "assistant", "content": choice.content, "refusal": choice.refusal}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if choice.tool_calls:
        message["tool_calls"] = choice.tool_calls
    return {
        "index": choice.index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": _FINISH.get(choice.finish_reason, "stop"),
    }


def _delta(delta: Delta) -> Json:
    shown: Json = {}
    if delta.content:
        shown["content"] = delta.content
    if delta.reasoning:
        shown["reasoning_content"] = delta.reasoning
    if delta.refusal:
        shown["refusal"] = delta.refusal
    if delta.tool_calls:
        shown["tool_calls"] = delta.tool_calls
    return shown


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
