"""Anthropic Messages: a request body to a ParsedCall in chat form, an answer to a ``message`` object.

What has no chat form (server tools, stored files, documents by address) is refused by the name of its type; cache
hints and the thinking of earlier turns, which only Anthropic's own service can use, are dropped.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from prsm.agents.answer_digest import tool_input
from prsm.agents.call import Choice, Completion, Json, Usage
from prsm.api.wire import limits
from prsm.api.wire.anthropic_input import SystemText, system_message, to_messages, to_tool_choice, to_tools
from prsm.api.wire.limits import convert, decode
from prsm.api.wire.parsed import ParsedCall, refuse_foreign, take_extension
from prsm.core.errors import InvalidRequest


def parse(body: bytes, *, max_bytes: int) -> ParsedCall:
    """Check the body of ``POST /v1/messages``; raises InvalidRequest naming the field and what was expected."""
    return _parse(body, max_bytes, _Create)


def parse_count_tokens(body: bytes, *, max_bytes: int) -> ParsedCall:
    """Check the body of ``POST /v1/messages/count_tokens``: the same without ``max_tokens`` and ``stream``."""
    return _parse(body, max_bytes, _Count)


def render(completion: Completion, *, answer_id: str, model: str, prsm: Json) -> bytes:
    """The ``message`` object."""
    choice = completion.choices[0] if completion.choices else Choice(content="")
    message = message_object(answer_id, model)
    message["content"] = _content(choice, answer_id)
    message["stop_reason"] = stop_reason(choice.finish_reason, called=bool(choice.tool_calls))
    message["usage"] = usage_object(completion.usage)
    message["prsm"] = prsm
    return msgspec.json.encode(message)


def render_count(input_tokens: int) -> bytes:
    """The answer of ``count_tokens``."""
    return msgspec.json.encode({"input_tokens": input_tokens})


def message_object(answer_id: str, model: str) -> Json:
    """A message in which nothing stands yet."""
    return {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_object(None),
    }


def usage_object(usage: Usage | None) -> Json:
    """Metered tokens; here tokens read from a cache are counted beside the input, not in it."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_input_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def stop_reason(finish_reason: str, *, called: bool) -> str:
    """Anthropic's word for why an answer ended; the chat form does not say which stop sequence ended it."""
    if called and finish_reason == "stop":
        return "tool_use"
    return _STOP_REASONS.get(finish_reason, "end_turn")


def call_id(fragment: Json, answer_id: str, place: int) -> str:
    """A tool call's own id, or one derived from the answer's where the upstream gave none."""
    return fragment.get("id") or f"toolu_{answer_id.rpartition('_')[2]}_{place}"


class _Metadata(Struct):
    user_id: Annotated[str, Meta(max_length=limits.MAX_NAME_CHARS)] | None = None


class _Thinking(Struct):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None


class _OutputFormat(Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputConfig(Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _OutputFormat | None = None


class _Count(Struct):
    model: limits.Name
    messages: Annotated[list[Any], Meta(min_length=1, max_length=limits.MAX_MESSAGES)]
    system: SystemText | None = None
    tools: Annotated[list[Any], Meta(max_length=limits.MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    container: Any = None
    mcp_servers: Any = None


class _Create(_Count, kw_only=True):
    max_tokens: limits.Tokens
    stream: bool | None = None
    stop_sequences: limits.Stops | None = None
    temperature: limits.Fraction | None = None
    top_p: limits.Fraction | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: _Metadata | None = None


_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_TAKEN = (
    *("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "max_tokens", "stream"),
    *("stop_sequences", "metadata", "container", "mcp_servers"),
    # Only Anthropic's own service knows these, and none of them changes what an answer means.
    *("cache_control", "context_management", "diagnostics", "inference_geo", "service_tier", "speed"),
)
_FOREIGN = frozenset(
    ("input", "n", "max_completion_tokens", "stop", "stream_options", "response_format", "reasoning_effort", "logprobs")
)
_EFFORT_BUDGETS = ((4096, "low"), (16384, "medium"))


def _parse(body: bytes, max_bytes: int, shape: type[_Count]) -> ParsedCall:
    options = decode(body, max_bytes)
    prsm = take_extension(options)
    known = convert(options, shape)
    for name, value in (("container", known.container), ("mcp_servers", known.mcp_servers)):
        if value:
            raise InvalidRequest(f"`{name}` is not supported: tools run at the client.", param=name)
    for name in _TAKEN:
        options.pop(name, None)
    refuse_foreign(options, _FOREIGN, "the Messages API")
    messages = [] if known.system is None else [system_message(known.system)]
    to_messages(known.messages, messages)
    _translate_options(known, options)
    create = known if isinstance(known, _Create) else None
    if create is not None:
        if create.stop_sequences:
            options["stop"] = create.stop_sequences
        if create.metadata is not None and create.metadata.user_id is not None:
            options["user"] = create.metadata.user_id
    return ParsedCall(
        model=known.model,
        messages=messages,
        options=options,
        stream=create is not None and create.stream is True,
        max_output_tokens=create.max_tokens if create is not None else None,
        prsm=prsm,
    )


def _translate_options(known: _Count, options: Json) -> None:
    """Add to ``options``, in chat form, what the Messages API names otherwise."""
    if known.tools:
        options["tools"] = to_tools(known.tools)
    if known.tool_choice is not None:
        choice, parallel = to_tool_choice(known.tool_choice)
        options["tool_choice"] = choice
        if not parallel:
            options["parallel_tool_calls"] = False
    config = known.output_config
    effort = config.effort if config is not None else None
    if known.thinking is not None and known.thinking.type == "enabled" and effort is None:
        budget = known.thinking.budget_tokens or 0
        effort = next((name for limit, name in _EFFORT_BUDGETS if budget < limit), "high")
    if effort is not None:
        options["reasoning_effort"] = effort
    if config is not None and config.format is not None:
        schema = {"name": "answer", "schema": config.format.schema, "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}


def _content(choice: Choice, answer_id: str) -> list[Json]:
    content: list[Json] = []
    if choice.reasoning:
        content.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
    text = (choice.content or "") + (choice.refusal or "")
    if text:
        content.append({"type": "text", "text": text, "citations": None})
    for place, call in enumerate(choice.tool_calls):
        content.append(
            {
                "type": "tool_use",
                "id": call_id(call, answer_id, place),
                "name": call["function"]["name"],
                "input": tool_input(call["function"]["arguments"]),
            }
        )
    return content
