"""How models do now, as the node API shows it: of each figure how many calls it rests on and how old they are."""

import math
from typing import Annotated

from pydantic import BaseModel, Field

from prsm.agents.liveness.board import Group, Instance, Liveness
from prsm.agents.liveness.observed import ERRORS, Observed
from prsm.agents.liveness.sla import Objective, Verdict

MAX_INSTANCES_SHOWN = 100
_SHARES = (0.05, 0.5, 0.95, 0.99)
_Ago = Annotated[float | None, Field(description="Seconds ago; null: never.")]


class Quantiles(BaseModel):
    """Quantiles within 2 % of what was seen; the old weighs half every two minutes."""

    p5: float
    p50: float
    p95: float
    p99: float


class Figures(BaseModel):
    """What was seen of calls lately. Counts fade, so they are no whole numbers."""

    calls: float = Field(description="Calls that ended, each counted as what is left of it after its age.")
    calls_per_s: float
    in_flight: int
    availability: float | None = Field(description="Share of the calls that were answered; null where there were none.")
    errors: dict[str, float] = Field(description="Calls by the class of their error.")
    first_token_ms: Quantiles | None = Field(description="Of streams (and embeddings); null where there were none.")
    tokens_per_s: Quantiles | None = Field(description="Of answers of 16 metered tokens or more.")
    last_call_s_ago: _Ago
    last_answer_s_ago: _Ago
    last_error: str | None
    last_error_s_ago: _Ago


class InstanceLiveness(Figures):
    """One instance; ``weight`` is its share of the calls that it would get, below 1 while it comes back."""

    name: str
    state: Annotated[str, Field(json_schema_extra={"enum": ["live", "ramping", "ejected", "resting"]})]
    weight: float
    ejected_for_s: float = Field(description="Seconds until it comes back; 0 where it is not out.")
    why: str


class ObjectiveShown(BaseModel):
    """One objective of an SLA. ``burn`` is how many times too fast its error budget is spent."""

    name: str
    target: float
    kept: float | None
    events: int
    bad: int
    budget_left: float
    burn: float
    breached: bool


class SlaShown(BaseModel):
    """A model against its SLA since the node started, at most 30 days; probes are not counted."""

    breached: bool
    urgent: bool = Field(description="It is happening now, not only within the last hours.")
    sentence: str
    objectives: list[ObjectiveShown]


class ModelLiveness(Figures):
    """One model: all its instances that were asked, together and each."""

    model: str
    sla: SlaShown
    instance_count: int
    instances: list[InstanceLiveness]


class Probes(BaseModel):
    """What the node asks by itself; a probe lists models, or with ``chat`` asks for one token."""

    per_minute: int
    chat: bool
    answered: int
    failed: int


class LivenessShown(BaseModel):
    """Models that were asked since the node started, by name; of several workers, the one that answers."""

    models: list[ModelLiveness]
    probes: Probes


def shown_model(board: Liveness, group: Group) -> ModelLiveness:
    """A model as of now."""
    now_s = board.clock()
    instances = list(group.instances.values())
    together = Observed(now_s)
    for instance in instances:
        together.merge(instance.observed, now_s)
    latest = sorted(instances, key=lambda one: one.observed.last_s, reverse=True)[:MAX_INSTANCES_SHOWN]
    return ModelLiveness(
        **_figures(together, now_s).model_dump(),
        model=group.model,
        sla=_sla(board.judged(group)),
        instance_count=len(instances),
        instances=[_instance(board, one, now_s) for one in sorted(latest, key=lambda one: one.name)],
    )


def _instance(board: Liveness, instance: Instance, now_s: float) -> InstanceLiveness:
    standing = instance.standing
    weight = standing.weight(now_s, board.policy.ejection)
    if standing.out(now_s):
        state = "ejected"
    elif board.health(instance.name).resting:
        state = "resting"
    else:
        state = "live" if weight == 1 else "ramping"
    return InstanceLiveness(
        **_figures(instance.observed, now_s).model_dump(),
        name=instance.name,
        state=state,
        weight=0.0 if state in ("ejected", "resting") else round(weight, 3),
        ejected_for_s=round(max(standing.until_s - now_s, 0.0), 1),
        why=standing.reason,
    )


def _figures(observed: Observed, now_s: float) -> Figures:
    counts = observed.counts(now_s)
    available = observed.availability()
    return Figures(
        calls=round(sum(counts), 2),
        calls_per_s=round(observed.rate_s(now_s), 3),
        in_flight=observed.in_flight,
        availability=None if available is None else round(available, 5),
        errors={error.name.lower(): round(counts[error], 2) for error in ERRORS if counts[error] >= 0.005},
        first_token_ms=_quantiles(observed.first_pieces.quantiles(_SHARES), 1000),
        tokens_per_s=_quantiles(observed.paces.quantiles(_SHARES), 1),
        last_call_s_ago=_ago(observed.last_s, now_s),
        last_answer_s_ago=_ago(observed.last_ok_s, now_s),
        last_error=None if observed.last_error is None else observed.last_error.name.lower(),
        last_error_s_ago=_ago(observed.last_error_s, now_s),
    )


def _sla(verdict: Verdict) -> SlaShown:
    return SlaShown(
        breached=verdict.breached,
        urgent=verdict.urgent,
        sentence=verdict.sentence,
        objectives=[_objective(each) for each in verdict.objectives],
    )


def _objective(objective: Objective) -> ObjectiveShown:
    return ObjectiveShown(
        name=objective.name,
        target=objective.target,
        kept=None if objective.kept is None else round(objective.kept, 5),
        events=objective.events,
        bad=objective.bad,
        budget_left=round(objective.budget_left, 4),
        burn=round(objective.burn, 2),
        breached=objective.breach is not None,
    )


def _quantiles(found: list[float] | None, unit: float) -> Quantiles | None:
    if found is None:
        return None
    p5, p50, p95, p99 = (float(f"{value * unit:.4g}") for value in found)
    return Quantiles(p5=p5, p50=p50, p95=p95, p99=p99)


def _ago(then_s: float, now_s: float) -> float | None:
    return None if then_s == -math.inf else round(now_s - then_s, 1)
