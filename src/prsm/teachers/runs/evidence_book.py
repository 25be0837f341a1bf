"""Evaluations of versions, and what gates decided on them, as this node keeps them: nothing of it ever changes.

Bodies are kept byte for byte as they were made; whose they are stands beside them.
"""

import hashlib
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.teachers.evaluation.gate import GateRecord
from prsm.teachers.evaluation.outcomes import Evaluation, encode


class KeptEvaluation(Struct, frozen=True):
    """An evaluation of ``model@version``; ``digest`` is the SHA-256 of its body, ``run_id`` the run that made it."""

    digest: str
    model: str
    version: str
    run_id: UUID | None
    by: str
    at: datetime
    evaluation: Evaluation


class KeptDecision(Struct, frozen=True):
    """What a gate decided of ``model@version`` against the version that was stable ('' for a first one)."""

    number: int
    model: str
    version: str
    against: str
    by: str
    at: datetime
    record: GateRecord


class EvidenceBook:
    """Evidence over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep_evaluation(
        self, model: str, version: str, evaluation: Evaluation, *, run_id: UUID | None, by: str
    ) -> str:
        """Keep an evaluation; its digest. Keeping it again changes nothing. Raises CONFLICT as ``check_evaluation``."""
        body = encode(evaluation)
        digest = hashlib.sha256(body).hexdigest()
        await self._pool.execute(
            "INSERT INTO evaluations (id, model, version, run_id, by, body) VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT DO NOTHING",
            *(digest, model, version, run_id, by, body),
        )
        await self._check_kept(digest, model, version)
        return digest

    async def check_evaluation(self, model: str, version: str, evaluation: Evaluation) -> None:
        """Raise CONFLICT where it is kept as another model's: an evaluation is evidence of one version."""
        await self._check_kept(hashlib.sha256(encode(evaluation)).hexdigest(), model, version)

    async def _check_kept(self, digest: str, model: str, version: str) -> None:
        row = await self._pool.fetchrow("SELECT model, version FROM evaluations WHERE id = $1", digest)
        if row is not None and (row["model"], row["version"]) != (model, version):
            raise PrsmError(
                f"This evaluation is kept of {row['model']}@{row['version']}, and not of {model}@{version}.",
                kind=Kind.CONFLICT,
                code="evaluation_taken",
                remedy="Evaluate once more: prsm train evaluate.",
            )

    async def evaluations(self, model: str, version: str, *, limit: int = 100) -> list[KeptEvaluation]:
        """The evaluations of a version, the newest first."""
        rows = await self._pool.fetch(
            "SELECT * FROM evaluations WHERE model = $1 AND version = $2 ORDER BY at DESC, id LIMIT $3",
            *(model, version, limit),
        )
        return [_kept(row) for row in rows]

    async def evaluation(self, digest: str) -> KeptEvaluation:
        """One evaluation. Raises NOT_FOUND."""
        row = await self._pool.fetchrow("SELECT * FROM evaluations WHERE id = $1", digest)
        if row is None:
            raise PrsmError(f"There is no evaluation {digest[:64]}.", kind=Kind.NOT_FOUND, code="unknown_evaluation")
        return _kept(row)

    async def keep_decision(
        self, connection: Connection, model: str, version: str, against: str, record: GateRecord, *, by: str
    ) -> int:
        """Keep what a gate decided, overridden or not, in the transaction that moves the version; its number."""
        override = record.override
        return await connection.fetchval(
            "INSERT INTO gate_decisions (model, version, against, passed, decision, by, override_reason) "
            "VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7) RETURNING id",
            *(model, version, against, record.decision.promote, encode(record).decode(), by),
            override.reason if override else "",
        )

    async def decisions(self, model: str, *, limit: int = 100) -> list[KeptDecision]:
        """What gates decided of a model's versions, the newest first."""
        rows = await self._pool.fetch(
            "SELECT id, model, version, against, by, at, decision::text AS body FROM gate_decisions "
            "WHERE model = $1 ORDER BY id DESC LIMIT $2",
            *(model, limit),
        )
        return [_decided(row) for row in rows]


def _kept(row: Any) -> KeptEvaluation:
    evaluation = msgspec.json.decode(row["body"], type=Evaluation)
    return KeptEvaluation(row["id"], row["model"], row["version"], row["run_id"], row["by"], row["at"], evaluation)


def _decided(row: Any) -> KeptDecision:
    record = msgspec.json.decode(row["body"], type=GateRecord)
    return KeptDecision(row["id"], row["model"], row["version"], row["against"], row["by"], row["at"], record)
