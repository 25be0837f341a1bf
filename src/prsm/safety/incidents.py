"""What policies stopped or put before a person: recorded before the caller is answered, appealed, decided, exported.

A reviewer's decision is a labelled example: ``examples`` gives those that were decided, to evaluate detectors on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from prsm.core.clock import uuid7
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.subject_keys import Erased, SubjectKeys, Unreadable
from prsm.safety.policy import Action, Direction, Verdict

Decision = Literal["upheld", "overturned"]


class Seen(Struct, frozen=True):
    """One category of an incident, with its probability and the action it met."""

    category: str
    score: float
    action: str


@dataclass(frozen=True, slots=True)
class Incident:
    """One recorded incident; ``texts`` only where they were asked for and are not erased."""

    id: UUID
    request_id: UUID
    account: str
    model: str
    direction: str
    action: str
    findings: tuple[Seen, ...]
    status: str
    appeal: str
    decided_by: str
    note: str
    created_at: datetime
    decided_at: datetime | None
    texts: tuple[str, ...] = ()


class IncidentBook:
    """Records and decides; the texts are sealed under the key of whose they are."""

    def __init__(self, pool: Pool, keys: SubjectKeys) -> None:
        self._pool = pool
        self._keys = keys

    async def record(
        self, request_id: UUID, account: str, model: str, direction: Direction, verdict: Verdict, texts: Sequence[str]
    ) -> None:
        """Keep what a verdict met; one that asks for a person's review waits for one."""
        incident_id = uuid7()
        findings = [Seen(one.category.value, round(one.score, 4), one.action.name.lower()) for one in verdict.findings]
        waits = verdict.action in (Action.REVIEW, Action.ESCALATE)
        key = await self._keys.of_account(account)
        await self._pool.execute(
            _RECORD,
            incident_id,
            request_id,
            account,
            model,
            direction.value,
            verdict.action.name.lower(),
            msgspec.json.encode(findings).decode(),
            key.seal(json.dumps(list(texts)), _place(incident_id)),
            "open" if waits else "recorded",
        )

    async def appeal(self, request_id: UUID, account: str, words: str) -> int:
        """Put a caller's own blocked request before a reviewer; answers how many incidents of it now wait.

        Raises PrsmError where the account has none, or all are decided.
        """
        key = await self._keys.of_account(account)
        waiting = await self._pool.fetch(_APPEAL, request_id, account, key.seal(words, f"appeal:{request_id}"))
        if not waiting:
            raise PrsmError(
                f"No undecided incident of request {request_id} is yours.",
                kind=Kind.NOT_FOUND,
                code="no_incident",
                remedy="Give the x-request-id of a request that was blocked.",
                param="request_id",
            )
        return len(waiting)

    async def decide(self, incident_id: UUID, decision: Decision, *, by: str, note: str) -> Incident:
        """Uphold or overturn; deciding again replaces the decision. Raises PrsmError where there is none such."""
        row = await self._pool.fetchrow(_DECIDE, incident_id, decision, by, note)
        if row is None:
            raise _unknown(incident_id)
        return await self._opened(row)

    async def get(self, incident_id: UUID) -> Incident:
        """One incident with its texts."""
        row = await self._pool.fetchrow(_GET, incident_id)
        if row is None:
            raise _unknown(incident_id)
        return await self._opened(row, texts=True)

    async def listed(
        self, *, status: str | None = None, account: str | None = None, limit: int = 100
    ) -> list[Incident]:
        """Incidents without their texts, the oldest that wait first, then the newest."""
        return [await self._opened(row) for row in await self._pool.fetch(_LIST, status, account, limit)]

    async def examples(self, limit: int = 10_000) -> list[Incident]:
        """Those that a person has decided, with their texts: labelled examples to evaluate detectors on."""
        return [await self._opened(row, texts=True) for row in await self._pool.fetch(_DECIDED, limit)]

    async def _opened(self, row: Any, *, texts: bool = False) -> Incident:
        """An incident; of what was said by somebody whose key is gone nothing is left."""
        appeal, said = "", list[str]()
        try:
            key = await self._keys.of_account(row["account"])
            appeal = key.open(row["appeal"], f"appeal:{row['request_id']}")
            if texts and row["texts"] is not None:  # json, for msgspec refuses the lone surrogates that a text may hold
                said = json.loads(key.open(row["texts"], _place(row["id"])))
        except (Erased, Unreadable):
            pass
        return Incident(
            row["id"],
            row["request_id"],
            row["account"],
            row["model"],
            row["direction"],
            row["action"],
            tuple(msgspec.json.decode(row["findings"], type=list[Seen])),
            row["status"],
            appeal,
            row["decided_by"],
            row["note"],
            row["created_at"],
            row["decided_at"],
            tuple(said),
        )


def _place(incident_id: UUID) -> str:
    return f"incident:{incident_id}"


def _unknown(incident_id: UUID) -> PrsmError:
    return PrsmError(f"There is no incident {incident_id}.", kind=Kind.NOT_FOUND, code="no_incident")


_RECORD = """
INSERT INTO safety_incidents (id, request_id, account, model, direction, action, findings, texts, status)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9)
"""
_COLUMNS = """id, request_id, account, model, direction, action, findings::text AS findings, status, appeal, decided_by,
    note, created_at, decided_at"""
_APPEAL = """
UPDATE safety_incidents SET status = 'open', appeal = $3
WHERE request_id = $1 AND account = $2 AND status IN ('recorded', 'open') RETURNING id
"""
_DECIDE = f"""
UPDATE safety_incidents SET status = $2, decided_by = $3, note = $4, decided_at = now() WHERE id = $1
RETURNING {_COLUMNS}
"""  # noqa: S608 - constants
_GET = f"SELECT {_COLUMNS}, texts FROM safety_incidents WHERE id = $1"  # noqa: S608 - constants
_LIST = f"""
SELECT {_COLUMNS} FROM safety_incidents
WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR account = $2)
ORDER BY status <> 'open', CASE WHEN status = 'open' THEN created_at END, created_at DESC LIMIT $3
"""  # noqa: S608 - constants
_DECIDED = f"""
SELECT {_COLUMNS}, texts FROM safety_incidents WHERE status IN ('upheld', 'overturned') ORDER BY decided_at LIMIT $1
"""  # noqa: S608 - constants
