"""What any request body must satisfy before its meaning is read: size, encoding, JSON, depth, no NUL; then types.

A body is decoded once, and its known fields are checked against typed structs on the decoded value, so that
what was checked is what is used. The happy path pays for a decode and two byte counts; every explanation is
worked out only after something was refused, and never repeats the caller's text.
"""

import re
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, inspect

from prsm.agents.call import Json
from prsm.core.errors import InvalidRequest, Kind

MAX_DEPTH = 64
MAX_MESSAGES = 4096
MAX_TOOLS = 1024
MAX_CHOICES = 16
MAX_STOPS = 16
MAX_NAME_CHARS = 256

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
Stops = Annotated[list[str], Meta(max_length=MAX_STOPS)]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]

T = TypeVar("T")


def decode(body: bytes, max_bytes: int) -> Json:
    """The JSON object in ``body``; raises InvalidRequest naming the limit that it breaks."""
    if len(body) > max_bytes:
        raise InvalidRequest(
            f"The request body has {len(body)} bytes; at most {max_bytes} are accepted.",
            kind=Kind.TOO_LARGE,
            code="request_too_large",
            remedy="Send a shorter conversation or smaller attachments.",
        )
    try:
        value = _DECODER.decode(body)
    except (ValueError, RecursionError) as error:
        raise _explain(body, error) from None
    if type(value) is not dict:
        raise InvalidRequest("The request body must be a JSON object.")
    # Each level of nesting costs one opening bracket, so few brackets prove a shallow value without walking it.
    if body.count(_BRACE) + body.count(_BRACKET) > MAX_DEPTH and deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    # A raw NUL byte is no JSON; an escaped one is, and PostgreSQL's text cannot hold it.
    if b"\\" in body and b"\\u0000" in body:
        _refuse_nul(value)
    return cast("Json", value)


def convert(value: Any, type_: type[T], at: str = "", *, strict: bool = True) -> T:
    """``value`` checked as ``type_``; raises InvalidRequest with ``param``, the path from ``at`` on.

    Where not ``strict``, numbers may be written as text.
    """
    try:
        return msgspec.convert(value, type_, strict=strict)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), at, type_, value) from None


def deeper_than(value: Any, depth: int) -> bool:
    """True when the object or array ``value`` nests objects and arrays more than ``depth`` deep, itself counted."""
    level = [value]
    for _ in range(depth):
        level = [
            item
            for box in level
            for item in (cast("Json", box).values() if type(box) is dict else box)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True


_DECODER = msgspec.json.Decoder()
_BRACE, _BRACKET = b"{["
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_AT = re.compile(r" - at `(?P<path>[^`]*)`$|(?P<key> - at `key`) in `(?P<holder>[^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "array": "array"}
_PYTHON_WORD = re.compile(r"\b(str|int|float|bool)\b")
"""Msgspec speaks of Python's types; a caller of an HTTP API knows JSON's."""


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The request body nests objects and arrays more than {MAX_DEPTH} deep.", remedy="Send a flatter body."
    )


def _explain(body: bytes, error: Exception) -> InvalidRequest:
    if isinstance(error, RecursionError):
        return _too_deep()
    if not body.strip():
        return InvalidRequest("The request body is empty; a JSON object is expected.")
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return InvalidRequest(f"The request body is not UTF-8 (byte {wrong.start}).")
    if _LONE_SURROGATE.search(_SURROGATE_PAIR.sub(b"", body.replace(b"\\\\", b""))):
        return InvalidRequest(
            "The request body holds half of a UTF-16 surrogate pair (like \\ud800), which is no character.",
            remedy="Encode the text as UTF-8, or escape both halves.",
        )
    reason = _AT.sub("", str(error).removeprefix("JSON is malformed: "))
    return InvalidRequest(f"The request body is not valid JSON: {reason[:1].lower()}{reason[1:]}.")


def _refuse_nul(root: Any) -> None:
    """Walk ``root`` to tell an escaped NUL from an escaped backslash before ``u0000``, and to name its place."""
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            if "\0" in value:
                raise InvalidRequest("Text must not hold the NUL character (\\u0000).", param=path or None)
        elif isinstance(value, dict):
            for key, item in cast("Json", value).items():
                if "\0" in key:
                    raise InvalidRequest("Keys must not hold the NUL character (\\u0000).", param=path or None)
                stack.append((f"{path}.{key[:MAX_NAME_CHARS]}" if path else key[:MAX_NAME_CHARS], item))
        elif isinstance(value, list):
            stack.extend((f"{path}[{place}]", item) for place, item in enumerate(cast("list[Any]", value)))


def _wrong_type(text: str, at: str, type_: Any, value: Any) -> InvalidRequest:
    """Msgspec's sentence as one of ours: ``Expected `int` >= 1 - at `$.n``` becomes ``n``: expected integer >= 1."""
    path = ""
    if found := _AT.search(text):
        path = found["path"] or found["holder"]
        text = text[: found.start()] + (" for each key" if found["key"] else "")
    param = (at + path.removeprefix("$")).removeprefix(".")
    if found := _MISSING.match(text):
        param = f"{param}.{found['name']}".removeprefix(".")
        return InvalidRequest(f"`{param}` is required.", param=param, code="missing_required_parameter")
    if found := _UNKNOWN.match(text):
        param = f"{param}.{found['name'][:64]}".removeprefix(".")
        return InvalidRequest(f"`{param}` is not a known field.", param=param, code="unknown_parameter")
    if text.startswith(("Invalid value", "Invalid enum value")):
        # The sentence would repeat the caller's value, which has no bound and is no business of a log.
        allowed = ", ".join(sorted(_allowed(type_, path, value)))
        text = f"expected one of {allowed}" if allowed else "not a value allowed here"
    words = _PYTHON_WORD.sub(lambda word: _JSON_WORDS[word[0]], text).replace("`", "")
    words = words[:1].lower() + words[1:]
    place = f"`{param}`" if param else "The request body"
    return InvalidRequest(f"{place}: {words}.", param=param or None)


def _allowed(type_: Any, path: str, value: Any) -> set[str]:
    """The strings that ``type_`` allows at ``path`` (``$.messages[0].role``): its literals and union tags.

    On the way there, the tags that ``value`` has tell which members of a union are meant.
    """
    nodes = _members(inspect.type_info(type_))
    found: set[str] = set()
    for name, place in _STEP.findall(path):
        meant = [node for node in nodes if isinstance(node, inspect.StructType) and _has_tag(node, value)]
        nodes = meant or nodes
        inner: list[inspect.Type] = []
        for node in nodes:
            if isinstance(node, inspect.StructType) and name:
                if node.tag_field == name:
                    found.add(str(node.tag))
                inner += [
                    member for field in node.fields if field.encode_name == name for member in _members(field.type)
                ]
            elif isinstance(node, inspect.ListType) and not name:
                inner += _members(node.item_type)
            elif isinstance(node, inspect.DictType) and not name:
                inner += _members(node.value_type)
        nodes, value = inner, _step_into(value, name, place)
    found.update(str(value) for node in nodes if isinstance(node, inspect.LiteralType) for value in node.values)
    return found


def _members(node: inspect.Type) -> list[inspect.Type]:
    return list(node.types) if isinstance(node, inspect.UnionType) else [node]


def _has_tag(node: inspect.StructType, value: Any) -> bool:
    return (
        node.tag_field is not None and isinstance(value, dict) and cast("Json", value).get(node.tag_field) == node.tag
    )


def _step_into(value: Any, name: str, place: str) -> Any:
    """What stands in ``value`` under a name or a number; None where the path does not tell (a key of an object)."""
    if name:
        return cast("Json", value).get(name) if isinstance(value, dict) else None
    return cast("list[Any]", value)[int(place)] if place.isdecimal() and isinstance(value, list) else None
