"""What a parsed request hands to the answer path, the same for every chat-like wire format.

``prsm`` is this node's own extension field of a request body; its values may also come in headers
(``x-prsm-max-cost-micro``, ``x-prsm-session``, ``x-prsm-policy``), read by the parsers here.
"""

from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from prsm.agents.call import Json
from prsm.agents.plan import CacheWish
from prsm.agents.routers.policy import Policy
from prsm.api.wire.limits import convert
from prsm.core.errors import InvalidRequest
from prsm.core.money import MAX_AMOUNT_MICRO


class PrsmExtension(Policy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``prsm`` object of a request: a policy, a spend cap for this request, the session to continue, a quote,
    and whether an earlier answer will do.
    """

    max_cost_micro: Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MICRO)] | None = None
    session_id: UUID | None = None
    quote_id: UUID | None = None
    cache: CacheWish | None = None


class ParsedCall(Struct, frozen=True):
    """One chat question, checked, in OpenAI chat form.

    ``options`` is everything but model, messages, stream, stream_options, prsm and the limit of output tokens, which
    stands in ``max_output_tokens`` alone: under two names, an upstream could obey the larger one. Where ``instructed``,
    the first message is for this request alone and no part of the conversation.
    """

    model: str
    messages: list[Json]
    options: Json
    stream: bool = False
    include_usage: bool = False
    max_output_tokens: int | None = None
    n: int = 1
    instructed: bool = False
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


def policy_of(extension: PrsmExtension, header: str | None) -> Policy | None:
    """What the caller asks of whoever answers; None for nothing. What the header says goes before the body.

    The header ``x-prsm-policy`` has the fields of ``prsm`` as ``name=value`` apart by semicolons, names within a value
    by commas: ``min_quality=0.8; regions=eu,us``. Raises InvalidRequest naming the field.
    """
    if header is None and extension is _NONE:
        return None
    asked = {name: value for name in _POLICY if (value := getattr(extension, name)) not in (None, ())}
    if header is not None:
        asked |= _header_fields(header)
    return Policy(**asked) if asked else None


def parse_session_id(text: str) -> UUID:
    """The header ``x-prsm-session``: a UUID in its usual 36 characters."""
    if len(text) == 36:
        try:
            return UUID(text)
        except ValueError:
            pass
    raise InvalidRequest("`x-prsm-session` must be a UUID of 36 characters.", param="x-prsm-session")


def _header_fields(text: str) -> Json:
    """The fields that ``x-prsm-policy`` gives, checked."""
    given: Json = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, separator, value = (each.strip() for each in part.partition("="))
        if not separator or name in given:
            raise InvalidRequest(
                f"`{_POLICY_HEADER}` is name=value, apart by semicolons, each name once.", param=_POLICY_HEADER
            )
        given[name] = [each.strip() for each in value.split(",")] if name in _LISTS else value
    checked = convert(given, _HeaderPolicy, _POLICY_HEADER, strict=False)
    return {name: getattr(checked, name) for name in given}


class _HeaderPolicy(Policy, frozen=True, forbid_unknown_fields=True):
    pass


_NONE = PrsmExtension()
_POLICY = Policy.__struct_fields__
_LISTS = frozenset(name for name in _POLICY if getattr(_NONE, name) == ())
_POLICY_HEADER = "x-prsm-policy"
_MAX_DIGITS = len(str(MAX_AMOUNT_MICRO))
