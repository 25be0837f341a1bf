"""Tool calls as servers of the OpenAI form send them, put in the form that OpenAI's own clients read.

Servers leave out ids, arguments and numbers, or number every call as the first. What cannot be read as a call of a
named function is the upstream's fault.
"""

from typing import Annotated, Any
from uuid import uuid4

import msgspec

from prsm.agents.call import Json
from prsm.agents.executors.upstream_errors import bad_answer


def whole_calls(calls: list[Json]) -> list[Json]:
    """The calls of a whole answer, each with name, arguments and id. Raises UpstreamError."""
    for call in _checked(calls):
        function: Json = call.get("function") or {}
        if not function.get("name"):
            raise bad_answer("calls a tool without naming it")
        function["arguments"] = function.get("arguments") or "{}"
        call["id"] = call.get("id") or _new_id()
        call["type"] = "function"
    return calls


class Numbering:
    """Gives the pieces of one streamed choice the number of their call, and each call one id, told once."""

    __slots__ = ("_at", "_ids")

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._at: dict[int, int] = {}
        """What an upstream's own number stands for now."""

    def numbered(self, pieces: list[Json]) -> list[Json]:
        """The pieces as a client can put them together. Raises UpstreamError."""
        for piece in _checked(pieces):
            number, own_id = piece.get("index"), piece.pop("id", None)
            place = self._at.get(number) if number is not None else len(self._ids) - 1
            if place is None or place < 0 or self._begins_another(piece, place, own_id):
                place = len(self._ids)
                self._ids.append(own_id or _new_id())
                piece["id"], piece["type"] = self._ids[place], "function"
                if number is not None:
                    self._at[number] = place
            piece["index"] = place
        return pieces

    def _begins_another(self, piece: Json, place: int, own_id: str | None) -> bool:
        """Whether a piece under a known number is of a new call: it has a name, and not the id of the call before."""
        function: Json = piece.get("function") or {}
        if not function.get("name"):
            return False
        return own_id != self._ids[place] if own_id else piece.get("index") is None


def _checked(calls: list[Json]) -> list[Json]:
    """The calls, their arguments as text: some servers send an object. Raises UpstreamError for any other form."""
    try:
        read = msgspec.convert(calls, list[_ToolCall])
    except msgspec.ValidationError as error:
        raise bad_answer("calls a tool in another form than OpenAI's") from error
    for call, seen in zip(calls, read, strict=True):
        if seen.function and isinstance(seen.function.arguments, dict):
            call["function"]["arguments"] = _encode(seen.function.arguments).decode()
    return calls


def _new_id() -> str:
    return f"call_{uuid4().hex}"


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function | None = None
    index: Annotated[int, msgspec.Meta(ge=0, le=1_023)] | None = None
    id: str | None = None


_encode = msgspec.json.Encoder().encode
