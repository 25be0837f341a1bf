"""The input items and tools of the Responses API, translated to chat messages and chat tools.

Items that follow each other and belong to one assistant turn (its text, its function calls) become one chat message,
as the chat form wants it. What has no chat form is refused by the name of its type.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

from msgspec import Struct

from prsm.agents.call import Json
from prsm.api.wire.limits import MAX_MESSAGES, MAX_TOOLS, Name, convert
from prsm.core.errors import InvalidRequest


def to_messages(value: str | list[Any] | None) -> list[Json]:
    """Chat messages of ``input``."""
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if len(value) > MAX_MESSAGES:
        raise InvalidRequest(f"`input`: expected array of length <= {MAX_MESSAGES}.", param="input")
    messages: list[Json] = []
    for place, item in enumerate(value):
        at = f"input[{place}]"
        kind = _kind(item, at)
        translate = _ITEMS.get(kind)
        if translate is None:
            raise InvalidRequest(f"`{at}.type`: items of type {kind[:64]} are not supported.", param=f"{at}.type")
        translate(item, at, messages)
    return messages


def to_tools(tools: list[Any]) -> list[Json]:
    """Chat tools; only functions, for a built-in tool would have to run here."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"`tools`: expected array of length <= {MAX_TOOLS}.", param="tools")
    return [_to_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]


def to_tool_choice(choice: str | Json) -> str | Json:
    """Chat tool choice."""
    if isinstance(choice, str):
        if choice in ("auto", "none", "required"):
            return choice
        raise InvalidRequest("`tool_choice`: expected auto, none, required or an object.", param="tool_choice")
    if choice.get("type") == "function":
        return _function_reference(choice, "tool_choice")
    if choice.get("type") == "allowed_tools":
        allowed = convert(choice, _AllowedTools, "tool_choice")
        tools = [_function_reference(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(allowed.tools)]
        return {"type": "allowed_tools", "allowed_tools": {"mode": allowed.mode, "tools": tools}}
    raise InvalidRequest("`tool_choice.type`: expected function or allowed_tools.", param="tool_choice.type")


class _InputText(Struct, tag="input_text", tag_field="type"):
    text: str


class _OutputText(Struct, tag="output_text", tag_field="type"):
    text: str


class _PlainText(Struct, tag="text", tag_field="type"):
    text: str


class _Refusal(Struct, tag="refusal", tag_field="type"):
    refusal: str


class _InputImage(Struct, tag="input_image", tag_field="type"):
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class _InputFile(Struct, tag="input_file", tag_field="type"):
    file_data: str | None = None
    file_id: str | None = None
    file_url: str | None = None
    filename: str | None = None


class _Audio(Struct):
    data: str
    format: str


class _InputAudio(Struct, tag="input_audio", tag_field="type"):
    input_audio: _Audio


_Said = _InputText | _OutputText | _PlainText
_Part = _InputText | _OutputText | _PlainText | _Refusal | _InputImage | _InputFile | _InputAudio


class _Message(Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part]


class _FunctionCall(Struct):
    call_id: str
    name: Name
    arguments: str


class _FunctionCallOutput(Struct):
    call_id: str
    output: str | list[_Said]


class _FunctionTool(Struct):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class _Named(Struct):
    name: Name


def _kind(item: Any, at: str) -> str:
    if not isinstance(item, dict):
        raise InvalidRequest(f"`{at}`: expected object.", param=at)
    fields = cast("Json", item)
    kind = fields.get("type") or ("message" if "role" in fields else "item_reference" if "id" in fields else None)
    if not isinstance(kind, str):
        raise InvalidRequest(f"`{at}.type`: expected string.", param=f"{at}.type")
    return kind


def _add_message(item: Json, at: str, messages: list[Json]) -> None:
    message = convert(item, _Message, at)
    if message.role == "assistant":
        _add_assistant(message, at, messages)
    elif isinstance(message.content, str):
        messages.append({"role": message.role, "content": message.content})
    else:
        parts = [_to_part(part, f"{at}.content[{place}]") for place, part in enumerate(message.content)]
        only = parts[0] if len(parts) == 1 else None
        plain = only is not None and only["type"] == "text"
        messages.append({"role": message.role, "content": only["text"] if only and plain else parts})


def _add_assistant(message: _Message, at: str, messages: list[Json]) -> None:
    refusal = ""
    if isinstance(message.content, str):
        text = message.content
    else:
        text = ""
        for place, part in enumerate(message.content):
            if isinstance(part, _Refusal):
                refusal += part.refusal
            elif isinstance(part, _InputText | _OutputText | _PlainText):
                text += part.text
            else:
                where = f"{at}.content[{place}]"
                raise InvalidRequest(f"`{where}`: an assistant message holds only text.", param=where)
    last = messages[-1] if messages else None
    if last is not None and last["role"] == "assistant" and last["content"] is None:
        last["content"] = text
    else:
        last = {"role": "assistant", "content": text}
        messages.append(last)
    if refusal:
        last["refusal"] = refusal


def _add_call(item: Json, at: str, messages: list[Json]) -> None:
    call = convert(item, _FunctionCall, at)
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    calls: list[Json] = messages[-1].setdefault("tool_calls", [])
    calls.append({"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}})


def _add_output(item: Json, at: str, messages: list[Json]) -> None:
    result = convert(item, _FunctionCallOutput, at)
    said = result.output if isinstance(result.output, str) else "".join(part.text for part in result.output)
    messages.append({"role": "tool", "tool_call_id": result.call_id, "content": said})


def _ignore(item: Json, at: str, messages: list[Json]) -> None:
    """Reasoning of an earlier turn has no place in the chat form; models answer without it."""


def _refuse_reference(item: Json, at: str, messages: list[Json]) -> None:
    raise InvalidRequest(
        f"`{at}`: references to stored items are not supported.",
        param=at,
        remedy="Send the item itself, or continue with `previous_response_id`.",
    )


_ITEMS: dict[str, Callable[[Json, str, list[Json]], None]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "reasoning": _ignore,
    "item_reference": _refuse_reference,
}


def _to_part(part: _Part, at: str) -> Json:
    if isinstance(part, _InputText | _OutputText | _PlainText):
        return {"type": "text", "text": part.text}
    if isinstance(part, _InputAudio):
        audio = part.input_audio
        return {"type": "input_audio", "input_audio": {"data": audio.data, "format": audio.format}}
    if isinstance(part, _InputImage):
        return _to_image(part, at)
    if isinstance(part, _InputFile):
        return _to_file(part, at)
    raise InvalidRequest(f"`{at}`: a refusal belongs to an assistant message.", param=at)


def _to_image(part: _InputImage, at: str) -> Json:
    if part.image_url is None:
        raise InvalidRequest(f"`{at}.image_url` is required; files are not kept by this node.", param=f"{at}.image_url")
    image: Json = {"url": part.image_url}
    if part.detail is not None:
        image["detail"] = part.detail
    return {"type": "image_url", "image_url": image}


def _to_file(part: _InputFile, at: str) -> Json:
    if part.file_data is None:
        raise InvalidRequest(
            f"`{at}.file_data` is required; files are neither kept nor fetched by this node.", param=f"{at}.file_data"
        )
    file: Json = {"file_data": part.file_data}
    if part.filename is not None:
        file["filename"] = part.filename
    return {"type": "file", "file": file}


def _to_tool(tool: Any, at: str) -> Json:
    kind = cast("Json", tool).get("type") if isinstance(tool, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest(f"`{at}.type`: expected string.", param=f"{at}.type")
    if kind != "function":
        raise InvalidRequest(
            f"`{at}.type`: the built-in tool {kind[:64]} is not available here.",
            param=f"{at}.type",
            remedy="Only tools of type function are passed on.",
        )
    known = convert(tool, _FunctionTool, at)
    function: Json = {"name": known.name}
    for name in ("description", "parameters", "strict"):
        value = getattr(known, name)
        if value is not None:
            function[name] = value
    return {"type": "function", "function": function}


def _function_reference(value: Json, at: str) -> Json:
    return {"type": "function", "function": {"name": convert(value, _Named, at).name}}
