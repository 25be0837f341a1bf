"""What is kept no longer than it should be, and sealed if it is from before content was: bounded steps, done again.

Other rooms forget their own by themselves (feedback, observed answers, idempotent answers, cached ones, quotes); here
is what nobody else looks after.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from prsm.core.database import Pool
from prsm.core.subject_keys import Erased, SubjectKey, SubjectKeys
from prsm.safety.audit.log_book import note

RETENTION: Final = "privacy.retention"
"""The event of something's having been kept long enough."""
_STEP: Final = 500
_OLD: Final = {
    "conversations": "DELETE FROM conversations WHERE id IN (SELECT id FROM conversations "
    "WHERE updated_at < now() - make_interval(days => $1) LIMIT $2)",
    "safety_incidents": "DELETE FROM safety_incidents WHERE id IN (SELECT id FROM safety_incidents "
    "WHERE created_at < now() - make_interval(days => $1) LIMIT $2)",
    "preferences": "DELETE FROM preferences WHERE id IN (SELECT id FROM preferences "
    "WHERE created_at < now() - make_interval(days => $1) LIMIT $2)",
}
_UNSEALED: Final = "<> '' AND {column} NOT LIKE 'sealed:v1:%'"


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """Days after which rows go; 0: they stay until somebody takes them away."""

    conversations_days: int
    preferences_days: int
    incidents_days: int


@dataclass(frozen=True, slots=True)
class _Column:
    table: str
    key: str
    column: str
    subject: str
    place: Callable[[Any], str]


_COLUMNS: Final = (
    _Column("principals", "id", "name", "id", lambda _: "name"),
    _Column("api_keys", "id", "name", "principal_id", lambda _: "name"),
    _Column("quality_feedback", "request_id", "comment", "principal_id", lambda row: f"comment:{row['key']}"),
    *(
        _Column("preferences", "id", name, "principal_id", lambda row, name=name: f"preference:{row['key']}:{name}")
        for name in ("prompt", "chosen", "rejected")
    ),
)


class Retention:
    """Enforces the rules on one database; any worker may take a step."""

    def __init__(self, pool: Pool, keys: SubjectKeys, rules: RetentionRules) -> None:
        self._pool = pool
        self._keys = keys
        self._sealed = False
        self._days = {
            "conversations": rules.conversations_days,
            "preferences": rules.preferences_days,
            "safety_incidents": rules.incidents_days,
        }

    async def step(self) -> int:
        """Do all that is due; answers how many rows were taken away or sealed."""
        gone = {table: await self._forget(table, days) for table, days in self._days.items() if days}
        if any(gone.values()):
            await note(self._pool, RETENTION, **{table: str(count) for table, count in gone.items() if count})
        return sum(gone.values()) + await self._seal_all()

    async def _seal_all(self) -> int:
        """Seal what is from before; once nothing was found, nothing more can come but by hand, until the next start."""
        if self._sealed:
            return 0
        done = [await _all(lambda column=column: self._seal(column)) for column in _COLUMNS]
        total = sum(done) + await _all(self._seal_turns)
        self._sealed = not total
        return total

    async def _forget(self, table: str, days: int) -> int:
        async def some() -> int:
            return int((await self._pool.execute(_OLD[table], days, _STEP)).split()[-1])

        return await _all(some)

    async def _seal(self, of: _Column) -> int:
        """Seal texts that a version before this one, or somebody by hand, has stored as they were."""
        rows = await self._pool.fetch(
            f"SELECT {of.key} AS key, {of.subject} AS subject, {of.column} AS text FROM {of.table} "  # noqa: S608
            f"WHERE {of.column} {_UNSEALED.format(column=of.column)} LIMIT {_STEP}"
        )
        for row in rows:
            key = await self._key(row["subject"])
            text = key.seal(row["text"], of.place(row)) if key else ""
            await self._pool.execute(
                f"UPDATE {of.table} SET {of.column} = $2 WHERE {of.key} = $1 AND {of.column} = $3",  # noqa: S608
                *(row["key"], text, row["text"]),
            )
        return len(rows)

    async def _seal_turns(self) -> int:
        rows = await self._pool.fetch(
            "SELECT t.request_id, c.principal_id, t.messages::text AS text FROM conversation_turns t "
            "JOIN conversations c ON c.id = t.conversation_id WHERE json_typeof(t.messages) = 'array' LIMIT $1",
            _STEP,
        )
        for row in rows:
            key = await self._key(row["principal_id"])
            text = key.seal(row["text"], f"turn:{row['request_id']}") if key else ""
            await self._pool.execute(
                "UPDATE conversation_turns SET messages = to_json($2::text) WHERE request_id = $1",
                *(row["request_id"], text),
            )
        return len(rows)

    async def _key(self, subject: UUID) -> SubjectKey | None:
        try:
            return await self._keys.key(subject)
        except Erased:
            return None


async def _all(step: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while done := await step():
        total += done
    return total
