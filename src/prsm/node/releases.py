"""What this node does with releases by itself: registers what is built in, retires what is due, deprecates what breaks
its declared limits. Each is a line of history, by this node.
"""

import asyncio
from dataclasses import replace
from math import ceil

from prsm.agents.learning.feedback import Part
from prsm.agents.liveness.observed import Ending
from prsm.agents.liveness.observed import Observed as Seen
from prsm.agents.rollouts.evidence import interval
from prsm.agents.rollouts.trial import ALPHA
from prsm.core.errors import PrsmError
from prsm.core.money import BASIS_POINTS
from prsm.federation.registry.lifecycle import Limits, Observed, State, Status
from prsm.federation.registry.versions import Ref
from prsm.node.built_in import PROVIDER, built_in, served_by, statement_of
from prsm.node.catalogue import publish_models, reload_models
from prsm.node.parts import Node

_ASKS_NOTHING = Limits()


async def register_built_in(node: Node) -> None:
    """Register what is built in, once a version; a new one is stable at once where nothing serves the stable one.

    On a database that several homes share, the first one's statement stands.
    """
    fresh = False
    for model in [each for each in node.registry.catalogue.models.values() if each.provider == PROVIDER]:
        catalogue = node.registry.catalogue
        if (model.serves, model.version) in catalogue.versions:
            continue
        release = catalogue.releases.get(model.serves)
        taken = release is not None and release.stable and catalogue.serving(model.serves, release.stable)
        try:
            await node.versions.register(
                await asyncio.to_thread(statement_of, model, node.teachers),
                by=node.account,
                owner_account=model.owner_account,
                state=State.CANDIDATE if taken else State.LIVE,
                reason="built in",
            )
        except PrsmError as error:
            if error.code != "version_taken":
                raise
        fresh = True
    if fresh:
        await reload_models(node)


async def refresh_teachers(node: Node) -> None:
    """Look again at the folders of teachers, and offer what is there now."""
    node.teachers.take(await asyncio.to_thread(node.teachers.look))
    providers, models = built_in(node.settings, node.encoder, node.teachers, node.account)
    node.registry.put_built_in((providers, models))
    node.versions.served = served_by(models)
    await publish_models(node)
    await register_built_in(node)
    await node.registry.index(tuple(node.registry.catalogue.models.values()))


async def retire_due(node: Node) -> None:
    """Retire what was deprecated until now."""
    if await node.versions.retire_due(by=node.account):
        await _spread(node)


async def deprecate_broken(node: Node) -> None:
    """Deprecate what breaks its declared limits, by what this worker has seen lately and what callers have said."""
    limited = {
        ref: status
        for ref, status in node.registry.catalogue.statuses.items()
        if status.limits != _ASKS_NOTHING and status.state in (State.CANDIDATE, State.LIVE)
    }
    observed = {ref: await _rated(node, ref, status, _observed(node, ref)) for ref, status in limited.items()}
    if observed and await node.versions.deprecate_broken(observed, by=node.account):
        await _spread(node)


def _observed(node: Node, ref: Ref) -> Observed:
    """How the instances of a version did together."""
    board = node.liveness.board
    now_s = board.clock()
    together = Seen(now_s)
    for model in node.registry.catalogue.serving(*ref):
        if instance := board.instance(model.name):
            together.merge(instance.observed, now_s)
    counts = together.counts(now_s)
    told = sum(counts) - counts[Ending.REFUSED]
    if told <= 0:
        return Observed(0)
    answered_bps = round(counts[Ending.OK] / told * BASIS_POINTS)
    return Observed(int(told), availability_bps=answered_bps, error_bps=BASIS_POINTS - answered_bps)


async def _rated(node: Node, ref: Ref, status: Status, observed: Observed) -> Observed:
    """With what callers have said of a version's answers since it is what it is."""
    if status.limits.quality_bps is None:
        return observed
    parts = [Part(model.name, ref[1], "") for model in node.registry.catalogue.serving(*ref)]
    mean = (await node.learning.feedback.rated(parts, status.since)).get("")
    if mean is None:
        return observed
    return replace(
        observed,
        ratings=mean.count,
        quality_bps=round(mean.value * BASIS_POINTS),
        quality_most_bps=ceil(interval(mean, ALPHA).high * BASIS_POINTS),
    )


async def _spread(node: Node) -> None:
    node.outbox.hint()
    await reload_models(node)
