"""Between OpenAI chat and Anthropic Messages, as pure functions: requests there, answers and events back.

What Anthropic cannot do is refused with InvalidRequest naming the field, never dropped in silence; only hints that do
not shape the answer (``user``, ``seed``, ``store``, ...) are left out.
"""

from typing import Annotated, Any, cast
from uuid import uuid4

import msgspec

from prsm.agents.call import ChatCall, Choice, Completion, Json, Target, Usage
from prsm.core.errors import InvalidRequest

_HINTS = frozenset(
    {"metadata", "prediction", "prompt_cache_key", "safety_identifier", "seed", "service_tier", "store", "verbosity"}
)
_PASSED = ("temperature", "top_p", "top_k", "thinking")
_HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_EFFORT = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}


def request_of(target: Target, call: ChatCall, *, stream: bool) -> Json:
    """The Messages request for ``call``. Raises InvalidRequest naming what cannot be said to Anthropic."""
    system, messages = _messages(call.messages)
    request: Json = {
        "model": target.upstream_name,
        "max_tokens": call.max_output_tokens or target.max_output_tokens,
        "messages": messages,
        "stream": stream,
    }
    if system:
        request["system"] = system
    options = {key: value for key, value in call.options.items() if value is not None}
    request.update({key: options.pop(key) for key in _PASSED if key in options})
    if request.get("temperature", 0) > 1:
        raise _refused("temperature", "Anthropic models take a temperature from 0 to 1.", "Lower it.")
    if "user" in options:
        request["metadata"] = {"user_id": options.pop("user")}
    if "stop" in options:
        stop = options.pop("stop")
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    _add_output_config(request, options)
    _add_tools(request, options)
    _refuse_rest(options)
    return request


def usage_of(usage: "WireUsage") -> Usage | None:
    """Anthropic counts cached input beside ``input_tokens``; here the input is the sum. None: no token was counted."""
    read = usage.cache_read_input_tokens or 0
    total = (usage.input_tokens or 0) + read + (usage.cache_creation_input_tokens or 0)
    return Usage(total, usage.output_tokens or 0, read) if total or usage.output_tokens else None


def completion_of(message: "WireMessage") -> Completion:
    """The answer in OpenAI's notions."""
    choice = Choice(finish_reason=finish_reason(message.stop_reason))
    text = "".join(block.text for block in message.content if block.type == "text")
    thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    choice.tool_calls = [
        tool_call(block.id, block.name, msgspec.json.encode(block.input).decode())
        for block in message.content
        if block.type == "tool_use"
    ]
    choice.content = text or (None if choice.tool_calls else "")
    choice.reasoning = thinking or None
    return Completion([choice], usage_of(message.usage))


def finish_reason(stop_reason: str | None) -> str:
    """OpenAI's name for why the answer ended."""
    return _FINISH.get(stop_reason or "", "stop")


def tool_call(call_id: str, name: str, arguments: str) -> Json:
    """A tool call in OpenAI form; one that came without an id gets one, by which its result can be told."""
    return {
        "id": call_id or f"toolu_{uuid4().hex}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _messages(messages: list[Json]) -> tuple[str, list[Json]]:
    system: list[str] = []
    turns: list[Json] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message.get("role")
        if role in ("system", "developer"):
            system.append(_plain_text(message.get("content"), f"{where}.content"))
            continue
        if role == "user":
            blocks = _content_blocks(message.get("content"), f"{where}.content")
        elif role == "assistant":
            blocks = _content_blocks(message.get("content"), f"{where}.content") + _tool_uses(message, where)
        elif role == "tool":
            role, blocks = "user", [_tool_result(message, where)]
        else:
            raise _refused(
                f"{where}.role", f"Anthropic models know no messages of role {role!r}.", "Use tool messages."
            )
        if not blocks:
            if role == "assistant":
                continue
            raise _refused(f"{where}.content", "Anthropic models need text or an image in each message.", "Add some.")
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise _refused("messages", "Anthropic models need at least one user message.", "Add one.")
    return "\n\n".join(text for text in system if text), turns


def _plain_text(content: Any, where: str) -> str:
    blocks = _content_blocks(content, where)
    if any(block["type"] != "text" for block in blocks):
        raise _refused(where, "Anthropic takes only text in system messages.", "Put images into user messages.")
    return "\n".join(block["text"] for block in blocks)


def _content_blocks(content: Any, where: str) -> list[Json]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks: list[Json] = []
    for number, part in enumerate(content):
        kind = part.get("type")
        if kind in ("text", "refusal"):
            if part.get(kind):  # Anthropic refuses empty text blocks
                blocks.append({"type": "text", "text": part[kind]})
        elif kind == "image_url":
            blocks.append(_image(part, f"{where}[{number}].image_url"))
        else:
            raise _refused(f"{where}[{number}].type", f"Anthropic models take no {kind!r} parts here.", "Send text.")
    return blocks


def _image(part: Json, where: str) -> Json:
    image = part.get("image_url")
    url = image if isinstance(image, str) else _object(image).get("url")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    if isinstance(url, str) and url.startswith("data:image/"):
        media_type, mark, data = url[len("data:") :].partition(";base64,")
        if mark and data:
            return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    raise _refused(where, "An image must be an http(s) URL or a data:image/...;base64 URL.", "Correct the URL.")


def _tool_uses(message: Json, where: str) -> list[Json]:
    uses: list[Json] = []
    for number, call in enumerate(message.get("tool_calls") or []):
        function = _object(call.get("function"))
        arguments = function.get("arguments") or "{}"
        try:
            parsed = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            parsed: Any = None
        if not isinstance(parsed, dict):
            param = f"{where}.tool_calls[{number}].function.arguments"
            raise _refused(param, "Arguments of a tool call must be a JSON object.", "Send them back as they came.")
        uses.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": parsed})
    return uses


def _tool_result(message: Json, where: str) -> Json:
    result: Json = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
    blocks = _content_blocks(message.get("content"), f"{where}.content")
    if blocks:
        result["content"] = blocks
    return result


def _add_output_config(request: Json, options: Json) -> None:
    config: Json = {}
    form = _object(options.pop("response_format", {"type": "text"}))
    if form.get("type") == "json_schema":
        schema: Any = _object(form.get("json_schema")).get("schema")
        if not isinstance(schema, dict):
            raise _refused("response_format.json_schema.schema", "A JSON schema is an object.", "Add the schema.")
        config["format"] = {"type": "json_schema", "schema": schema}
    elif form.get("type") != "text":
        raise _refused(
            "response_format.type",
            f"Anthropic models know no response_format {form.get('type')!r}.",
            "Use json_schema, or ask for JSON in the prompt.",
        )
    effort = options.pop("reasoning_effort", "none")
    if effort in _EFFORT:
        config["effort"] = _EFFORT[effort]
    elif effort != "none":
        raise _refused("reasoning_effort", f"The effort {effort!r} is unknown.", f"Use one of {', '.join(_EFFORT)}.")
    if config:
        request["output_config"] = config


def _add_tools(request: Json, options: Json) -> None:
    tools: list[Json] = options.pop("tools", [])
    choice = options.pop("tool_choice", None)
    parallel = options.pop("parallel_tool_calls", True)
    if not tools:
        return
    request["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    wanted = _tool_choice(choice) if choice is not None else None
    if parallel is False:
        wanted = wanted or {"type": "auto"}
        if wanted["type"] != "none":
            wanted["disable_parallel_tool_use"] = True
    if wanted is not None:
        request["tool_choice"] = wanted


def _tool(tool: Json, where: str) -> Json:
    if tool.get("type") != "function":
        raise _refused(f"{where}.type", "Only function tools can be passed to Anthropic models.", "Leave it out.")
    function = _object(tool.get("function"))
    translated: Json = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        translated["description"] = function["description"]
    if function.get("strict"):
        translated["strict"] = True
    return translated


def _tool_choice(choice: Any) -> Json:
    names = {"auto": "auto", "none": "none", "required": "any"}
    if isinstance(choice, str) and choice in names:
        return {"type": names[choice]}
    named = _object(choice)
    if named.get("type") == "function":
        return {"type": "tool", "name": _object(named.get("function")).get("name")}
    raise _refused("tool_choice", "Anthropic models cannot be told this tool_choice.", "Use auto, none or required.")


def _refuse_rest(options: Json) -> None:
    for name, value in options.items():
        if name in _HINTS or value in _HARMLESS.get(name, ()):
            continue
        if name == "n":
            raise _refused("n", "Anthropic models give one answer per call.", "Leave n out and call again.")
        raise _refused(name, f"{name} cannot be passed to Anthropic models.", "Leave it out or name another model.")


def _object(value: Any) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _refused(param: str, message: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, remedy=remedy, code="unsupported_by_model")


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class WireUsage(msgspec.Struct, gc=False):
    """Token counts as Anthropic sends them; in events they are cumulative and may be partial."""

    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None


class WireBlock(msgspec.Struct):
    """A content block of an answer; other types than text, thinking and tool_use keep only their type."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] = {}


class WireMessage(msgspec.Struct):
    """A whole answer."""

    content: list[WireBlock]
    usage: WireUsage
    stop_reason: str | None = None
