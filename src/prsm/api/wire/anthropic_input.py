"""Anthropic messages and tools, translated to chat messages and chat tools.

One Anthropic user message may hold tool results and new words together; the chat form wants a ``tool`` message for
each result first, then the words. A picture in a tool result, for which chat tool messages have no place, follows in
the user message.
"""

from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from prsm.agents.call import Json
from prsm.api.wire.limits import Name, convert
from prsm.core.errors import InvalidRequest


class TextBlock(Struct, tag="text", tag_field="type"):
    """Words."""

    text: str


SystemText = str | list[TextBlock]


def system_message(system: SystemText) -> Json:
    """The system prompt as a chat message."""
    text = system if isinstance(system, str) else "\n".join(block.text for block in system)
    return {"role": "system", "content": text}


def to_messages(items: list[Any], messages: list[Json]) -> None:
    """Append the chat messages of ``items``."""
    for place, item in enumerate(items):
        at = f"messages[{place}]"
        message = convert(item, _Message, at)
        if message.role == "user":
            _add_user(message, at, messages)
        elif message.role == "assistant":
            _add_assistant(message, at, messages)
        else:
            messages.append(system_message(convert(item, _SystemMessage, at).content))


def to_tools(tools: list[Any]) -> list[Json]:
    """Chat tools; only those that the client runs."""
    return [_to_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]


def to_tool_choice(value: Json) -> tuple[str | Json, bool]:
    """Chat tool choice, and whether several calls at once are allowed."""
    choice = convert(value, _ToolChoice, "tool_choice")
    parallel = not choice.disable_parallel_tool_use
    if choice.type != "tool":
        return _CHOICES[choice.type], parallel
    if choice.name is None:
        raise InvalidRequest("`tool_choice.name` is required.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}, parallel


class _Base64(Struct, tag="base64", tag_field="type"):
    media_type: str
    data: str


class _Url(Struct, tag="url", tag_field="type"):
    url: str


class _PlainText(Struct, tag="text", tag_field="type"):
    data: str


class _Image(Struct, tag="image", tag_field="type"):
    source: _Base64 | _Url


class _Citations(Struct):
    enabled: bool | None = None


class _Document(Struct, tag="document", tag_field="type"):
    source: _Base64 | _PlainText
    title: str | None = None
    context: str | None = None
    citations: _Citations | None = None


class _ToolUse(Struct, tag="tool_use", tag_field="type"):
    id: str
    name: Name
    input: dict[str, Any]


class _ToolResult(Struct, tag="tool_result", tag_field="type"):
    tool_use_id: str
    content: str | list[TextBlock | _Image | _Document] | None = None
    is_error: bool | None = None


class _ThinkingBlock(Struct, tag="thinking", tag_field="type"):
    thinking: str


class _RedactedThinking(Struct, tag="redacted_thinking", tag_field="type"):
    data: str


_UserBlock = TextBlock | _Image | _Document | _ToolResult
_AssistantBlock = TextBlock | _ToolUse | _ThinkingBlock | _RedactedThinking


class _Message(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Any]


class _SystemMessage(Struct):
    content: SystemText


class _Tool(Struct):
    name: Name
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    input_examples: list[Any] | None = None


class _ToolChoice(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None


_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _add_user(message: _Message, at: str, messages: list[Json]) -> None:
    if isinstance(message.content, str):
        messages.append({"role": "user", "content": message.content})
        return
    parts: list[Json] = []
    blocks = _blocks(message.content, at, _USER_TYPES)
    for place, block in enumerate(convert(blocks, list[_UserBlock], f"{at}.content")):
        where = f"{at}.content[{place}]"
        if isinstance(block, _ToolResult):
            messages.append(_tool_message(block, where, parts))
        else:
            parts.append(_to_part(block, where))
    if len(parts) == 1 and parts[0]["type"] == "text":
        messages.append({"role": "user", "content": parts[0]["text"]})
    elif parts:
        messages.append({"role": "user", "content": parts})
    elif not blocks:
        raise InvalidRequest(f"`{at}.content` is empty.", param=f"{at}.content")


def _add_assistant(message: _Message, at: str, messages: list[Json]) -> None:
    if isinstance(message.content, str):
        messages.append({"role": "assistant", "content": message.content})
        return
    text: list[str] = []
    calls: list[Json] = []
    blocks = _blocks(message.content, at, _ASSISTANT_TYPES)
    for block in convert(blocks, list[_AssistantBlock], f"{at}.content"):
        if isinstance(block, TextBlock):
            text.append(block.text)
        elif isinstance(block, _ToolUse):
            arguments = msgspec.json.encode(block.input).decode()
            calls.append({"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}})
    said: Json = {"role": "assistant", "content": "".join(text) or (None if calls else "")}
    if calls:
        said["tool_calls"] = calls
    messages.append(said)


def _blocks(content: list[Any], at: str, allowed: frozenset[str]) -> list[Any]:
    """``content``, refused when a block is of a type with no chat form: by its name, which a union could not say."""
    for place, block in enumerate(content):
        kind = cast("Json", block).get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind not in allowed:
            where = f"{at}.content[{place}].type"
            names = ", ".join(sorted(allowed))
            raise InvalidRequest(
                f"`{where}`: blocks of type {kind[:64]} have no place here.",
                param=where,
                remedy=f"Allowed are {names}.",
            )
    return content


def _tool_message(block: _ToolResult, at: str, parts: list[Json]) -> Json:
    """The chat message of a tool's result; what is no text in it is appended to ``parts``."""
    if isinstance(block.content, list):
        text = "".join(part.text for part in block.content if isinstance(part, TextBlock))
        parts += [
            _to_part(part, f"{at}.content[{place}]")
            for place, part in enumerate(block.content)
            if not isinstance(part, TextBlock)
        ]
    else:
        text = block.content or ""
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _to_part(block: TextBlock | _Image | _Document, at: str) -> Json:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    title = None
    if isinstance(block, _Document):
        title = block.title
        if block.context:
            raise _not_passed_on(f"{at}.context", "Say it in a text block.")
        if block.citations is not None and block.citations.enabled:
            raise _not_passed_on(f"{at}.citations", "Ask for citations in the prompt.")
    source = block.source
    if isinstance(source, _PlainText):
        return {"type": "text", "text": f"{title}\n\n{source.data}" if title else source.data}
    url = source.url if isinstance(source, _Url) else f"data:{source.media_type};base64,{source.data}"
    if isinstance(block, _Image):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": title or "document", "file_data": url}}


def _to_tool(tool: Any, at: str) -> Json:
    kind = cast("Json", tool).get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != "custom":
        raise InvalidRequest(
            f"`{at}.type`: the server tool {kind[:64]} is not available here.",
            param=f"{at}.type",
            remedy="Only tools with an `input_schema`, which the client runs, are passed on.",
        )
    known = convert(tool, _Tool, at)
    if known.input_examples:
        raise _not_passed_on(f"{at}.input_examples", "Give the examples in the tool's description.")
    function: Json = {"name": known.name, "parameters": known.input_schema}
    if known.description is not None:
        function["description"] = known.description
    if known.strict is not None:
        function["strict"] = known.strict
    return {"type": "function", "function": function}


def _not_passed_on(param: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"`{param}` is not passed on to models.", param=param, remedy=remedy)


_USER_TYPES = frozenset(("text", "image", "document", "tool_result"))
_ASSISTANT_TYPES = frozenset(("text", "tool_use", "thinking", "redacted_thinking"))
