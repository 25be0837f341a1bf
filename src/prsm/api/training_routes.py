"""Runs of the trainer over HTTP: ask for one, watch it, stop it, let it go on.

For admins: a recipe names files of this machine.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.user_routes import Limit
from prsm.core.identity import ADMIN, ApiKey
from prsm.core.money import MAX_AMOUNT_MICRO
from prsm.node import Node
from prsm.teachers.runs.run_book import MAX_RECIPE_BYTES, Run, RunKind
from prsm.tokenomics.enrolment import account_of


class NewRun(BaseModel):
    """What is to be trained. Its recipe's paths are of the node's machine."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: RunKind = "train"
    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")
    recipe: str = Field(min_length=1, max_length=MAX_RECIPE_BYTES, pattern=r"^[^\x00]*$", description="As TOML.")
    budget_micro: int = Field(ge=0, le=MAX_AMOUNT_MICRO, description="The most that it may cost the caller's account.")


class Resumption(BaseModel):
    """How a run is to go on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    budget_micro: int | None = Field(
        default=None,
        ge=0,
        le=MAX_AMOUNT_MICRO,
        description="The most that the whole run may cost, what it has cost included; as before where none is given.",
    )


class RunShown(BaseModel):
    """A run as it stands: ``report`` is the last line of its metrics, ``facts`` what was recorded at its beginning."""

    id: UUID
    kind: str
    name: str
    node: str
    state: Literal["queued", "running", "done", "failed", "stopped"]
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    starts: int
    account: str
    budget_micro: int
    charged_micro: int
    facts: dict[str, Any]
    report: dict[str, Any]


def training_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/training", tags=["training"])
    admin = door.of(ADMIN)
    book = node.training.book

    @router.post("/runs", status_code=201, summary="Have a recipe trained; it waits for its turn.")
    async def submit(new: NewRun, caller: Annotated[ApiKey, admin]) -> RunShown:
        run = await book.submit(
            new.kind,
            new.name,
            new.recipe,
            account=account_of(caller.principal_id),
            api_key_id=caller.id,
            budget_micro=new.budget_micro,
        )
        return _shown(run)

    @router.get("/runs", summary="Runs, the newest first; page by the last id seen.")
    async def list_runs(
        _caller: Annotated[ApiKey, admin], limit: Limit = 100, before: UUID | None = None
    ) -> list[RunShown]:
        return [_shown(run) for run in await book.runs(limit=limit, before=before)]

    @router.get("/runs/{run_id}", summary="One run.")
    async def get_run(run_id: UUID, _caller: Annotated[ApiKey, admin]) -> RunShown:
        return _shown(await book.run(run_id))

    @router.get("/runs/{run_id}/reports", summary="What a run has reported after a step, in order.")
    async def reports(
        run_id: UUID,
        _caller: Annotated[ApiKey, admin],
        after: Annotated[int, Query(ge=-1, le=2**53)] = -1,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    ) -> list[dict[str, Any]]:
        await book.run(run_id)
        return await book.reports(run_id, after=after, limit=limit)

    @router.post("/runs/{run_id}/stop", summary="Have a run stop, with a checkpoint.")
    async def stop(run_id: UUID, caller: Annotated[ApiKey, admin]) -> RunShown:
        return _shown(await book.ask_stop(run_id, f"Stopped by principal:{caller.principal_id}."))

    @router.post("/runs/{run_id}/resume", summary="Let a run that was stopped or has failed go on.")
    async def resume(run_id: UUID, caller: Annotated[ApiKey, admin], how: Resumption | None = None) -> RunShown:
        run = await book.resume(
            run_id,
            budget_micro=how.budget_micro if how else None,
            account=account_of(caller.principal_id),
            api_key_id=caller.id,
        )
        return _shown(run)

    return router


def _shown(run: Run) -> RunShown:
    own = {name: getattr(run, name) for name in RunShown.model_fields if name not in ("budget_micro", "charged_micro")}
    return RunShown(budget_micro=run.money.budget_micro, charged_micro=run.money.charged_micro, **own)
