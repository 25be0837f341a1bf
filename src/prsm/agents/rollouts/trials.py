"""The trials that run on this node: counted in memory, added up in PostgreSQL, ended when a limit is certainly broken.

Every worker counts what it saw and adds it once a second; whoever adds reads the sums of all and judges by them. What a
killed worker had not added yet is lost to the trial, nothing else is.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog

from prsm.agents.rollouts.assignment import CANDIDATE, SHADOW, STABLE
from prsm.agents.rollouts.evidence import Mean
from prsm.agents.rollouts.trial import PREFERRED, Limits, judge
from prsm.core.clock import uuid7
from prsm.core.database import Pool

Ratings = Callable[["Trial"], Awaitable[Mapping[str, Mean]]]
"""What callers said of the answers of a trial, by arm."""
Withdraw = Callable[[str, str, str], Awaitable[None]]
"""Takes the share of a model's candidate away: model, candidate, the sentence why. Idempotent."""
_log: Any = structlog.get_logger("rollouts")


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate beside the stable version of one model; ``counts`` by arm and metric, as last read."""

    id: UUID
    model: str
    stable: str
    candidate: str
    limits: Limits
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    counts: Mapping[tuple[str, str], Mean] = field(default_factory=dict[tuple[str, str], Mean])


class Trials:
    """Opens, counts, judges and ends trials; ``withdraw`` is the registry's."""

    def __init__(self, pool: Pool, withdraw: Withdraw, ratings: Ratings) -> None:
        self._pool = pool
        self._withdraw = withdraw
        self._ratings = ratings
        self._waiting: dict[tuple[UUID, str, str], Mean] = {}
        self.open: Mapping[str, Trial] = {}
        """Those that run, by model."""

    async def start(self, model: str, stable: str, candidate: str, limits: Limits) -> None:
        """Open a trial; one of the same two versions goes on with new limits, another one of the model ends."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7013))", f"rollout:{model}")
            await connection.execute(_END_OTHERS, model, stable, candidate, "Another trial took its place.")
            await connection.execute(_OPEN, uuid7(), model, stable, candidate, msgspec.json.encode(limits).decode())
        await self.reload()

    async def end(self, model: str, reason: str) -> None:
        """End the model's trial, where there is one."""
        await self._pool.execute(_END, model, reason[:1000])
        await self.reload()

    async def reload(self) -> None:
        """Read the open trials with their sums."""
        self.open = {trial.model: trial for trial in await self._read("ended_at IS NULL")}

    async def history(self, model: str, limit: int = 20) -> list[Trial]:
        """The model's trials, the newest first."""
        return await self._read("model = $1", model, limit=limit)

    def answered(self, model: str, arm: str, *, ok: bool, first_token_ms: float | None) -> None:
        """Count one answer: whether it failed and, where it did not, whether it was slow."""
        trial = self.open.get(model)
        if trial is None:
            return
        self._count(trial, arm, "error", float(not ok))
        if ok and first_token_ms is not None:
            self._count(trial, arm, "slow", float(first_token_ms >= trial.limits.slow_ms))

    def seen(self, model: str, version: str, *, ok: bool, first_token_ms: float | None) -> None:
        """Count an answer by the version that gave it; one that takes no part in a trial counts nowhere."""
        if (arm := self._arm(model, version)) is not None:
            self.answered(model, arm, ok=ok, first_token_ms=first_token_ms)

    def compared(self, model: str, candidate: str, preference: float) -> None:
        """Count a judge's word on a copy's answer beside the one given: 1 where the copy's is better, 0.5 for a tie."""
        trial = self.open.get(model)
        if trial is not None and trial.candidate == candidate:
            self._count(trial, SHADOW, PREFERRED, preference)

    async def settle(self) -> None:
        """Add what was counted, read the sums of all workers, and withdraw every candidate that broke a limit."""
        await self._add()
        await self.reload()
        for trial in tuple(self.open.values()):
            await self._judge(trial)

    async def _add(self) -> None:
        if not self._waiting:
            return
        taken, self._waiting = self._waiting, {}
        rows = [(*key, mean.count, mean.total) for key, mean in taken.items()]
        try:
            await self._pool.execute(_ADD, *map(list, zip(*rows, strict=True)))
        except BaseException:
            for key, mean in taken.items():
                late = self._waiting.get(key, Mean())
                self._waiting[key] = Mean(mean.count + late.count, mean.total + late.total)
            raise

    def _count(self, trial: Trial, arm: str, metric: str, value: float) -> None:
        key = trial.id, arm, metric
        self._waiting[key] = self._waiting.get(key, Mean()).plus(value)

    def _arm(self, model: str, version: str) -> str | None:
        trial = self.open.get(model)
        return {trial.stable: STABLE, trial.candidate: CANDIDATE}.get(version) if trial else None

    async def _judge(self, trial: Trial) -> None:
        for arm in (CANDIDATE, SHADOW):
            verdict = judge(trial.counts, trial.limits, arm)
            if verdict.withdraw:
                _log.warning("candidate withdrawn", model=trial.model, candidate=trial.candidate, reason=verdict.reason)
                await self._withdraw(trial.model, trial.candidate, verdict.reason)
                await self.end(trial.model, verdict.reason)
                return

    async def _read(self, condition: str, *arguments: Any, limit: int = 1000) -> list[Trial]:
        rows: Sequence[Any] = await self._pool.fetch(
            f"SELECT * FROM rollout_trials WHERE {condition} ORDER BY id DESC LIMIT {limit:d}",  # noqa: S608 - constants
            *arguments,
        )
        if not rows:
            return []
        counted = await self._pool.fetch(
            "SELECT * FROM rollout_counts WHERE trial_id = ANY ($1::uuid[])", [row["id"] for row in rows]
        )
        trials = [_trial(row, [count for count in counted if count["trial_id"] == row["id"]]) for row in rows]
        return [replace(trial, counts={**trial.counts, **await self._rated(trial)}) for trial in trials]

    async def _rated(self, trial: Trial) -> dict[tuple[str, str], Mean]:
        return {(arm, "quality"): mean for arm, mean in (await self._ratings(trial)).items()}


_END_OTHERS = """
UPDATE rollout_trials SET ended_at = now(), reason = $4
WHERE model = $1 AND ended_at IS NULL AND (stable, candidate) <> ($2, $3)
"""
_OPEN = """
INSERT INTO rollout_trials (id, model, stable, candidate, limits) VALUES ($1, $2, $3, $4, $5::text::jsonb)
ON CONFLICT (model) WHERE ended_at IS NULL DO UPDATE SET limits = excluded.limits
"""
_END = "UPDATE rollout_trials SET ended_at = now(), reason = $2 WHERE model = $1 AND ended_at IS NULL"
_ADD = """
INSERT INTO rollout_counts (trial_id, arm, metric, count, total)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::float8[]) AS seen (trial, arm, metric, n, t)
WHERE EXISTS (SELECT 1 FROM rollout_trials WHERE id = trial) ORDER BY trial, arm, metric
ON CONFLICT (trial_id, arm, metric)
DO UPDATE SET count = rollout_counts.count + excluded.count, total = rollout_counts.total + excluded.total
"""


def _trial(row: Any, counts: Sequence[Any]) -> Trial:
    return Trial(
        id=row["id"],
        model=row["model"],
        stable=row["stable"],
        candidate=row["candidate"],
        limits=msgspec.json.decode(row["limits"], type=Limits),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        counts={(count["arm"], count["metric"]): Mean(count["count"], count["total"]) for count in counts},
    )
