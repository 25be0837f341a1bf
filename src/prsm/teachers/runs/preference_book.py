"""Which of two answers people preferred, in collections: what reward models and DPO learn from.

A preference is its giver's, who may take it back; what was trained on it by then stays trained.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from prsm.core.clock import uuid7
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError

MAX_TEXT_CHARS: Final = 20_000
_SELECT = "SELECT id, principal_id, collection, prompt, chosen, rejected, created_at FROM preferences"


class Preference(Struct, frozen=True):
    """``chosen`` was preferred to ``rejected`` as the answer to ``prompt``."""

    id: UUID
    principal_id: UUID
    collection: str
    prompt: str
    chosen: str
    rejected: str
    created_at: datetime


class PreferenceBook:
    """Preferences over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, principal_id: UUID, collection: str, prompt: str, chosen: str, rejected: str) -> Preference:
        """Keep one. Raises InvalidRequest naming the field."""
        for name, text in {"prompt": prompt, "chosen": chosen, "rejected": rejected}.items():
            if not text or len(text) > MAX_TEXT_CHARS or "\0" in text:
                raise InvalidRequest(f"{name} has 1 to {MAX_TEXT_CHARS:,} characters and no NUL.", param=name)
        if chosen == rejected:
            raise InvalidRequest("Of two answers that are the same none is preferred.", param="rejected")
        row = await self._pool.fetchrow(
            "INSERT INTO preferences (id, principal_id, collection, prompt, chosen, rejected) "
            "VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
            *(uuid7(), principal_id, collection, prompt, chosen, rejected),
        )
        return _preference(row)

    async def of(
        self, collection: str, *, limit: int, after: UUID | None = None, principal_id: UUID | None = None
    ) -> list[Preference]:
        """The preferences of a collection, the oldest first; page by the last id seen."""
        rows = await self._pool.fetch(
            f"{_SELECT} WHERE collection = $1 AND ($2::uuid IS NULL OR id > $2) "
            "AND ($3::uuid IS NULL OR principal_id = $3) ORDER BY id LIMIT $4",
            *(collection, after, principal_id, limit),
        )
        return [_preference(row) for row in rows]

    async def collections(self) -> Mapping[str, int]:
        """How many preferences each collection has."""
        rows = await self._pool.fetch(
            "SELECT collection, count(*) AS count FROM preferences GROUP BY collection ORDER BY collection"
        )
        return {row["collection"]: row["count"] for row in rows}

    async def remove(self, preference_id: UUID, principal_id: UUID | None) -> None:
        """Take one back; of one that is not ``principal_id``'s NOT_FOUND is raised. None is an admin."""
        found = await self._pool.fetchval(
            "DELETE FROM preferences WHERE id = $1 AND ($2::uuid IS NULL OR principal_id = $2) RETURNING id",
            *(preference_id, principal_id),
        )
        if found is None:
            raise PrsmError(f"There is no preference {preference_id}.", kind=Kind.NOT_FOUND, code="unknown_preference")


def _preference(row: Any) -> Preference:
    return Preference(*(row[name] for name in Preference.__struct_fields__))
