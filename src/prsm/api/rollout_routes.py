"""Trials of a candidate version over HTTP: begin, read out, end. Callers notice nothing of them but the version."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from prsm.agents.rollouts.assignment import CANDIDATE, SHADOW
from prsm.agents.rollouts.evidence import Interval, Mean, interval
from prsm.agents.rollouts.trial import ALPHA, METRICS, PREFERRED, Comparison, Limits, compare, judge
from prsm.agents.rollouts.trials import Trial
from prsm.api.door import Door
from prsm.api.registry_routes import Name
from prsm.api.registry_schemas import Label
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ADMIN, READ, ApiKey
from prsm.core.money import BASIS_POINTS
from prsm.node import Node
from prsm.node.background import settle_rollouts
from prsm.node.catalogue import reload_models

_USUAL = Limits()
Share = Annotated[int, Field(ge=0, le=BASIS_POINTS)]
Increase = Annotated[float, Field(ge=0, lt=1)]


class TrialWanted(BaseModel):
    """The candidate of a trial, its share of the model's sessions, copies besides, and how much worse it may be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    candidate: Label = Field(description="A registered version; it becomes the candidate.")
    share_bps: Share = 500
    shadow_bps: Share = 0
    error_increase: Increase = _USUAL.error_increase
    slow_increase: Increase = _USUAL.slow_increase
    quality_drop: Increase = _USUAL.quality_drop
    slow_ms: int = Field(default=_USUAL.slow_ms, ge=1, le=600_000)


class MeanShown(BaseModel):
    """What was seen of one version: the mean, of how many, and where the true one lies (95 % for the whole trial)."""

    count: int
    mean: float
    low: float
    high: float


class ComparisonShown(BaseModel):
    """One metric of the stable version and of the one on trial; the difference is tried minus stable."""

    arm: str
    metric: str
    stable: MeanShown
    tried: MeanShown
    difference_low: float
    difference_high: float


class TrialShown(BaseModel):
    """A trial as it stands; intervals hold however often they are looked at."""

    model: str
    stable: str
    candidate: str
    share_bps: int
    shadow_bps: int
    limits: dict[str, float]
    started_at: datetime
    ended_at: datetime | None
    verdict: str
    judge: str = Field(description="The instance that compares copies' answers with those given; empty: none is named.")
    preferred: MeanShown | None = Field(description="How often the judge preferred a copy's answer; a tie is a half.")
    comparisons: list[ComparisonShown]


def rollout_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(tags=["rollouts"])
    admin, reader = door.of(ADMIN), door.of(READ)

    @router.get("/rollouts", summary="The trials that run.")
    async def list_trials(_caller: Annotated[ApiKey, reader]) -> list[TrialShown]:
        await settle_rollouts(node)
        return [_shown(node, trial) for trial in node.rollouts.trials.open.values()]

    @router.get("/rollouts/{model:path}", summary="The trials of a model, the newest first, with what they show.")
    async def read_out(model: Name, _caller: Annotated[ApiKey, reader]) -> list[TrialShown]:
        await settle_rollouts(node)
        return [_shown(node, trial) for trial in await node.rollouts.trials.history(model)]

    @router.put("/rollouts/{model:path}", summary="Begin a trial of a candidate, or change the one that runs.")
    async def begin(model: Name, wanted: TrialWanted, caller: Annotated[ApiKey, admin]) -> TrialShown:
        values = wanted.model_dump(include={*Limits.__slots__})
        await node.rollouts.begin(
            model, wanted.candidate, wanted.share_bps, wanted.shadow_bps, Limits(**values), by=_name(caller)
        )
        await _spread(node)
        trial = node.rollouts.trials.open.get(model)
        if trial is None:
            raise PrsmError(
                f"The trial of {model} has ended already.",
                kind=Kind.CONFLICT,
                code="trial_ended",
                remedy="Its read-out says why: prsm rollout show MODEL.",
            )
        return _shown(node, trial)

    @router.delete("/rollouts/{model:path}", status_code=204, summary="End a trial: the candidate loses its share.")
    async def end(model: Name, caller: Annotated[ApiKey, admin]) -> None:
        await node.rollouts.stop(model, by=_name(caller))
        await _spread(node)

    return router


async def _spread(node: Node) -> None:
    node.outbox.hint()
    await reload_models(node)


def _shown(node: Node, trial: Trial) -> TrialShown:
    release = node.registry.catalogue.releases.get(trial.model) if trial.ended_at is None else None
    arms = [arm for arm in (CANDIDATE, SHADOW) if arm == CANDIDATE or any(seen == arm for seen, _ in trial.counts)]
    return TrialShown(
        model=trial.model,
        stable=trial.stable,
        candidate=trial.candidate,
        share_bps=release.candidate_bps if release else 0,
        shadow_bps=release.shadow_bps if release else 0,
        limits={name: getattr(trial.limits, name) for name in Limits.__slots__},
        started_at=trial.started_at,
        ended_at=trial.ended_at,
        verdict=trial.reason or judge(trial.counts, trial.limits).reason,
        judge=node.rollouts.judge,
        preferred=_preferred(trial.counts.get((SHADOW, PREFERRED))),
        comparisons=[_comparison(compare(trial.counts, arm, metric)) for arm in arms for metric in METRICS],
    )


def _preferred(mean: Mean | None) -> MeanShown | None:
    return _mean(mean, interval(mean, ALPHA)) if mean else None


def _comparison(found: Comparison) -> ComparisonShown:
    return ComparisonShown(
        arm=found.arm,
        metric=found.metric,
        stable=_mean(found.stable, found.stable_interval),
        tried=_mean(found.tried, found.tried_interval),
        difference_low=found.difference.low,
        difference_high=found.difference.high,
    )


def _mean(mean: Mean, interval: Interval) -> MeanShown:
    return MeanShown(count=mean.count, mean=mean.value, low=interval.low, high=interval.high)


def _name(caller: Any) -> str:
    return f"principal:{caller.principal_id}"
