"""What the router would do with a request, explained: nothing is run, held or charged.

The same parser, question, decision and plan as of a request that is answered; only exploring, which is chance, is left
out.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from prsm.agents.call import ChatCall, Json
from prsm.agents.conversations import joined, size_bytes
from prsm.agents.plan import Ask, Caller, make_plan, question_of
from prsm.agents.routers.explain import Explanation, explanation
from prsm.agents.routers.model_router import candidates
from prsm.api.door import Door
from prsm.api.wire import openai_chat
from prsm.api.wire.parsed import ParsedCall, parse_max_cost_micro, parse_session_id, policy_of
from prsm.core.clock import uuid7
from prsm.core.identity import CHAT, ApiKey
from prsm.node import Node
from prsm.tokenomics.enrolment import account_of

MAX_SHOWN = 1000
_BODY: Json = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model", "messages"],
                    "example": {"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]},
                }
            }
        },
    }
}


class ShownInstance(BaseModel):
    """One instance. ``place`` counts from 1 among those that would be tried, null for others: ``why_not`` says why.

    ``chance`` is of a good answer, null where quality was not weighed; ``latency_ms`` is to the end of the answer, 0
    where nothing was measured; the order goes by ``utility_micro``.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str
    model: str
    version: str
    place: int | None
    chance: float | None
    expected_micro: int
    latency_ms: float
    utility_micro: float
    resting: bool
    reason: str
    why_not: str


class Excluded(BaseModel):
    """A condition and how many instances it took away, of those that the ones before it had left."""

    condition: str
    why_not: str
    instances: int


class Explained(BaseModel):
    """What the router would do. ``worth_micro`` and ``second_micro`` are what a good answer and a second count.

    ``instances`` are those to be tried, then the able ones, best first, then the excluded, as many as were asked for
    of ``total``. ``held_micro`` would be held.
    """

    aim: str
    named: str
    worth_micro: int
    second_micro: int
    held_micro: int
    able: int
    total: int
    instances: list[ShownInstance]
    excluded: list[Excluded] = Field(description="By condition, in the order in which they are applied.")


def route_routes(node: Node, door: Door) -> APIRouter:
    """The route over one node."""
    router = APIRouter(prefix="/route", tags=["route"])
    chat = door.of(CHAT)

    @router.post(
        "/explain", summary="Who would answer a chat completion, and why; nothing is run.", openapi_extra=_BODY
    )
    async def explain(
        request: Request, caller: Annotated[ApiKey, chat], limit: Annotated[int, Query(ge=1, le=MAX_SHOWN)] = 100
    ) -> Explained:
        body = await request.body()
        call = openai_chat.parse(body, max_bytes=node.settings.body_limit_bytes)
        ask = await _ask(node, request, caller, call, len(body))
        decision = await node.path.router.decide(call.model, question_of(ask), explore=False)
        plan = make_plan(ask, candidates(decision), node.path.limits)
        return _shown(explanation(decision, limit), plan.held_micro)

    return router


async def _ask(node: Node, request: Request, caller: ApiKey, call: ParsedCall, body_bytes: int) -> Ask:
    sent = request.headers
    header = sent.get("x-prsm-session")
    session_id = parse_session_id(header) if header else call.prsm.session_id
    cap = sent.get("x-prsm-max-cost-micro")
    history = await node.conversations.history(session_id, caller.principal_id) if session_id else []
    return Ask(
        caller=Caller(caller.id, account_of(caller.principal_id)),
        call=ChatCall(
            uuid7(), joined(history, call.messages), call.model, call.stream, call.max_output_tokens, call.options
        ),
        request_digest="",
        body_bytes=body_bytes,
        history_bytes=size_bytes(history),
        cap_micro=parse_max_cost_micro(cap) if cap else call.prsm.max_cost_micro,
        choices=call.n,
        policy=policy_of(call.prsm, sent.get("x-prsm-policy")),
        session_id=session_id,
    )


def _shown(found: Explanation, held_micro: int) -> Explained:
    fields: dict[str, Any] = {name: getattr(found, name) for name in ("aim", "named", "worth_micro", "second_micro")}
    return Explained(
        **fields,
        held_micro=held_micro,
        able=found.able,
        total=found.total,
        instances=[ShownInstance.model_validate(each) for each in found.considered],
        excluded=[Excluded(condition=name, why_not=why, instances=gone) for name, why, gone in found.excluded],
    )
