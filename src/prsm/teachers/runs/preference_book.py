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
from prsm.core.subject_keys import Erased, SubjectKey, SubjectKeys, Unreadable

MAX_TEXT_CHARS: Final = 20_000
_MAY_TRAIN: Final = """
coalesce((SELECT c.granted FROM privacy_consents c
    WHERE c.subject_id = principal_id AND c.purpose = 'training' ORDER BY c.id DESC LIMIT 1), true)
"""
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


def open_preference(row: Any, key: SubjectKey) -> Preference:
    """A preference from its row, by its giver's key."""
    values: dict[str, Any] = {name: row[name] for name in Preference.__struct_fields__}
    for name in ("prompt", "chosen", "rejected"):
        values[name] = key.open(values[name], _place(row["id"], name))
    return Preference(**values)


class PreferenceBook:
    """Preferences over a pool."""

    def __init__(self, pool: Pool, keys: SubjectKeys) -> None:
        self._pool = pool
        self._keys = keys

    async def add(self, principal_id: UUID, collection: str, prompt: str, chosen: str, rejected: str) -> Preference:
        """Keep one. Raises InvalidRequest naming the field."""
        texts = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for name, text in texts.items():
            if not text or len(text) > MAX_TEXT_CHARS or "\0" in text:
                raise InvalidRequest(f"{name} has 1 to {MAX_TEXT_CHARS:,} characters and no NUL.", param=name)
        if chosen == rejected:
            raise InvalidRequest("Of two answers that are the same none is preferred.", param="rejected")
        key, preference_id = await self._keys.key(principal_id), uuid7()
        sealed = [key.seal(text, _place(preference_id, name)) for name, text in texts.items()]
        row = await self._pool.fetchrow(
            "INSERT INTO preferences (id, principal_id, collection, prompt, chosen, rejected) "
            "VALUES ($1, $2, $3, $4, $5, $6) RETURNING *",
            *(preference_id, principal_id, collection, *sealed),
        )
        return open_preference(row, key)

    async def of(
        self, collection: str, *, limit: int, after: UUID | None = None, principal_id: UUID | None = None
    ) -> list[Preference]:
        """The preferences of a collection, the oldest first; page by the last id seen.

        Of all together (``principal_id`` None) without those of people who let nobody train on them. Fewer than
        ``limit`` are the last: those that cannot be opened any more make room for later ones.
        """
        found: list[Preference] = []
        while True:
            rows = await self._pool.fetch(
                f"{_SELECT} WHERE collection = $1 AND ($2::uuid IS NULL OR id > $2) AND ($3::uuid IS NULL OR "
                f"principal_id = $3) AND ($3 IS NOT NULL OR {_MAY_TRAIN}) ORDER BY id LIMIT $4",
                *(collection, after, principal_id, limit),
            )
            opened = [await self._opened(row) for row in rows]
            found += [preference for preference in opened if preference is not None]
            if len(rows) < limit or len(found) >= limit:
                return found[:limit]
            after = rows[-1]["id"]

    async def _opened(self, row: Any) -> Preference | None:
        """A preference as it was given; None where its giver's key is gone."""
        try:
            return open_preference(row, await self._keys.key(row["principal_id"]))
        except (Erased, Unreadable):
            return None

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


def _place(preference_id: UUID, name: str) -> str:
    return f"preference:{preference_id}:{name}"
