"""What a node does besides answering, and what it does when another node tells of a change. Each survives outages."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import structlog

from prsm.core.errors import PrsmError
from prsm.federation.model_registry import CHANGED as MODELS_CHANGED
from prsm.node.catalogue import follow_models, publish_models, reload_models
from prsm.node.discovery import background_works
from prsm.node.monitoring import watching_works
from prsm.node.parts import KEY_REVOKED, Node
from prsm.node.releases import deprecate_broken, retire_due
from prsm.node.safety import Safety
from prsm.safety.breaker_sharing import CHANGED as BREAKERS_CHANGED
from prsm.safety.policy_book import CHANGED as POLICIES_CHANGED
from prsm.safety.privacy.erasure import SUBJECT_ERASED
from prsm.safety.threats import CHANGED as THREATS_CHANGED
from prsm.tokenomics.market.offer_book import CHANGED as MARKET_CHANGED

_OF_SAFETY: dict[str, Callable[[Safety], Awaitable[None]]] = {
    POLICIES_CHANGED: lambda safety: safety.policies.reload(),
    THREATS_CHANGED: lambda safety: safety.threats.reload(),
    BREAKERS_CHANGED: lambda safety: safety.sharing.reload(),
}
_SWEEP_S = 5.0
_STORAGE_WATCH_S = 10.0
_EVENTS_KEPT_S = 86_400
_log: Any = structlog.get_logger("node")


def background(node: Node) -> dict[str, Any]:
    return {
        "outbox": node.outbox.run(),
        "retention": repeat(3600, node.privacy.retention.step, at_once=True),
        "audit": repeat(1, node.audit.sequencer.drain),
        "expire-holds": repeat(_SWEEP_S, lambda: _drain(node.ledger.expire_due)),
        "forget-idempotency-keys": repeat(60, lambda: node.idempotency.forget_old(node.settings.idempotency_ttl_s)),
        "free-idempotency-keys": repeat(1, node.idempotency.free_owed),
        "forget-events": repeat(600, lambda: node.outbox.forget_published(_EVENTS_KEPT_S)),
        "reload-models": repeat(30, lambda: reload_models(node)),
        "follow-models": repeat(0.2, lambda: follow_models(node)),
        "retire-models": repeat(30, lambda: retire_due(node)),
        "deprecate-models": repeat(5, lambda: deprecate_broken(node)),
        "market-count": repeat(_market_step_s(node), node.market.note_usage),
        "market-prices": repeat(_market_step_s(node), lambda: move_prices(node)),
        "market-read": repeat(30, lambda: reload_market(node)),
        "market-refunds": repeat(30, node.market.refunds.pay_owed),
        "market-sums": repeat(5, lambda: _drain(node.market.accounts.sum_up)),
        "market-forget-quotes": repeat(600, node.market.quotes.forget_old),
        "probe-cache": repeat(5, node.cache.ping),
        "storage-reconcile": repeat(1800, node.storage.reconcile, at_once=True),
        "storage-upload": repeat(1, node.storage.uploads.drain),
        "storage-meet": repeat(10, node.storage.meet),
        "storage-count-reads": repeat(5, node.storage.flush_reads),
        "storage-make-room": repeat(10, node.storage.make_room),
        "storage-verify": repeat(60, node.storage.verify_next),
        "storage-watch": repeat(_STORAGE_WATCH_S, node.storage_watch.refresh),
        "storage-tidy": repeat(3600, node.storage.uploads.tidy),
        "rollouts": repeat(1, lambda: settle_rollouts(node)),
        "liveness-sweep": repeat(1, node.liveness.sweep),
        "route-refresh": repeat(1, node.path.router.refresh),
        "forget-kept-answers": repeat(60, lambda: _drain(node.path.sweep)),
        "liveness-probe": node.liveness.prober.run(),
        "quality-write": repeat(2, node.learning.observer.write),
        "quality-learn": repeat(node.settings.learning_period_s, node.learning.learn),
        "quality-read": repeat(5, node.learning.refresh),
        "quality-age": repeat(3600, node.learning.age),
        "breakers": repeat(0.2, node.safety.sharing.follow),
        "breakers-read": repeat(5, node.safety.sharing.reload),
        "breakers-forget": repeat(600, node.safety.sharing.forget_passed),
        "policies-read": repeat(30, node.safety.policies.reload),
        "threats": repeat(1, node.safety.threats.settle),
        "threats-read": repeat(5, node.safety.threats.reload),
        "threats-forget": repeat(3600, node.safety.threats.forget_old),
        "training": repeat(1, node.training.supervisor.step),
        "quality-tidy": repeat(600, node.learning.learner.tidy),
        **background_works(node.discovery, repeat),
        **watching_works(node.monitoring, repeat),
    }


async def settle_rollouts(node: Node) -> None:
    """Judge the trials of candidates; where one was withdrawn, every worker hears of it."""
    if await node.rollouts.settle():
        node.outbox.hint()
        await reload_models(node)


async def reload_market(node: Node) -> None:
    """Read the offers anew and give their prices to the answer path."""
    await node.market.reload()
    await publish_models(node)


async def move_prices(node: Node) -> None:
    """Let the prices of offers follow the demand, when an epoch has ended; every worker hears of it by an event."""
    if await node.market.move_prices():
        node.outbox.hint()


def _market_step_s(node: Node) -> float:
    """Often enough for what is metered in an epoch to be counted in it, nearly all."""
    return min(5.0, node.market.epoch_s / 4)


async def _drain(step: Callable[[], Awaitable[int]]) -> None:
    done = 1
    while done:
        done = await step()


async def repeat(every_s: float, work: Callable[[], Awaitable[Any]], *, at_once: bool = False) -> None:
    """Run ``work`` for ever; an outage is logged once and passes."""
    failing = False
    while True:
        if not at_once:
            await asyncio.sleep(every_s)
        at_once = False
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - background work must outlive whatever happens to it
            if not failing:
                _log.warning(
                    "background work fails", error=str(error) if isinstance(error, PrsmError) else type(error).__name__
                )
            failing = True
        else:
            failing = False


def listener(node: Node) -> Callable[[str, bytes], Awaitable[None]]:
    async def hear(topic: str, payload: bytes) -> None:
        if topic == MODELS_CHANGED:
            node.registry.outdate()
        elif topic == MARKET_CHANGED:
            await reload_market(node)
        elif topic in _OF_SAFETY:
            await _OF_SAFETY[topic](node.safety)
        elif topic == KEY_REVOKED:
            node.identities.forget(msgspec.json.decode(payload)["prefix"])
        elif topic == SUBJECT_ERASED:
            node.subject_keys.forget(UUID(msgspec.json.decode(payload)["subject"]))

    return hear


async def catch_up(node: Node) -> None:
    """Messages may have been lost: read anew what they would have changed. Cached keys expire within seconds."""
    await node.market.reload()
    await node.safety.load()
    await reload_models(node)
