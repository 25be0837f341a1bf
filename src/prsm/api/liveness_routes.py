"""How models do now: one route, read from memory."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from prsm.api.door import Door
from prsm.api.liveness_schemas import LivenessShown, ModelLiveness, Probes, shown_model
from prsm.api.user_routes import Limit
from prsm.core.identity import READ
from prsm.node import Node


def liveness_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(tags=["models"])
    board, prober = node.liveness.board, node.liveness.prober

    @router.get("/liveness", summary="How the models do now: availability, errors, quantiles, SLA and who is ejected.")
    async def liveness(
        _caller: Annotated[Any, door.of(READ)],
        model: Annotated[str, Query(max_length=200, description="Only this one; empty: all.")] = "",
        limit: Limit = 100,
    ) -> LivenessShown:
        shown: list[ModelLiveness] = []
        for name in [model] if model else sorted(board.groups)[:limit]:
            await asyncio.sleep(0)  # a model costs a millisecond, and requests wait
            group = board.groups.get(name)
            if group:
                shown.append(shown_model(board, group))
        return LivenessShown(
            models=shown,
            probes=Probes(
                per_minute=prober.policy.per_minute,
                chat=prober.policy.chat,
                answered=prober.made["ok"],
                failed=prober.made["failed"],
            ),
        )

    return router
