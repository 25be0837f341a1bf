"""What a parsed request hands to the answer path, the same for every chat-like wire format.

``prsm`` is this node's own extension field of a request body; its values may also come in headers
(``x-prsm-max-cost-micro``, ``x-prsm-session``), read by the two parsers here.
"""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from prsm.agents.call import Json
from prsm.api.wire.limits import convert
from prsm.core.errors import InvalidRequest
from prsm.core.money import MAX_AMOUNT_MICRO


class PrsmExtension(Struct, frozen=True, forbid_unknown_fields=True):
    """The ``prsm`` object of a request: a spend cap for this request, and the session to continue."""

    max_cost_micro: Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MICRO)] | None = None
    session_id: UUID | None = None


class ParsedCall(Struct, frozen=True):
    """One chat question, checked, in OpenAI chat form.

    ``options`` is everything but model, messages, stream, stream_options, prsm and the limit of output tokens, which
    stands in ``max_output_tokens`` alone: under two names, an upstream could obey the larger one.
    """

    model: str
    messages: list[Json]
    options: Json
    stream: bool = False
    include_usage: bool = False
    max_output_tokens: int | None = None
    n: int = 1
    prsm: PrsmExtension = PrsmExtension()


def take_extension(body: Json) -> PrsmExtension:
    """Remove ``prsm`` from ``body`` and check it."""
    value = body.pop("prsm", None)
    return _NONE if value is None else convert(value, PrsmExtension, "prsm")


def refuse_foreign(body: Json, names: frozenset[str], home: str) -> None:
    """Refuse fields of another API: passed through, they would quietly contradict what this one says."""
    for name in sorted(names & body.keys()):
        raise InvalidRequest(f"`{name}` is no field of {home}.", param=name, code="unknown_parameter")


def parse_max_cost_micro(text: str) -> int:
    """The header ``x-prsm-max-cost-micro``: a whole number of micro-FTNS."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) <= MAX_AMOUNT_MICRO:
        return int(text)
    raise InvalidRequest(
        f"`x-prsm-max-cost-micro` must be a whole number of micro-FTNS from 0 to {MAX_AMOUNT_MICRO}.",
        param="x-prsm-max-cost-micro",
    )


def parse_session_id(text: str) -> UUID:
    """The header ``x-prsm-session``: a UUID in its usual 36 characters."""
    if len(text) == 36:
        try:
            return UUID(text)
        except ValueError:
            pass
    raise InvalidRequest("`x-prsm-session` must be a UUID of 36 characters.", param="x-prsm-session")


_NONE = PrsmExtension()
_MAX_DIGITS = len(str(MAX_AMOUNT_MICRO))
