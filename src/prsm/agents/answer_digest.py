"""What an answer is, once and for all formats: the digest that a receipt binds, and the assembly of a stream.

A client recomputes the digest from what it received, whole or streamed, in any wire format. Per choice, in order
of index: ``content`` is all visible text, a refusal's included; each tool call has its ``name`` and ``arguments``.
Because one API sends arguments as text and another as an object, they are put in one form first: the JSON object
as RFC 8785 writes it (integers in full digits), and what is no JSON object as ``{"raw_arguments": text}``.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from decimal import Decimal
from io import StringIO
from typing import Any, cast

import msgspec

from prsm.agents.call import Choice, Completion, Delta, Json, Usage
from prsm.agents.seams import UpstreamError
from prsm.core import canonical

MAX_ARGUMENTS_DEPTH = 64


def output_digest(choices: list[Choice]) -> str:
    """SHA-256, lower-case hex, of the canonical encoding of ``{"choices": [{"content", "tool_calls"}]}``."""
    if len(choices) > 1:
        choices = sorted(choices, key=_index)
    shown = canonical.encode_trusted({"choices": [_shown(choice) for choice in choices]})
    return hashlib.sha256(shown).hexdigest()


def vectors_digest(vectors: Sequence[Sequence[float]]) -> str:
    """SHA-256, lower-case hex, of all numbers of all vectors in order, each as a little-endian 32-bit float."""
    hasher = hashlib.sha256()
    for vector in vectors:
        hasher.update(struct.pack(f"<{len(vector)}f", *vector))
    return hasher.hexdigest()


def tool_input(arguments: str) -> Json:
    """Arguments as an object: no text is ``{}``, and what is no JSON object is ``{"raw_arguments": text}``."""
    if not arguments.strip():
        return {}
    try:
        value = _DECODER.decode(arguments)
        if isinstance(value, dict):
            _jcs(value, MAX_ARGUMENTS_DEPTH)
            return cast("Json", value)
    except (ValueError, RecursionError):
        pass
    return {"raw_arguments": arguments}


class AnswerAssembler:
    """Builds the whole answer from the deltas of a stream; past ``max_bytes`` it raises UpstreamError."""

    __slots__ = ("_choices", "_left", "_max_bytes", "usage")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._choices: dict[int, _Growing] = {}
        self.usage: Usage | None = None

    def add(self, deltas: Iterable[Delta]) -> None:
        """Take the next deltas, in the order in which they came."""
        for delta in deltas:
            choice = self._choices.get(delta.index)
            if choice is None:
                self._spend(_OVERHEAD_BYTES)
                choice = self._choices[delta.index] = _Growing()
            content = delta.content
            if content:
                self._left -= len(content) if content.isascii() else len(content.encode())
                choice.content.write(content)
            if delta.tool_calls or delta.reasoning or delta.refusal or delta.logprobs:
                self._add_rare(choice, delta)
            if delta.finish_reason is not None:
                choice.finish_reason = delta.finish_reason
            if delta.usage is not None:
                self.usage = delta.usage
        self._spend(0)

    def choices(self) -> list[Choice]:
        """What was gathered so far, by index; a choice that did not say why it ended gets a reason."""
        return [choice.finished(index) for index, choice in sorted(self._choices.items())]

    def completion(self) -> Completion:
        """The whole answer with the usage that the upstream metered, if it did."""
        return Completion(choices=self.choices(), usage=self.usage)

    def has_ended(self, choices: int) -> bool:
        """Whether all of ``choices`` have said why they end: what breaks off after that takes nothing away."""
        return len(self._choices) == choices and all(one.finish_reason for one in self._choices.values())

    def _add_rare(self, choice: "_Growing", delta: Delta) -> None:
        for text, name in ((delta.reasoning, "reasoning"), (delta.refusal, "refusal")):
            if text:
                self._spend(_size(text))
                choice.rare_text(name).write(text)
        for fragment in delta.tool_calls or ():
            self._spend(_OVERHEAD_BYTES + len(msgspec.json.encode(fragment)))
            choice.add_tool_fragment(fragment)
        if delta.logprobs:
            self._spend(len(msgspec.json.encode(delta.logprobs)))
            for key, entries in delta.logprobs.items():
                if isinstance(entries, list):
                    choice.logprobs = choice.logprobs or {}
                    choice.logprobs.setdefault(key, []).extend(cast("list[Any]", entries))

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise UpstreamError(
                f"The answer is longer than {self._max_bytes} bytes.", retryable=False, code="answer_too_large"
            )


class _Growing:
    """One choice while its pieces arrive; text grows in buffers, so that tiny pieces cost no memory of their own."""

    __slots__ = ("content", "finish_reason", "logprobs", "rare", "tools")

    def __init__(self) -> None:
        self.content = StringIO()
        self.rare: dict[str, StringIO] | None = None
        self.tools: dict[int, tuple[Json, StringIO]] | None = None
        self.logprobs: dict[str, list[Any]] | None = None
        self.finish_reason: str | None = None

    def rare_text(self, name: str) -> StringIO:
        """The buffer of text that most answers have none of, made when it is needed: streams rest by the thousand."""
        self.rare = self.rare or {}
        return self.rare.setdefault(name, StringIO())

    def add_tool_fragment(self, fragment: Json) -> None:
        place = fragment.get("index", 0)
        self.tools = self.tools or {}
        if place not in self.tools:
            self.tools[place] = ({"id": "", "type": "function", "name": ""}, StringIO())
        head, arguments = self.tools[place]
        function: Json = fragment.get("function") or {}
        head["id"] = head["id"] or fragment.get("id") or ""
        head["name"] = head["name"] or function.get("name") or ""
        arguments.write(function.get("arguments") or "")

    def finished(self, index: int) -> Choice:
        calls: list[Json] = [
            {
                "id": head["id"],
                "type": head["type"],
                "function": {"name": head["name"], "arguments": arguments.getvalue()},
            }
            for _, (head, arguments) in sorted((self.tools or {}).items())
        ]
        rare = {name: buffer.getvalue() for name, buffer in (self.rare or {}).items()}
        return Choice(
            index=index,
            content=self.content.getvalue() or (None if calls else ""),
            reasoning=rare.get("reasoning"),
            tool_calls=calls,
            finish_reason=self.finish_reason or ("tool_calls" if calls else "stop"),
            refusal=rare.get("refusal"),
            logprobs=self.logprobs,
        )


_DECODER = msgspec.json.Decoder()
_OVERHEAD_BYTES = 64
"""Charged for each choice and tool fragment, so that empty ones cannot be sent without end."""


def _index(choice: Choice) -> int:
    return choice.index


def _shown(choice: Choice) -> canonical.Canonical:
    calls: list[canonical.Canonical] = [
        {
            "name": call["function"]["name"],
            "arguments": _jcs(tool_input(call["function"]["arguments"]), MAX_ARGUMENTS_DEPTH),
        }
        for call in choice.tool_calls
    ]
    return {"content": (choice.content or "") + (choice.refusal or ""), "tool_calls": calls}


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _jcs(value: Any, depth: int) -> str:
    """RFC 8785, but integers keep all their digits; ValueError when nested deeper than ``depth``."""
    if isinstance(value, dict):
        if depth == 0:
            raise ValueError("too deep")
        items = sorted(cast("Json", value).items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_text(key)}:{_jcs(item, depth - 1)}" for key, item in items) + "}"
    if isinstance(value, list):
        if depth == 0:
            raise ValueError("too deep")
        return "[" + ",".join(_jcs(item, depth - 1) for item in cast("list[Any]", value)) + "]"
    return _float(value) if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _float(value: float) -> str:
    """A double as ECMAScript's Number::toString writes it: Python's digits are the same, its layout is not."""
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, digit_tuple)).rstrip("0")
    point = len(digit_tuple) + cast("int", exponent)
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text
