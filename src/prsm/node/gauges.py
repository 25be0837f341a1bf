"""What a node shows of itself: gauges that are read when somebody scrapes, and the readiness of each part."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from prsm.core.errors import PrsmError, Unavailable
from prsm.monitoring.metrics import breaker_level
from prsm.node.learning import expose_learning
from prsm.node.liveness import expose_liveness
from prsm.node.market import offers_by_state
from prsm.node.parts import Node
from prsm.safety.circuit_breaker import BreakerView, State

_FAILED_LATELY_S = 60.0


def expose(node: Node) -> None:
    """Gauges that are read when somebody scrapes."""
    metrics = node.metrics
    metrics.gauge("prsm_ledger_queue", "Ledger orders waiting to be committed.", lambda: node.ledger.waiting)
    metrics.gauge("prsm_cache_up", "1 while Valkey answers.", lambda: float(node.cache.state.up))
    metrics.levels(
        "prsm_breaker_state",
        "Circuit breakers: 0 closed, 1 half-open, 2 open.",
        "model",
        lambda: {name: breaker_level(view.state) for name, view in _breakers(node).items()},
    )
    metrics.levels(
        "prsm_instance_down",
        "1 while calls are refused because too many failed, and for a minute after the last failure.",
        "model",
        lambda: _down(node),
    )
    metrics.levels("prsm_market_offers", "Live offers by state.", "state", lambda: offers_by_state(node.market))
    expose_liveness(node.liveness, metrics)
    _expose_storage(node)
    expose_learning(node.learning, metrics)


def _down(node: Node) -> dict[str, float]:
    """A breaker that nobody tries stays half-open for ever; a minute without failures, of probes too, is no outage."""
    now_s = node.liveness.board.clock()
    failed_s = {one.name: one.observed.last_error_s for one in node.liveness.board.instances()}
    return {
        name: float(
            view.state is State.OPEN
            or (view.state is State.HALF_OPEN and now_s - failed_s.get(name, -math.inf) < _FAILED_LATELY_S)
        )
        for name, view in _breakers(node).items()
    }


def _breakers(node: Node) -> dict[str, BreakerView]:
    """Those of the models that are here: one that was removed keeps its opening for an hour, also over a restart."""
    here = node.path.models.by_name
    return {name: view for name, view in node.safety.boards.models.snapshot().items() if name in here}


def _expose_storage(node: Node) -> None:
    """Read from what ``storage-watch`` has counted: a scrape asks neither the database nor the disk."""
    metrics, watch = node.metrics, node.storage_watch
    metrics.gauge("prsm_storage_stored_bytes", "Disk that stored objects take.", lambda: watch.usage.stored_bytes)
    metrics.gauge("prsm_storage_limit_bytes", "Disk they may take.", lambda: node.storage.policy.limit_bytes)
    metrics.gauge("prsm_storage_free_bytes", "Disk that may still be taken.", lambda: watch.free_bytes)
    metrics.levels("prsm_storage_objects", "Objects by state.", "state", watch.objects)
    metrics.levels(
        "prsm_storage_uploads",
        "Queued uploads to own IPFS nodes.",
        "state",
        lambda: {"waiting": watch.usage.uploads_waiting, "failed": watch.usage.uploads_failed},
    )
    metrics.levels("prsm_storage_transfers", "Transfers under way.", "direction", watch.transfers)
    metrics.gauge("prsm_storage_offline", "1 while no endpoint answers.", lambda: float(bool(watch.offline())))
    metrics.gauge(
        "prsm_storage_endpoints_away", "1 while endpoints are configured and none answers.", lambda: float(watch.away())
    )
    metrics.levels(
        "prsm_storage_endpoint_state", "Endpoints: 0 live, 1 failing, 2 resting, 3 banned.", "endpoint", watch.levels
    )
    metrics.levels(
        "prsm_storage_breaker_state",
        "Circuit breakers of endpoints: 0 closed, 1 half-open, 2 open.",
        "endpoint",
        lambda: {name: breaker_level(view.state) for name, view in node.safety.boards.storage.snapshot().items()},
    )


async def readiness(node: Node) -> dict[str, Any]:
    """Each part by name: whether it answers, its latency in milliseconds, and what is wrong."""
    return {
        "postgres": await _probe(node.database.ping),
        "valkey": await _probe(node.cache.ping),
        "models": {"ok": bool(node.path.models.by_name), "count": len(node.path.models.by_name)},
        "ledger": {"ok": node.ledger.waiting < node.settings.ledger_queue_max, "waiting": node.ledger.waiting},
        "storage": node.storage_watch.readiness(),
        "teachers": node.teachers.readiness(),
        "screening": node.safety.readiness(),
    }


async def _probe(ping: Callable[[], Awaitable[float]]) -> dict[str, Any]:
    try:
        return {"ok": True, "latency_ms": round(await ping(), 2)}
    except (PrsmError, Unavailable) as error:
        return {"ok": False, "error": str(error)}
