"""What a model will read and what it wrote, as texts to be screened, and the same with parts of them cut out.

All that a model reads is there: messages, whatever else stands in them, what tools were asked and answered, and the
options, with the tools that are offered; images, sound and files are not. The parts of one message are one text, so
that nothing hides by being cut in two, and what tools are asked is read without JSON's escapes, as a model reads it.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from msgspec.structs import replace

from prsm.agents.call import NOT_READ, ChatCall, Choice, EmbedCall, Json
from prsm.safety.policy import redacted
from prsm.safety.seams import Span

Cuts = Sequence[Sequence[Span]]
"""What to take out of each text, in the order of the texts; empty: nothing of any."""
_JOIN = "\n"
_MEDIA = frozenset({"image_url", "input_audio", "file"})
_IDS = frozenset({"id", "tool_call_id"})
_ID = re.compile(r"[\w.:-]{0,64}")
_ESCAPE = re.compile(
    r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u([0-9a-f]{4})|\\([^u])", re.IGNORECASE | re.DOTALL
)
_SHORT_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read_texts(call: ChatCall | EmbedCall) -> list[str]:
    """All texts that a model will read."""
    if isinstance(call, EmbedCall):
        return call.texts
    texts = [text for message in call.messages if (text := text_of(message))]
    for message in call.messages:
        texts += [unescaped(called(each)[1]) for each in message.get("tool_calls") or ()]
    texts.append(_JOIN.join(filter(None, _asides(call.messages, tools_offered(call)))))
    texts.append(_JOIN.join(_strings([value for name, value in call.options.items() if name not in NOT_READ])))
    return [text for text in texts if text]


def without(call: ChatCall | EmbedCall, cuts: Cuts) -> ChatCall | EmbedCall | None:
    """The call with ``cuts`` taken out of what ``read_texts`` gives; None where something else must be changed."""
    if isinstance(call, EmbedCall):
        return replace(call, texts=[redacted(text, cut) for text, cut in zip(call.texts, cuts, strict=True)])
    spoken = [index for index, message in enumerate(call.messages) if text_of(message)]
    if any(cuts[len(spoken) :]):
        return None
    messages = list(call.messages)
    for index, cut in zip(spoken, cuts, strict=False):
        if cut:
            messages[index] = _cut_message(messages[index], cut)
    return replace(call, messages=messages)


def tools_offered(call: ChatCall | EmbedCall) -> frozenset[str]:
    """Names of tools that the model may call: of a call's own, which it has read."""
    tools: list[Json] = [] if isinstance(call, EmbedCall) else call.options.get("tools") or []
    return frozenset(called(tool)[0] for tool in tools)


def called(call: Json, offered: Collection[str] = ()) -> tuple[str, str]:
    """The name of the tool that is called, unless it was ``offered``, and what it is asked; empty where it has none."""
    function: Json = call.get("function") or {}
    name: str = function.get("name") or ""
    return "" if name in offered else name, function.get("arguments") or ""


def said_texts(choices: Sequence[Choice], offered: Collection[str] = ()) -> list[str]:
    """All texts that a model wrote; what it passes to tools included, and names of tools that are not ``offered``."""
    texts: list[str] = []
    for choice in choices:
        texts += filter(None, (choice.content, choice.reasoning, choice.refusal))
        for call in choice.tool_calls:
            name, asked = called(call, offered)
            texts += filter(None, (name, unescaped(asked)))
    return texts


def choices_without(choices: Sequence[Choice], cuts: Cuts, offered: Collection[str] = ()) -> list[Choice]:
    """The choices with ``cuts`` taken out of what ``said_texts`` gives; tokens' probabilities, which name them, go."""
    waiting = iter(cuts)
    changed: list[Choice] = []
    for choice in choices:
        content = _cut(choice.content, waiting)
        reasoning = _cut(choice.reasoning, waiting)
        refusal = _cut(choice.refusal, waiting)
        calls: list[Json] = []
        for call in choice.tool_calls:
            name, asked = called(call, offered)
            calls.append(_calling(call, _cut(name, waiting), _cut_escaped(asked, next(waiting) if asked else ())))
        changed.append(Choice(choice.index, content, reasoning, calls, choice.finish_reason, refusal))
    return changed


def unescaped(text: str) -> str:
    """JSON, whole or a part of it, with each escape as the character that it stands for; anything else as it is."""
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def last_user_text(call: ChatCall) -> str:
    """The last thing the user said; empty where the user said nothing."""
    said = (text_of(message) for message in reversed(call.messages) if message.get("role") == "user")
    return next(said, "")


def text_of(message: Json) -> str:
    """What a message says, its parts of text apart by a line's end."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return _JOIN.join(part.get("text", "") for part in _text_parts(message))


def _text_parts(message: Json) -> list[Json]:
    parts = cast("list[Json]", message.get("content") or [])
    return [part for part in parts if part.get("type") == "text"]


def _cut_message(message: Json, cut: Sequence[Span]) -> Json:
    """A span over several parts is taken out of each; the first gets the word that stands for it."""
    if isinstance(message["content"], str):
        return {**message, "content": redacted(message["content"], cut)}
    parts: list[Json] = []
    at = 0
    for part in cast("list[Json]", message["content"]):
        if part.get("type") == "text":
            text: str = part.get("text", "")
            inside = [_moved(span, at, len(text)) for span in cut if span.start < at + len(text) and span.end > at]
            part = {**part, "text": redacted(text, inside)}
            at += len(text) + len(_JOIN)
        parts.append(part)
    return {**message, "content": parts}


def _moved(span: Span, at: int, length: int) -> Span:
    return Span(span.category, span.kind, max(0, span.start - at), min(length, span.end - at))


def _cut(text: str | None, cuts: Iterator[Sequence[Span]]) -> str | None:
    return redacted(text, next(cuts)) if text else text


def _cut_escaped(text: str, cut: Sequence[Span]) -> str:
    """``text`` without spans that were found in it ``unescaped``."""
    if not cut or "\\" not in text:
        return redacted(text, cut)
    starts: list[int] = []  # where each character of the unescaped text begins, and where the last ends
    end = 0
    for escape in _ESCAPE.finditer(text):
        starts += range(end, escape.start() + 1)
        end = escape.end()
    starts += range(end, len(text) + 1)
    return redacted(text, [Span(span.category, span.kind, starts[span.start], starts[span.end]) for span in cut])


def _character(escape: re.Match[str]) -> str:
    high, low, unit, other = escape.groups()
    if high:
        return chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
    if unit:
        return chr(int(unit, 16)) if not 0xD800 <= int(unit, 16) < 0xE000 else "\ufffd"
    return _SHORT_ESCAPES.get(other, other)


def _asides(messages: Sequence[Json], offered: Collection[str]) -> Iterator[str]:
    """What stands beside what is said: who says it, refusals, names of tools that are not read elsewhere, the rest."""
    for message in messages:
        yield from _others(message, ("role", "content", "tool_calls"))
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if part.get("type") not in _MEDIA:
                yield from _others(part, ("type", "text"))
        for each in message.get("tool_calls") or ():
            yield called(each, offered)[0]
            yield from _others(each, ("type", "function"))
            yield from _others(each.get("function") or {}, ("name", "arguments"))


def _others(fields: Json, known: Collection[str]) -> Iterator[str]:
    """Every text of the fields that are not known; an id says nothing where it has the form of one."""
    for name, value in fields.items():
        is_id = name in _IDS and isinstance(value, str) and _ID.fullmatch(value)
        if name not in known and not is_id:
            yield from _strings(value)


def _strings(value: Any) -> Iterator[str]:
    """Every text within ``value``, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in cast("Json", value).items():
            yield name
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _strings(inner)


def _calling(call: Json, name: str | None, arguments: str | None) -> Json:
    function = {**call["function"], "arguments": arguments or ""}
    return {**call, "function": {**function, "name": name} if name else function}
