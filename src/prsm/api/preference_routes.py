"""Preferences over HTTP: people say which of two answers they like better; a collection of them trains a model."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.user_routes import Limit
from prsm.core.identity import CHAT, READ, ApiKey
from prsm.node import Node
from prsm.teachers.runs.preference_book import MAX_TEXT_CHARS

COLLECTION_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}$"
_Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"^[^\x00]*$")]
_Collection = Annotated[str, Query(pattern=COLLECTION_PATTERN)]


class NewPreference(BaseModel):
    """Two answers to one prompt, and which of them is better."""

    model_config = ConfigDict(extra="forbid", strict=True)

    collection: str = Field(pattern=COLLECTION_PATTERN)
    prompt: _Text
    chosen: _Text
    rejected: _Text


class PreferenceShown(BaseModel):
    """A preference, and whose it is."""

    id: UUID
    principal_id: UUID
    collection: str
    prompt: str
    chosen: str
    rejected: str
    created_at: datetime


def preference_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node; everybody reaches what is his own, an admin all."""
    router = APIRouter(prefix="/preferences", tags=["training"])
    book = node.training.preferences

    @router.post("", status_code=201, summary="Say which of two answers is better.")
    async def add(new: NewPreference, caller: Annotated[ApiKey, door.of(CHAT)]) -> PreferenceShown:
        kept = await book.add(caller.principal_id, new.collection, new.prompt, new.chosen, new.rejected)
        return PreferenceShown.model_validate(kept, from_attributes=True)

    @router.get("", summary="The preferences of a collection, the oldest first; page by the last id seen.")
    async def list_preferences(
        caller: Annotated[ApiKey, door.of(READ)], collection: _Collection, limit: Limit = 100, after: UUID | None = None
    ) -> list[PreferenceShown]:
        whose = None if caller.is_admin else caller.principal_id
        if whose is None:
            await node.audit.seen(caller.principal_id, "preferences")
        found = await book.of(collection, limit=limit, after=after, principal_id=whose)
        return [PreferenceShown.model_validate(each, from_attributes=True) for each in found]

    @router.delete("/{preference_id}", status_code=204, summary="Take a preference back.")
    async def remove(preference_id: UUID, caller: Annotated[ApiKey, door.of(CHAT)]) -> None:
        await book.remove(preference_id, None if caller.is_admin else caller.principal_id)

    return router
