"""How a node watches its instances: made from the settings, swept in the background, shown by gauges."""

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from prsm.agents.call import Target
from prsm.agents.liveness.board import Group, Liveness, LivenessPolicy, Tell
from prsm.agents.liveness.prober import ProbePolicy, Prober
from prsm.agents.liveness.sla import Sla
from prsm.agents.liveness.watching import WatchedExecutor
from prsm.agents.seams import Executor
from prsm.core.config import Settings
from prsm.core.money import BASIS_POINTS
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard

_MOST_SHOWN: Final = 500
"""Instances and models in the metrics, the ones asked last first: each is a time series of its own."""


def open_liveness(settings: Settings, breakers: BreakerBoard, tell: Tell) -> Liveness:
    """The board of one node."""
    usual = _sla(settings.sla_availability_bps, settings.sla_first_token_ms, settings.sla_min_tokens_per_s)
    named = {
        model: _sla(*map(int, limits.split("/")))
        for model, _, limits in (each.rpartition("=") for each in settings.sla_models)
    }
    return Liveness(
        LivenessPolicy(timeout_s=settings.request_timeout_s),
        sla_of=lambda model: named.get(model, usual),
        resting=breakers.resting,
        tell=tell,
    )


def watched(executors: Mapping[str, Executor], board: Liveness) -> MappingProxyType[str, Executor]:
    """The same executors, each call of theirs seen by ``board``."""
    return MappingProxyType({kind: WatchedExecutor(executor, board) for kind, executor in executors.items()})


class Watch:
    """The board, and what goes on for it in the background. ``targets`` are all instances that may be asked now."""

    def __init__(self, board: Liveness, prober: Prober, targets: Callable[[], Mapping[str, Target]]) -> None:
        self.board = board
        self.prober = prober
        self._targets = targets
        self._followed: Mapping[str, Target] | None = None

    async def sweep(self) -> None:
        """Eject, let return and judge; and forget what has left the catalogue."""
        targets = self._targets()
        if targets is not self._followed:
            self.board.follow(targets)
            self._followed = targets
        for _ in self.board.sweeping():
            await asyncio.sleep(0)


def probe_policy(settings: Settings) -> ProbePolicy:
    """The settings' budget; each of several workers has its share, so a small one may leave them without."""
    return ProbePolicy(
        settings.probe_per_minute // settings.workers,
        settings.probe_idle_s,
        timeout_s=settings.probe_timeout_s,
        chat=settings.probe_chat,
    )


def expose_liveness(watch: Watch, metrics: Metrics) -> None:
    """Gauges that are read when somebody scrapes; at most 500 instances and 500 models."""
    board = watch.board
    metrics.levels("prsm_instance_in_flight", "Calls under way.", "model", lambda: _in_flight(board))
    metrics.levels(
        "prsm_instance_availability", "Share of its late calls that an instance answered.", "model",
        lambda: _availability(board),
    )  # fmt: skip
    metrics.levels(
        "prsm_instance_ejected", "1 while an instance gets no calls because its peers do far better.", "model",
        lambda: _ejected(board),
    )  # fmt: skip
    metrics.levels(
        "prsm_sla_budget_left", "Least share left of a model's error budgets; below 0: overspent.", "model",
        lambda: {model: left for model, left, _ in _slas(board)},
    )  # fmt: skip
    metrics.levels(
        "prsm_sla_breached", "1 while a model burns an error budget too fast.", "model",
        lambda: {model: breached for model, _, breached in _slas(board)},
    )  # fmt: skip
    metrics.levels("prsm_probes_made", "Probes since the start.", "outcome", lambda: dict(watch.prober.made))


def _sla(availability_bps: int, first_token_ms: int, min_tokens_s: int) -> Sla:
    return Sla(availability_bps / BASIS_POINTS, first_token_ms / 1000, min_tokens_s)


def _in_flight(board: Liveness) -> dict[str, float]:
    return {one.name: one.observed.in_flight for one in board.latest(_MOST_SHOWN)}


def _availability(board: Liveness) -> dict[str, float]:
    return {one.name: share for one in board.latest(_MOST_SHOWN) if (share := one.observed.availability()) is not None}


def _ejected(board: Liveness) -> dict[str, float]:
    now_s = board.clock()
    return {one.name: float(one.standing.out(now_s)) for one in board.latest(_MOST_SHOWN)}


def _slas(board: Liveness) -> list[tuple[str, float, float]]:
    """Each model with the least of its budgets and whether it is in breach."""
    shown: dict[str, Group] = {one.group.model: one.group for one in board.latest(_MOST_SHOWN)}
    return [
        (model, min(each.budget_left for each in group.verdict.objectives), float(group.verdict.breached))
        for model, group in shown.items()
        if group.verdict
    ]
