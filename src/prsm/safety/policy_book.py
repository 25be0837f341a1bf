"""The policies in force, of node, keys and models: written to PostgreSQL with who and why, read from memory.

Every worker reads them anew when one changes; nothing is ever overwritten, the latest of each scope counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from prsm.core.database import Pool
from prsm.core.events import emit
from prsm.safety.policy import Policy, digest

CHANGED: Final = "safety.policies.changed"
NODE: Final = "node"
_KEY, _MODEL = "key:", "model:"


class InForce(Struct, frozen=True):
    """The policies that hold for a request, and their digest as receipts name it."""

    policies: tuple[Policy, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Written:
    """One change of a scope's policy; None took it away."""

    scope: str
    policy: Policy | None
    by: str
    reason: str
    at: datetime


def of_key(api_key_id: UUID) -> str:
    """The scope of an API key."""
    return f"{_KEY}{api_key_id}"


def of_model(name: str) -> str:
    """The scope of an instance or a registered model."""
    return f"{_MODEL}{name}"


class PolicyBook:
    """Read with ``reload`` before the first use; ``usual`` is the node's policy until one is written."""

    def __init__(self, pool: Pool, usual: Policy) -> None:
        self._pool = pool
        self._usual = usual
        self._by_scope: Mapping[str, Policy] = {}
        self._together: dict[tuple[str, ...], InForce] = {}

    @property
    def is_by_model(self) -> bool:
        """Whether it depends on the model what holds for a request."""
        return any(scope.startswith(_MODEL) for scope in self._by_scope)

    def in_force(self, api_key_id: UUID, *models: str) -> InForce:
        """All policies that hold for a request of this key to this model, under any of its names."""
        known = self._by_scope
        asked = (of_key(api_key_id), *map(of_model, models)) if known else ()
        scopes = tuple(scope for scope in asked if scope in known)
        found = self._together.get(scopes)
        if found is None:
            policies = (known.get(NODE, self._usual), *(known[scope] for scope in scopes))
            found = self._together[scopes] = InForce(policies, digest(policies))
        return found

    async def reload(self) -> None:
        """Read what counts now."""
        rows = await self._pool.fetch(_IN_FORCE)
        self._by_scope = {row["scope"]: msgspec.json.decode(row["policy"], type=Policy) for row in rows}
        self._together = {}

    async def write(self, scope: str, policy: Policy | None, *, by: str, reason: str) -> None:
        """Put ``policy`` in force for ``scope``, or None; every worker hears of it."""
        document = None if policy is None else msgspec.json.encode(policy).decode()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_WRITE, scope, document, by, reason)
            await emit(connection, CHANGED, {"scope": scope})
        await self.reload()

    async def history(self, scope: str | None = None, limit: int = 100) -> list[Written]:
        """The changes, the newest first."""
        return [_written(row) for row in await self._pool.fetch(_HISTORY, scope, limit)]

    async def current(self) -> list[Written]:
        """What is in force, by scope; the node's own preset is not among it."""
        return [_written(row) for row in await self._pool.fetch(_IN_FORCE)]


def _written(row: Any) -> Written:
    policy = None if row["policy"] is None else msgspec.json.decode(row["policy"], type=Policy)
    return Written(row["scope"], policy, row["by"], row["reason"], row["at"])


_IN_FORCE = """
SELECT scope, policy::text AS policy, by, reason, at FROM (
    SELECT DISTINCT ON (scope) * FROM safety_policies ORDER BY scope, id DESC
) AS latest WHERE policy IS NOT NULL ORDER BY scope
"""
_WRITE = "INSERT INTO safety_policies (scope, policy, by, reason) VALUES ($1, $2::text::jsonb, $3, $4)"
_HISTORY = """
SELECT scope, policy::text AS policy, by, reason, at FROM safety_policies
WHERE $1::text IS NULL OR scope = $1 ORDER BY id DESC LIMIT $2
"""
