"""Learns from what was observed and said, one worker at a time, and hands the result to all.

A pass is one transaction: what it learns from is marked and the new state written together, so that nothing counts
twice and no verdict is lost, whenever a worker is killed. Who reads the state waits for nobody.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from prsm.agents.learning.fitted import Fitted, Prior, aged, general, learn, nothing, pack, unpack
from prsm.agents.learning.outcomes import READING_S, REGENERATION_S, Ended, Evidence, Reason, Seen, settled, verdict
from prsm.agents.routers.quality import MAX_CALLER_EVIDENCE, Item
from prsm.core.clock import Clock, now
from prsm.core.database import Connection, Pool
from prsm.core.errors import InvalidRequest

BATCH: Final = 5_000
"""Observed answers, and verdicts, that one pass learns from."""
_log: Any = structlog.get_logger("learning")
_LOCK = 7016
_SETTLE_S = REGENERATION_S + 30
"""When nothing more can follow from how a caller goes on: all workers have written what they had."""
_MAX_ASKS = 100_000
_STATES_KEPT = 2
_ANSWER = "a.request_id, a.model, cluster, difficulty, discrimination, caller, prompt, asked_at, answered_at, ended"
_VERDICTS = f"""
SELECT {_ANSWER}, f.score, f.reason FROM quality_feedback f
JOIN quality_answers a ON a.request_id = f.request_id AND a.ended IN ('whole', 'left')
WHERE f.pending ORDER BY f.updated_at LIMIT {BATCH} FOR UPDATE OF f SKIP LOCKED
"""  # noqa: S608 - no value comes from outside
_DUE = f"""
SELECT {_ANSWER}, EXISTS (SELECT FROM quality_feedback f WHERE f.request_id = a.request_id) AS spoken
FROM quality_answers a WHERE NOT settled AND answered_at < $1 ORDER BY answered_at LIMIT {BATCH}
"""  # noqa: S608
_ASKS = f"""
SELECT prompt, asked_at FROM quality_answers
WHERE prompt = ANY($1) AND prompt <> '' AND asked_at BETWEEN $2 AND $3 ORDER BY asked_at LIMIT {_MAX_ASKS}
"""  # noqa: S608
_LATEST = """
SELECT version, at, estimate, models, state FROM quality_states WHERE version > $1 ORDER BY version DESC LIMIT 1
"""
_TRIM = """
DELETE FROM quality_answers WHERE asked_at < $1
    OR request_id <= (SELECT request_id FROM quality_answers ORDER BY request_id DESC OFFSET $2 LIMIT 1)
"""


@dataclass(frozen=True, slots=True)
class LearnerLimits:
    """Half of what is learnt is forgotten in ``half_life_s``; observed answers are kept ``answers_kept_s``, and at most
    ``answers_max`` of them; feedback ``feedback_kept_s``. ``caller_evidence`` bounds the law of ``quality.update``.
    """

    half_life_s: float = 14 * 86_400
    answers_kept_s: int = 7 * 86_400
    answers_max: int = 500_000
    feedback_kept_s: int = 90 * 86_400
    caller_evidence: float = MAX_CALLER_EVIDENCE


@dataclass(frozen=True, slots=True)
class Version:
    """A fitted state and its number; 0 is the one before the first outcome."""

    number: int
    fitted: Fitted


class Learner:
    """Reads and writes the fitted state; one per process, of which one at a time learns."""

    def __init__(
        self, pool: Pool, *, prior: Prior, clusters: int, estimate: str, witness: int, limits: LearnerLimits,
        clock: Clock = now,
    ) -> None:  # fmt: skip
        """``prior`` gives what models start from; ``estimate`` names the difficulty estimate that items are of."""
        self._pool = pool
        self._prior = prior
        self._clusters = clusters
        self._estimate = estimate
        self._witness = witness
        self._limits = limits
        self._clock = clock

    async def latest(self, after: int = -1) -> Version | None:
        """The newest state, as it is worth now; None when it is not newer than version ``after``."""
        row = await self._pool.fetchrow(_LATEST, after)
        return await asyncio.to_thread(self._read, row) if row else None

    async def learn(self) -> int:
        """One pass; answers how many outcomes it learnt from. 0 also when another worker is at it."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(f"SELECT pg_try_advisory_xact_lock({_LOCK})"):
                return 0
            spoken = await connection.fetch(_VERDICTS)
            due = await connection.fetch(_DUE, self._clock() - timedelta(seconds=_SETTLE_S))
            if not (spoken or due):
                return 0
            explicit, weak = _verdicts(spoken), await self._settle(connection, due)
            row = await connection.fetchrow(_LATEST, -1)
            before = await asyncio.to_thread(self._read, row) if row else Version(0, self._nothing())
            evidence = self._limits.caller_evidence
            fitted = await asyncio.to_thread(learn, before.fitted, explicit, weak, self._prior, evidence)
            await self._write(connection, Version(before.number + 1, fitted))
            await connection.execute(
                "UPDATE quality_feedback SET pending = false WHERE request_id = ANY($1)",
                [each["request_id"] for each in spoken],
            )
            return len(explicit) + len(weak)

    async def tidy(self) -> None:
        """Delete what is too old or too much."""
        limits, at = self._limits, self._clock()
        await self._pool.execute(_TRIM, at - timedelta(seconds=limits.answers_kept_s), limits.answers_max)
        await self._pool.execute(
            "DELETE FROM quality_feedback WHERE updated_at < $1", at - timedelta(seconds=limits.feedback_kept_s)
        )
        # Said of what was never observed: there is nothing to learn from it.
        await self._pool.execute(
            "UPDATE quality_feedback SET pending = false WHERE pending AND updated_at < $1",
            at - timedelta(seconds=limits.answers_kept_s),
        )

    async def _settle(self, connection: Connection, due: Sequence[Any]) -> list[Evidence]:
        """What follows from observed answers whose time has come; marks them."""
        if not due:
            return []
        silent = [_seen(row) for row in due if not row["spoken"]]
        asks: defaultdict[bytes, list[datetime]] = defaultdict(list)
        if silent:
            span = timedelta(seconds=REGENERATION_S + READING_S)
            first, last = min(each.asked_at for each in silent), max(each.answered_at for each in silent)
            prompts = list({each.prompt for each in silent if each.prompt})
            for row in await connection.fetch(_ASKS, prompts, first - span, last + span):
                asks[row["prompt"]].append(row["asked_at"])
        await connection.execute(
            "UPDATE quality_answers a SET settled = true FROM unnest($1::uuid[], $2::text[]) AS d (request_id, model) "
            "WHERE a.request_id = d.request_id AND a.model = d.model",
            [row["request_id"] for row in due],
            [row["model"] for row in due],
        )
        return settled(silent, asks, self._witness)

    async def _write(self, connection: Connection, version: Version) -> None:
        fitted = version.fitted
        await connection.execute(
            "INSERT INTO quality_states (version, at, estimate, models, state) VALUES ($1, $2, $3, $4, $5)",
            version.number, fitted.at, self._estimate, list(fitted.models), await asyncio.to_thread(pack, fitted),
        )  # fmt: skip
        await connection.execute("DELETE FROM quality_states WHERE version <= $1", version.number - _STATES_KEPT)

    def _read(self, row: Any) -> Version:
        try:
            fitted = unpack(row["state"], row["models"], row["at"])
        except InvalidRequest as error:  # better to learn anew than never again
            _log.error("the fitted quality state is lost", version=row["version"], error=str(error))
            return Version(row["version"], self._nothing())
        if row["estimate"] != self._estimate:
            fitted = general(fitted, self._clusters)
        return Version(row["version"], aged(fitted, self._clock(), self._limits.half_life_s))

    def _nothing(self) -> Fitted:
        return nothing(self._clusters, self._clock())


def _verdicts(rows: Sequence[Any]) -> list[Evidence]:
    said = (verdict(_seen(row), row["score"], row["reason"] and Reason(row["reason"])) for row in rows)
    return [each for each in said if each is not None]


def _seen(row: Any) -> Seen:
    return Seen(
        request_id=row["request_id"],
        model=row["model"],
        item=Item(row["difficulty"], row["discrimination"], row["cluster"]),
        caller=row["caller"],
        prompt=row["prompt"],
        asked_at=row["asked_at"],
        answered_at=row["answered_at"],
        ended=Ended(row["ended"]),
    )
