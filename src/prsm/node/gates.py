"""Gates: a candidate's evaluation against the stable version's, the decision on record, and the move.

A version that passes becomes stable in the registry; one that does not stays what it was. An admin may override, with a
reason, which stands beside the decision for good.
"""

from prsm.core.clock import now
from prsm.core.errors import Kind, PrsmError
from prsm.node.catalogue import reload_models
from prsm.node.parts import Node
from prsm.teachers.evaluation.gate import GatePolicy, GateRecord, Override, judge
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
    decision = judge(candidate, live, policy)
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
