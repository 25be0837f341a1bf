"""The node as a whole over HTTP: its status, and its capacity."""

from typing import Annotated

from fastapi import APIRouter

from prsm import __version__
from prsm.api.door import Door
from prsm.api.schemas import Part
from prsm.api.status_schemas import (
    CapacityShown,
    ModelNow,
    Money,
    StatusShown,
    evaluated,
    shown_alerts,
    shown_budget,
    shown_capacity,
    shown_traffic,
)
from prsm.core.database import UNREACHABLE
from prsm.core.identity import READ, ApiKey
from prsm.node import Node, readiness
from prsm.node.status import State, capacity
from prsm.tokenomics.enrolment import account_of

_MOST_MODELS = 50


def status_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(tags=["monitoring"])
    reader = door.of(READ)

    @router.get("/status", summary="Everything at a glance: parts, traffic, models, the caller's money, budgets.")
    async def status(caller: Annotated[ApiKey, reader]) -> StatusShown:
        state = node.monitoring.state()
        parts = {name: Part(**part) for name, part in (await readiness(node)).items()}
        trusted = caller.is_admin
        return StatusShown(
            node=node.key.node_id,
            version=__version__,
            evaluated_at=evaluated(state),
            ready=all(part.ok for part in parts.values()),
            parts=parts,
            traffic=shown_traffic(state, trusted=trusted),
            models=_models(node, state),
            model_count=len(node.path.models.by_name),
            money=await _money(node, caller, trusted=trusted),
            firing=sum(alert.state == "firing" for alert in state.alerts),
            alerts=shown_alerts(state) if trusted else None,
            budgets=[shown_budget(each) for each in state.budgets],
        )

    @router.get("/capacity", summary="How much the node carries, how much it could, and what is used up when.")
    async def show_capacity(_caller: Annotated[ApiKey, reader]) -> CapacityShown:
        return shown_capacity(await capacity(node.monitoring.state()))

    return router


def _models(node: Node, state: State) -> list[ModelNow]:
    """Those asked last first, then others; at most fifty."""
    asked = sorted(state.traffic.by_model.items(), key=lambda item: -item[1])
    names = dict.fromkeys([name for name, _ in asked] + list(node.path.models.by_name))
    by_name = {one.name: one.observed.availability() for one in node.liveness.board.latest(_MOST_MODELS)}
    return [
        ModelNow(
            model=name,
            availability=by_name.get(name),
            tokens_per_s=round(state.traffic.by_model.get(name, 0.0), 2),
            resting=node.safety.boards.models.resting(name),
        )
        for name in list(names)[:_MOST_MODELS]
    ]


async def _money(node: Node, caller: ApiKey, *, trusted: bool) -> Money | None:
    try:
        own = await node.ledger.balance(account_of(caller.principal_id))
        shown = Money(balance_micro=own.balance_micro, held_micro=own.held_micro)
        if trusted:
            shown.node_balance_micro = (await node.ledger.balance(node.account)).balance_micro
            shown.treasury_balance_micro = (await node.ledger.balance("treasury")).balance_micro
    except UNREACHABLE:
        return None
    return shown
