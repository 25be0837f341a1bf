"""What a node does besides answering, and what it does when another node tells of a change. Each survives outages."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from prsm.core.errors import PrsmError
from prsm.federation.model_registry import CHANGED as MODELS_CHANGED
from prsm.node.catalogue import reload_models
from prsm.node.parts import KEY_REVOKED, Node

_SWEEP_S = 5.0
_STORAGE_WATCH_S = 15.0
_EVENTS_KEPT_S = 86_400
_log: Any = structlog.get_logger("node")


def background(node: Node) -> dict[str, Any]:
    return {
        "outbox": node.outbox.run(),
        "expire-holds": repeat(_SWEEP_S, lambda: _drain(node.ledger.expire_due)),
        "forget-idempotency-keys": repeat(60, lambda: node.idempotency.forget_old(node.settings.idempotency_ttl_s)),
        "free-idempotency-keys": repeat(1, node.idempotency.free_owed),
        "forget-events": repeat(600, lambda: node.outbox.forget_published(_EVENTS_KEPT_S)),
        "reload-models": repeat(30, lambda: reload_models(node)),
        "probe-cache": repeat(1, node.cache.ping),
        "storage-reconcile": repeat(1800, node.storage.reconcile, at_once=True),
        "storage-upload": repeat(1, node.storage.uploads.drain),
        "storage-meet": repeat(10, node.storage.meet),
        "storage-count-reads": repeat(5, node.storage.flush_reads),
        "storage-make-room": repeat(10, node.storage.make_room),
        "storage-verify": repeat(60, node.storage.verify_next),
        "storage-watch": repeat(_STORAGE_WATCH_S, node.storage_watch.refresh),
        "storage-tidy": repeat(3600, node.storage.uploads.tidy),
    }


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
            await reload_models(node)
        elif topic == KEY_REVOKED:
            node.identities.forget(msgspec.json.decode(payload)["prefix"])

    return hear


async def catch_up(node: Node) -> None:
    """Messages may have been lost: read anew what they would have changed. Cached keys expire within seconds."""
    await reload_models(node)
