"""The room of safety in a running node: what screens, who may be asked and may ask, and what all workers know of it."""

import time
from dataclasses import dataclass
from typing import Any, Final

from prsm.agents.guard import Guard
from prsm.core.clock import now, uuid7
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.errors import Kind, PrsmError
from prsm.core.subject_keys import SubjectKeys
from prsm.monitoring.metrics import Metrics
from prsm.safety.breaker_sharing import BreakerSharing
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy
from prsm.safety.gathering import Gathering
from prsm.safety.incidents import IncidentBook
from prsm.safety.monitor import Monitor
from prsm.safety.policy import PRESETS, Policy
from prsm.safety.policy_book import PolicyBook
from prsm.safety.screening import Screening
from prsm.safety.threats import Threats

CALLERS, NODE = "callers", "node"
HALT: Final = "halt"
"""The breaker of the board ``node`` that ends all answering while it is open."""
_PROVIDER: Final = BreakerPolicy(min_calls=20, failure_rate=0.9)
"""A provider rests when nearly all its models fail together; one of them that fails rests alone."""


@dataclass(frozen=True, slots=True)
class Boards:
    """All breakers of a node. ``models`` and ``storage`` open by themselves, ``providers`` too; the rest by hand."""

    models: BreakerBoard
    providers: BreakerBoard
    storage: BreakerBoard
    callers: BreakerBoard
    node: BreakerBoard

    @classmethod
    def new(cls, policy: BreakerPolicy) -> "Boards":
        """Closed ones."""
        return cls(*(BreakerBoard(time.monotonic, each) for each in (policy, _PROVIDER, policy, policy, policy)))

    def by_name(self) -> dict[str, BreakerBoard]:
        """The boards as the API names them."""
        return {name: getattr(self, name) for name in type(self).__slots__}


@dataclass(frozen=True, slots=True)
class Safety:
    """``guard`` is None where the node screens nothing."""

    monitor: Monitor | None
    guard: Guard | None
    screening: Screening | None
    policies: PolicyBook
    incidents: IncidentBook
    threats: Threats
    sharing: BreakerSharing
    boards: Boards

    def admit(self, account: str) -> bool:
        """Whether the caller may ask models at its whole rate; False: at a tenth. Raises PrsmError where not at all."""
        if self.boards.node.resting(HALT):
            view = self.boards.node.view(HALT)
            raise PrsmError(
                f"The node answers nothing for now: {view.reason if view else 'halted'}.",
                kind=Kind.UNAVAILABLE,
                code="halted",
                remedy="Its operator has halted it, and ends that with: prsm breakers reset node halt.",
                retry_after_s=60,
            )
        if self.boards.callers.resting(account):
            raise PrsmError(
                "The node's operator has stopped this account.",
                kind=Kind.FORBIDDEN,
                code="stopped",
                remedy="Ask the operator why.",
            )
        return self.threats.admit(account)

    def readiness(self) -> dict[str, Any]:
        """Whether every detector is there; where the operator has switched them off, that none is to be."""
        if self.monitor is None:
            return {"ok": True, "reason": "switched off by the setting screening"}
        return {"ok": not self.monitor.away} | ({"error": " ".join(self.monitor.away)} if self.monitor.away else {})

    async def load(self) -> None:
        """Read what all workers know."""
        await self.policies.reload()
        await self.threats.reload()
        await self.sharing.reload()


def open_safety(
    settings: Settings, keys: SubjectKeys, store: Database, boards: Boards, metrics: Metrics, monitor: Monitor | None
) -> Safety:
    """The room over the node's stores; without a ``monitor`` nothing is screened."""
    policies = PolicyBook(store.pool, PRESETS.get(settings.screening, Policy(())))
    incidents = IncidentBook(store.pool, keys)
    threats = Threats(store.pool, time.time)
    screening = None
    if monitor:
        gathering = Gathering(
            monitor.assess, at_once=settings.screening_threads, time_limit_s=settings.screening_timeout_s
        )
        told = incidents.record, threats.note, metrics.screened
        screening = Screening(monitor.name, gathering.assess, *told, settings.screening_remember)
    return Safety(
        monitor=monitor,
        guard=Guard(screening, policies) if screening else None,
        screening=screening,
        policies=policies,
        incidents=incidents,
        threats=threats,
        sharing=BreakerSharing(store.pool, boards.by_name(), uuid7(), now),
        boards=boards,
    )
