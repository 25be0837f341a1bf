"""The list of models as OpenAI and as Anthropic clients read it; which of the two is decided by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from prsm.agents.call import Json
from prsm.core.errors import InvalidRequest

DEFAULT_PAGE = 20
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as it is listed. ``prsm`` holds what only this node says: prices, capabilities, health."""

    id: str
    created: datetime
    owned_by: str
    display_name: str = ""
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    prsm: Json = field(default_factory=dict[str, Any])


def openai_list(entries: Sequence[ModelEntry]) -> bytes:
    """``GET /v1/models``."""
    return msgspec.json.encode({"object": "list", "data": [_openai(entry) for entry in entries]})


def openai_model(entry: ModelEntry) -> bytes:
    """``GET /v1/models/{id}``."""
    return msgspec.json.encode(_openai(entry))


def anthropic_list(
    entries: Sequence[ModelEntry],
    *,
    limit: int = DEFAULT_PAGE,
    after_id: str | None = None,
    before_id: str | None = None,
) -> bytes:
    """``GET /v1/models`` with ``anthropic-version``: the page of ``entries`` after or before an id."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"`limit`: expected integer from 1 to {MAX_PAGE}.", param="limit")
    if after_id is not None and before_id is not None:
        raise InvalidRequest("`after_id` and `before_id` exclude each other.", param="before_id")
    if before_id is not None:
        end = _place(entries, before_id, "before_id")
        page, more = entries[max(0, end - limit) : end], end > limit
    else:
        begin = 0 if after_id is None else _place(entries, after_id, "after_id") + 1
        page, more = entries[begin : begin + limit], begin + limit < len(entries)
    return msgspec.json.encode(
        {
            "data": [_anthropic(entry) for entry in page],
            "has_more": more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
    )


def anthropic_model(entry: ModelEntry) -> bytes:
    """``GET /v1/models/{id}`` with ``anthropic-version``."""
    return msgspec.json.encode(_anthropic(entry))


def _place(entries: Sequence[ModelEntry], model_id: str, param: str) -> int:
    for place, entry in enumerate(entries):
        if entry.id == model_id:
            return place
    raise InvalidRequest(f"`{param}` names no model in this list.", param=param)


def _openai(entry: ModelEntry) -> Json:
    return {
        "id": entry.id,
        "object": "model",
        "created": int(entry.created.timestamp()),
        "owned_by": entry.owned_by,
        "prsm": entry.prsm,
    }


def _anthropic(entry: ModelEntry) -> Json:
    return {
        "type": "model",
        "id": entry.id,
        "display_name": entry.display_name or entry.id,
        "created_at": entry.created,
        "lifecycle": "active",
        "max_input_tokens": entry.context_tokens,
        "max_tokens": entry.max_output_tokens,
        "prsm": entry.prsm,
    }
