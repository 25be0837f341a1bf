"""OpenAI Responses: a request body to a ParsedCall in chat form, an answer to a ``response`` object.

What has no chat form (built-in tools, stored files, prompt templates, background work) is refused by name; what only
tunes OpenAI's own service (``include``, ``reasoning.summary``) is dropped. Reasoning items of earlier turns are
ignored. Loading ``previous_response_id`` or ``conversation`` is the caller's work.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from prsm.agents.call import Choice, Completion, Json, Usage
from prsm.api.wire import limits
from prsm.api.wire.limits import convert, decode
from prsm.api.wire.openai_responses_input import to_messages, to_tool_choice, to_tools
from prsm.api.wire.parsed import ParsedCall, refuse_foreign, take_extension
from prsm.core.errors import InvalidRequest


class ParsedResponses(Struct, frozen=True):
    """A checked request: the call itself, what it continues, and the request fields that the answer repeats."""

    call: ParsedCall
    echo: Json
    previous_response_id: str | None = None
    conversation_id: str | None = None
    store: bool = True


def parse(body: bytes, *, max_bytes: int) -> ParsedResponses:
    """Check a request body; raises InvalidRequest naming the field and what was expected."""
    options = decode(body, max_bytes)
    prsm = take_extension(options)
    known = convert(options, _Request)
    _refuse_unable(known)
    echo = {name: options[name] for name in _ECHOED if options.get(name) is not None}
    for name in _TAKEN:
        options.pop(name, None)
    refuse_foreign(options, _FOREIGN, "the Responses API")
    messages: list[Json] = []
    if known.instructions:
        messages.append({"role": "system", "content": known.instructions})
    messages += to_messages(known.input)
    _translate_options(known, options)
    conversation = known.conversation
    return ParsedResponses(
        call=ParsedCall(
            model=known.model,
            messages=messages,
            options=options,
            stream=known.stream is True,
            max_output_tokens=known.max_output_tokens,
            instructed=bool(known.instructions),
            prsm=prsm,
        ),
        echo=echo,
        previous_response_id=known.previous_response_id,
        conversation_id=conversation.id if isinstance(conversation, _Conversation) else conversation,
        store=known.store is not False,
    )


def render(
    completion: Completion, *, answer_id: str, created: int, model: str, prsm: Json, request: ParsedResponses
) -> bytes:
    """The ``response`` object."""
    choice = completion.choices[0] if completion.choices else Choice(content="")
    response = response_object(request, answer_id=answer_id, created=created, model=model)
    end_response(response, choice.finish_reason, completion.usage, prsm)
    response["output"] = _output(choice, answer_id, response["status"])
    return msgspec.json.encode(response)


def response_object(request: ParsedResponses, *, answer_id: str, created: int, model: str) -> Json:
    """A response in progress: no output yet, the fields of the request repeated."""
    echo = request.echo
    tools = [{"description": None, "parameters": None, "strict": None, **tool} for tool in echo.get("tools", ())]
    response: Json = {
        "id": answer_id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **_ECHO_DEFAULTS,
        **echo,
        "tools": tools,
        "store": request.store,
    }
    if request.conversation_id is not None:
        response["conversation"] = {"id": request.conversation_id}
    return response


def end_response(response: Json, finish_reason: str, usage: Usage | None, prsm: Json) -> None:
    """Set status, usage and ``prsm`` of a response whose answer has ended."""
    cut = INCOMPLETE.get(finish_reason)
    response["status"] = "incomplete" if cut else "completed"
    response["incomplete_details"] = {"reason": cut} if cut else None
    response["usage"] = _usage(usage) if usage is not None else None
    response["prsm"] = prsm


def text_part(text: str, logprobs: list[Json] | None = None) -> Json:
    """A part of a message item."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def message_item(item_id: str, parts: list[Json], status: str) -> Json:
    """An output item that holds what the model says."""
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def reasoning_item(item_id: str, parts: list[Json], status: str) -> Json:
    """An output item that holds what the model thought."""
    return {"id": item_id, "type": "reasoning", "status": status, "summary": [], "content": parts}


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Json:
    """An output item that asks the client to call its function."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def item_id(prefix: str, answer_id: str, output_index: int) -> str:
    """An id unique within the node, derived from the answer's own so that rendering twice gives the same bytes."""
    return f"{prefix}_{answer_id.rpartition('_')[2]}_{output_index}"


INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons of the chat form which mean that the answer was cut, and their names here."""


class _JsonFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class _TextConfig(Struct):
    format: _JsonFormat | None = None
    verbosity: str | None = None


class _Reasoning(Struct):
    effort: str | None = None
    summary: str | None = None


class _Conversation(Struct):
    id: str


class _Request(Struct):
    model: limits.Name
    input: str | list[Any] | None = None
    instructions: str | None = None
    max_output_tokens: limits.Tokens | None = None
    temperature: limits.Temperature | None = None
    top_p: limits.Fraction | None = None
    top_logprobs: limits.TopLogprobs | None = None
    parallel_tool_calls: bool | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    text: _TextConfig | None = None
    reasoning: _Reasoning | None = None
    previous_response_id: limits.Name | None = None
    conversation: limits.Name | _Conversation | None = None
    store: bool | None = None
    metadata: limits.Metadata | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    include: list[str] | None = None
    prompt: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None


_ECHO_DEFAULTS: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
_ECHOED = (*_ECHO_DEFAULTS, "tools")
_TAKEN = (
    *("model", "input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "stream"),
    *("stream_options", "previous_response_id", "conversation", "store", "metadata", "truncation", "background"),
    *("include", "prompt", "max_tool_calls"),
)
_FOREIGN = frozenset(
    ("messages", "n", "max_tokens", "max_completion_tokens", "stop", "response_format", "reasoning_effort", "logprobs")
)


def _refuse_unable(known: _Request) -> None:
    """What is well formed but cannot be done here, or contradicts itself."""
    if known.background:
        raise InvalidRequest("`background` is not supported.", param="background", remedy="Use `stream` instead.")
    if known.prompt is not None:
        raise InvalidRequest(
            "`prompt` templates are not kept by this node.", param="prompt", remedy="Send the text in `input`."
        )
    if known.truncation == "auto":
        raise InvalidRequest(
            "`truncation`: only disabled is supported.", param="truncation", remedy="Send a shorter input."
        )
    continued = known.previous_response_id is not None or known.conversation is not None
    if known.previous_response_id is not None and known.conversation is not None:
        raise InvalidRequest(
            "`previous_response_id` and `conversation` exclude each other.", param="previous_response_id"
        )
    if not known.input and not continued:
        raise InvalidRequest("`input` is required.", param="input", code="missing_required_parameter")
    text_format = known.text.format if known.text is not None else None
    if text_format is not None and text_format.type == "json_schema":
        for name, value in (("name", text_format.name), ("schema", text_format.schema)):
            if value is None:
                at = f"text.format.{name}"
                raise InvalidRequest(f"`{at}` is required.", param=at, code="missing_required_parameter")


def _translate_options(known: _Request, options: Json) -> None:
    """Add to ``options``, in chat form, what the Responses API names otherwise."""
    if known.tools:
        options["tools"] = to_tools(known.tools)
    if known.tool_choice is not None:
        options["tool_choice"] = to_tool_choice(known.tool_choice)
    if known.reasoning is not None and known.reasoning.effort is not None:
        options["reasoning_effort"] = known.reasoning.effort
    if known.top_logprobs is not None or "message.output_text.logprobs" in (known.include or ()):
        options["logprobs"] = True
    if known.text is None:
        return
    if known.text.verbosity is not None:
        options["verbosity"] = known.text.verbosity
    wanted = known.text.format
    if wanted is not None and wanted.type == "json_object":
        options["response_format"] = {"type": "json_object"}
    elif wanted is not None and wanted.type == "json_schema":
        schema = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
        if wanted.description is not None:
            schema["description"] = wanted.description
        options["response_format"] = {"type": "json_schema", "json_schema": schema}


def _output(choice: Choice, answer_id: str, status: str) -> list[Json]:
    items: list[Json] = []
    if choice.reasoning:
        parts: list[Json] = [{"type": "reasoning_text", "text": choice.reasoning}]
        items.append(reasoning_item(item_id("rs", answer_id, 0), parts, "completed"))
    if choice.content or choice.refusal or not choice.tool_calls:
        logprobs = choice.logprobs.get("content") if choice.logprobs else None
        parts = [text_part(choice.content or "", logprobs)] if choice.content or not choice.refusal else []
        if choice.refusal:
            parts.append({"type": "refusal", "refusal": choice.refusal})
        items.append(message_item(item_id("msg", answer_id, len(items)), parts, status))
    for call in choice.tool_calls:
        own_id = item_id("fc", answer_id, len(items))
        call_id = call.get("id") or item_id("call", answer_id, len(items))
        items.append(call_item(own_id, call_id, call["function"]["name"], call["function"]["arguments"], status))
    return items


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
