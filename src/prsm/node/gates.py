"""Gates: a candidate's evaluation against the stable version's, their trial, the decision on record, and the move.

A version that passes becomes stable in the registry; one that does not stays what it was. An admin may override, with a
reason, which stands beside the decision for good.
"""

from prsm.agents.rollouts.assignment import CANDIDATE
from prsm.agents.rollouts.trial import METRICS, Metric, compare
from prsm.agents.rollouts.trials import Trial
from prsm.core.clock import now
from prsm.core.errors import Kind, PrsmError
from prsm.node.catalogue import reload_models
from prsm.node.parts import Node
from prsm.teachers.evaluation.gate import GatePolicy, GateRecord, Override, judge
from prsm.teachers.evaluation.live_trial import Reading, criteria
from prsm.teachers.evaluation.outcomes import Evaluation


async def pass_gate(
    node: Node, model: str, version: str, policy: GatePolicy, *, by: str, override_reason: str = ""
) -> GateRecord:
    """Judge ``model@version`` and make it stable where it passes, or where ``override_reason`` says so.

    Both versions are judged by their newest evaluations under one plan. Raises PrsmError where there is none, and where
    the version cannot be moved: then no decision is kept either.
    """
    standing = await node.versions.standing(model)
    stable = standing.release.stable
    if stable == version:
        raise PrsmError(f"{model}@{version} is stable already.", kind=Kind.CONFLICT, code="is_stable")
    candidate, live = await _evidence(node, model, version, stable)
    decision = judge(candidate, live, policy, criteria(await _trial(node, model, version, stable), policy.live))
    override = Override(who=by, reason=override_reason, promote=True, at=now()) if override_reason else None
    record = GateRecord(decision=decision, override=override)
    async with node.database.pool.acquire() as connection, connection.transaction():
        number = await node.training.evidence.keep_decision(connection, model, version, stable, record, by=by)
        if record.promoted:
            reason = f"gate decision {number}"
            await node.versions.promote_within(connection, (model, version), by=by, reason=reason)
    if record.promoted:
        node.outbox.hint()
        await reload_models(node)
    return record


async def _trial(node: Node, model: str, version: str, stable: str) -> list[Reading]:
    """What the newest trial of the two versions shows; empty where there was none."""
    await node.rollouts.settle()
    trials = await node.rollouts.trials.history(model)
    found = next((one for one in trials if (one.stable, one.candidate) == (stable, version)), None)
    return [_reading(found, metric) for metric in METRICS] if found else []


def _reading(trial: Trial, metric: Metric) -> Reading:
    seen = compare(trial.counts, CANDIDATE, metric)
    return Reading(
        metric=metric,
        stable=seen.stable.value,
        stable_count=seen.stable.count,
        candidate=seen.tried.value,
        candidate_count=seen.tried.count,
        low=seen.difference.low,
        high=seen.difference.high,
        allowed=trial.limits.allowed(metric),
        more_is_better=metric == "quality",
    )


async def _evidence(node: Node, model: str, version: str, stable: str) -> tuple[Evaluation, Evaluation | None]:
    evidence = node.training.evidence
    candidates = [kept.evaluation for kept in await evidence.evaluations(model, version)]
    if not candidates:
        raise PrsmError(
            f"{model}@{version} has no evaluation.",
            kind=Kind.CONFLICT,
            code="not_evaluated",
            remedy="Evaluate it first: prsm train evaluate.",
        )
    if not stable:
        return candidates[0], None
    lives = [kept.evaluation for kept in await evidence.evaluations(model, stable)]
    pairs = ((mine, live) for mine in candidates for live in lives if mine.plan == live.plan)
    found = next(pairs, None)
    if found is None:
        raise PrsmError(
            f"{model}@{version} and the stable {stable} were evaluated by no plan in common.",
            kind=Kind.CONFLICT,
            code="not_evaluated",
            remedy=f"Evaluate both by one plan: prsm train evaluate {model}@{stable} --plan PLAN.toml.",
        )
    return found
