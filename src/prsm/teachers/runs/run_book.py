"""Runs of the trainer in PostgreSQL: asked for, claimed by their node, followed, ended. Every change is one statement.

A run's folder is the truth about its progress; what stands here follows it, so that others need not read the folder.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from prsm.core.clock import uuid7
from prsm.core.database import Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import MAX_AMOUNT_MICRO, format_ftns
from prsm.teachers.runs.slices import Money

RunKind = Literal["train", "rlvr", "distil", "evaluate"]
State = Literal["queued", "running", "done", "failed", "stopped"]
OPEN: Final = ("queued", "running")
MAX_OPEN: Final = 100
MAX_RECIPE_BYTES: Final = 256 * 1024
_BUDGET: Final = "budget_micro"
_SELECT = """
SELECT id, kind, name, node, account, api_key_id, recipe, state, wants_stop, reason, created_at, started_at,
    ended_at, starts, budget_micro, charged_micro, slices, slice_held_micro, slice_cpu_ms, slice_at, capturing_micro,
    facts::text AS facts, report::text AS report
FROM training_runs
"""


class Run(Struct, frozen=True, kw_only=True):
    """A run as it stands. ``facts`` is its folder's run.json, ``report`` the last line of its metrics."""

    id: UUID
    kind: RunKind
    name: str
    node: str
    account: str
    api_key_id: UUID | None
    recipe: str
    state: State
    wants_stop: bool
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    starts: int
    money: Money
    capturing_micro: int | None
    facts: Mapping[str, Any]
    report: Mapping[str, Any]

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN


class RunBook:
    """The runs of one node, ``node`` being its id; others' on the database are read, and at most asked to stop."""

    def __init__(self, pool: Pool, node: str) -> None:
        self._pool = pool
        self._node = node

    async def submit(
        self, kind: RunKind, name: str, recipe: str, *, account: str, api_key_id: UUID | None, budget_micro: int
    ) -> Run:
        """Queue a run. Raises InvalidRequest, or PrsmError where too many are open."""
        if not 0 < len(name) <= 200 or "\0" in name + recipe:
            raise InvalidRequest("A run's name has 1 to 200 characters, and no NUL stands in it.", param="name")
        if len(recipe.encode()) > MAX_RECIPE_BYTES:
            raise InvalidRequest(f"A recipe has at most {MAX_RECIPE_BYTES:,} bytes.", param="recipe")
        _check_budget(budget_micro)
        run_id = uuid7()
        row = await self._pool.fetchrow(
            "INSERT INTO training_runs (id, kind, name, node, account, api_key_id, recipe, budget_micro) "
            "SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE "
            "(SELECT count(*) FROM training_runs WHERE node = $4 AND state IN ('queued', 'running')) < $9 RETURNING id",
            *(run_id, kind, name, self._node, account, api_key_id, recipe, budget_micro, MAX_OPEN),
        )
        if row is None:
            raise PrsmError(
                f"{MAX_OPEN} runs are open already.",
                kind=Kind.CONFLICT,
                code="too_many_runs",
                remedy="Stop one: prsm train stop RUN.",
            )
        return await self.run(run_id)

    async def run(self, run_id: UUID) -> Run:
        """One run. Raises NOT_FOUND."""
        rows = await self._read("WHERE id = $1", run_id)
        if not rows:
            raise PrsmError(f"There is no run {run_id}.", kind=Kind.NOT_FOUND, code="unknown_run")
        return rows[0]

    async def runs(self, *, limit: int, before: UUID | None = None) -> list[Run]:
        """The newest runs of all nodes on the database; page by the last id seen."""
        return await self._read("WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2", before, limit)

    async def open_runs(self) -> list[Run]:
        """The runs of this node that have not ended, the oldest first."""
        return await self._read("WHERE node = $1 AND state IN ('queued', 'running') ORDER BY id", self._node)

    async def waits(self) -> bool:
        """Whether a run of this node is open or unsettled."""
        return await self._pool.fetchval(
            "SELECT EXISTS (SELECT FROM training_runs WHERE node = $1 "
            "AND (state IN ('queued', 'running') OR slice_held_micro > 0))",
            self._node,
        )

    async def unsettled_runs(self) -> list[Run]:
        """The runs of this node that have ended and still have a slice open."""
        ended = "WHERE node = $1 AND state NOT IN ('queued', 'running') AND slice_held_micro > 0 ORDER BY id"
        return await self._read(ended, self._node)

    async def reports(self, run_id: UUID, *, after: int = -1, limit: int = 10_000) -> list[dict[str, Any]]:
        """What a run has reported after a step, in order."""
        rows = await self._pool.fetch(
            "SELECT report::text AS report FROM training_reports WHERE run_id = $1 AND step > $2 "
            "ORDER BY step LIMIT $3",
            *(run_id, after, limit),
        )
        return [msgspec.json.decode(row["report"]) for row in rows]

    async def started(self, run_id: UUID, *, counts: bool = True) -> None:
        """A process was started for it; one that goes on after an orderly end does not count."""
        await self._pool.execute(
            "UPDATE training_runs SET state = 'running', starts = starts + $2::bool::int, "
            "started_at = coalesce(started_at, now()) WHERE id = $1 AND state IN ('queued', 'running')",
            *(run_id, counts),
        )

    async def note(self, run_id: UUID, facts: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> None:
        """Keep what its folder says; a step that was reported again, after a kill, stands as it was said last."""
        if reports:
            steps, bodies = [each["step"] for each in reports], [_json(each) for each in reports]
            await self._pool.execute(
                "INSERT INTO training_reports (run_id, step, report) SELECT $1, step, report::jsonb FROM ("
                "SELECT DISTINCT ON (step) step, report, place FROM unnest($2::bigint[], $3::text[]) "
                "WITH ORDINALITY AS told(step, report, place) ORDER BY step, place DESC) AS told "
                "ON CONFLICT (run_id, step) DO UPDATE SET report = excluded.report",
                *(run_id, steps, bodies),
            )
        last = _json(reports[-1]) if reports else None
        await self._pool.execute(
            "UPDATE training_runs SET facts = $2::text::jsonb, report = coalesce($3::text::jsonb, report) "
            "WHERE id = $1",
            *(run_id, _json(facts), last),
        )

    async def ask_stop(self, run_id: UUID, reason: str) -> Run:
        """Have a run stop at its next checkpoint; one that waits is stopped at once, one that has ended stays so."""
        await self._pool.execute(
            "UPDATE training_runs SET wants_stop = true, reason = CASE WHEN wants_stop THEN reason ELSE $2 END, "
            "state = CASE WHEN state = 'queued' AND starts = 0 THEN 'stopped' ELSE state END, "
            "ended_at = CASE WHEN state = 'queued' AND starts = 0 THEN now() ELSE ended_at END "
            "WHERE id = $1 AND state IN ('queued', 'running')",
            *(run_id, reason[:500]),
        )
        return await self.run(run_id)

    async def resume(
        self, run_id: UUID, *, budget_micro: int | None = None, account: str = "", api_key_id: UUID | None = None
    ) -> Run:
        """Queue a run that was stopped or has failed again: it goes on from its last checkpoint. Raises CONFLICT.

        A new budget is of the whole run, and only for ``account`` to give that pays for it; what is held from now on
        counts for the key that gave it. Raises InvalidRequest for less than is spent, FORBIDDEN for another's run.
        """
        _check_budget(budget_micro or 0)
        found = await self._pool.fetchval(
            "UPDATE training_runs SET state = 'queued', wants_stop = false, reason = '', ended_at = NULL, starts = 0, "
            "budget_micro = coalesce($3::bigint, budget_micro), "
            "api_key_id = CASE WHEN $3::bigint IS NULL THEN api_key_id ELSE $5 END "
            "WHERE id = $1 AND node = $2 AND state IN ('stopped', 'failed') "
            "AND ($3::bigint IS NULL OR charged_micro + slice_held_micro <= $3::bigint AND account = $4) RETURNING id",
            *(run_id, self._node, budget_micro, account, api_key_id),
        )
        if found is None:
            raise self._not_resumed(await self.run(run_id), budget_micro, account)
        return await self.run(run_id)

    async def end(self, run_id: UUID, state: State, reason: str) -> None:
        """A run has ended."""
        await self._pool.execute(
            "UPDATE training_runs SET state = $2, reason = $3, ended_at = now() "
            "WHERE id = $1 AND state IN ('queued', 'running')",
            *(run_id, state, reason[:2000]),
        )

    async def open_slice(self, run: Run, amount_micro: int, cpu_ms: int) -> int:
        """A slice is about to be held; answers its number."""
        return await self._pool.fetchval(
            "UPDATE training_runs SET slices = slices + 1, slice_held_micro = $2, slice_cpu_ms = $3, slice_at = now(), "
            "capturing_micro = NULL WHERE id = $1 RETURNING slices",
            *(run.id, amount_micro, cpu_ms),
        )

    async def capturing(self, run_id: UUID, amount_micro: int) -> None:
        """The open slice is about to be captured with this; said once, so that trying again captures the same."""
        await self._pool.execute(
            "UPDATE training_runs SET capturing_micro = coalesce(capturing_micro, $2) WHERE id = $1",
            *(run_id, amount_micro),
        )

    async def close_slice(self, run_id: UUID, *, captured: bool) -> None:
        """The open slice has ended: captured, or gone with nothing charged."""
        await self._pool.execute(
            "UPDATE training_runs SET charged_micro = charged_micro + CASE WHEN $2 THEN coalesce(capturing_micro, 0) "
            "ELSE 0 END, slice_held_micro = 0, capturing_micro = NULL WHERE id = $1",
            *(run_id, captured),
        )

    def _not_resumed(self, run: Run, budget_micro: int | None, account: str) -> PrsmError:
        """Why a run was not queued again."""
        if run.state not in ("stopped", "failed") or run.node != self._node or budget_micro is None:
            text = f"A run that is {run.state}, or another node's, is not resumed."
            return PrsmError(text, kind=Kind.CONFLICT, code="not_resumable")
        if run.account != account:
            return PrsmError(
                "Only the account that pays for a run gives it another budget.",
                kind=Kind.FORBIDDEN,
                code="not_your_run",
                remedy="Resume it without a budget.",
            )
        spent = format_ftns(run.money.charged_micro + run.money.held_micro)
        return InvalidRequest(f"{spent} FTNS of the run are spent or held; a budget is that or more.", param=_BUDGET)

    async def _read(self, where: str, *values: Any) -> list[Run]:
        return [_run(row) for row in await self._pool.fetch(f"{_SELECT} {where}", *values)]


def _check_budget(budget_micro: int) -> None:
    if not 0 <= budget_micro <= MAX_AMOUNT_MICRO:
        raise InvalidRequest("A budget is not negative and within the amounts of the ledger.", param=_BUDGET)


def _run(row: Any) -> Run:
    own = {name: row[name] for name in Run.__struct_fields__ if name not in ("money", "facts", "report")}
    money = Money(
        budget_micro=row["budget_micro"],
        charged_micro=row["charged_micro"],
        slices=row["slices"],
        held_micro=row["slice_held_micro"],
        began_cpu_ms=row["slice_cpu_ms"],
        began_at=row["slice_at"],
    )
    facts, report = msgspec.json.decode(row["facts"]), msgspec.json.decode(row["report"])
    return Run(money=money, facts=facts, report=report, **own)


def _json(value: Mapping[str, Any]) -> str:
    return msgspec.json.encode(value).decode()
