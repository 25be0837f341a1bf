"""Alerts over HTTP, for admins: what fires, who took it, what is silenced, and whether messages arrive."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter

from prsm.api.alert_schemas import (
    Acknowledgement,
    AlertShown,
    AlertsShown,
    NewSilence,
    SilenceShown,
    Tried,
    maybe_at,
    shown_alert,
    shown_silence,
)
from prsm.api.door import Door
from prsm.api.user_routes import Limit
from prsm.core.database import UNREACHABLE
from prsm.core.errors import InvalidRequest
from prsm.core.identity import ADMIN, ApiKey
from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.rules import alert_names
from prsm.node import Node


def alert_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/alerts", tags=["monitoring"])
    monitoring, admin = node.monitoring, door.of(ADMIN)

    @router.get("", summary="What fires or is about to; what fired before; silences; whether messages go out.")
    async def list_alerts(_caller: Annotated[ApiKey, admin], limit: Limit = 100) -> AlertsShown:
        state = monitoring.state()
        try:
            recent = [shown_alert(each) for each in await monitoring.book.recent(limit)]
            silences = [shown_silence(each) for each in await monitoring.book.silences()]
        except UNREACHABLE:
            recent = silences = None
        return AlertsShown(
            evaluated_at=maybe_at(state.at_s or None),
            alerts=[shown_alert(each) for each in state.alerts],
            recent=recent,
            silences=silences,
            sinks=state.sinks,
        )

    @router.post("/{alert_id}/ack", summary="Take an alert: it is neither escalated nor told again.")
    async def acknowledge(alert_id: UUID, ack: Acknowledgement, caller: Annotated[ApiKey, admin]) -> AlertShown:
        return shown_alert(await monitoring.book.acknowledge(alert_id, await _name(node, caller), ack.note))

    @router.post("/silences", status_code=201, summary="Tell nobody of some alerts for a while.")
    async def silence(new: NewSilence, caller: Annotated[ApiKey, admin]) -> SilenceShown:
        if new.rule and new.rule not in alert_names(shipped()):
            raise InvalidRequest(
                f"No alert is called {new.rule}.", remedy="`prsm alerts rules` shows them all.", param="rule"
            )
        until = datetime.now(UTC) + timedelta(seconds=new.for_s)
        by = await _name(node, caller)
        return shown_silence(await monitoring.book.silence(new.rule, new.labels, by, new.reason, until))

    @router.delete("/silences/{silence_id}", status_code=204, summary="End a silence now.")
    async def lift(silence_id: UUID, _caller: Annotated[ApiKey, admin]) -> None:
        await monitoring.book.lift(silence_id)

    @router.post("/test", summary="Send a test message every way, now.")
    async def test(_caller: Annotated[ApiKey, admin]) -> list[Tried]:
        tried = await monitoring.try_sinks()
        return [Tried(sink=sink, delivered=not error, error=error) for sink, error in tried.items()]

    return router


async def _name(node: Node, caller: ApiKey) -> str:
    return (await node.identities.principal(caller.principal_id)).name
