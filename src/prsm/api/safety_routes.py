"""Safety over HTTP: policies, incidents with appeals and their review, suspicious accounts, breakers.

A caller sees its own incidents without the texts, which it knows, and appeals; the rest is an admin's.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.identity import ADMIN, READ, ApiKey
from prsm.node import Node
from prsm.node.safety import HALT
from prsm.safety.incidents import Incident
from prsm.safety.policy import MAX_RULES, PRESETS, Policy, read_policy
from prsm.safety.policy_book import NODE, Written
from prsm.safety.seams import Category
from prsm.tokenomics.enrolment import account_of

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
_WORDS = r"^[^\x00]*$"
_SCOPE = r"^(node|key:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|model:[^\x00-\x1f\x7f]{1,200})$"
Scope = Annotated[str, Field(pattern=_SCOPE, max_length=220)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Account = Annotated[str, Path(max_length=300, pattern=_PLAIN)]
Reason = Annotated[str, Field(min_length=1, max_length=1000, pattern=_PLAIN, description="Why; it is kept.")]


class RuleShown(BaseModel):
    """A category whose probability reaches the threshold is met with the action."""

    model_config = ConfigDict(extra="forbid", strict=True)

    category: Annotated[str, Field(json_schema_extra={"enum": [each.value for each in Category]})]
    action: Literal["annotate", "redact", "review", "block", "escalate"]
    threshold: float = Field(default=0.5, gt=0, le=1)
    direction: Literal["input", "output", "both"] = "both"


class PolicyShown(BaseModel):
    """Rules, and how much of a stream may be shown before it was looked at."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rules: list[RuleShown] = Field(max_length=MAX_RULES)
    stream_lag_chars: int = Field(default=256, ge=0, le=4096)


class PolicyWanted(BaseModel):
    """A policy to put in force: whole, or by the name of a preset."""

    model_config = ConfigDict(extra="forbid", strict=True)

    policy: PolicyShown | None = None
    preset: Literal["standard", "strict", "observe"] | None = None
    reason: Reason


class PolicyWritten(BaseModel):
    """A change of a scope's policy; none took it away."""

    scope: str
    policy: PolicyShown | None
    by: str
    reason: str
    at: datetime


class Policies(BaseModel):
    """What is in force: what was written by scope, the node's preset until then, and what detectors look."""

    screened_by: str = Field(description="The detectors; empty where nothing is screened.")
    preset: str
    written: list[PolicyWritten]


class SeenShown(BaseModel):
    """One category of an incident."""

    category: str
    score: float
    action: str


class IncidentShown(BaseModel):
    """Texts that a policy blocked or put before a person."""

    id: UUID
    request_id: UUID
    account: str
    model: str
    direction: str
    action: str
    findings: list[SeenShown]
    status: str
    appeal: str
    decided_by: str
    note: str
    created_at: datetime
    decided_at: datetime | None
    texts: list[str] = Field(description="Only for an admin who asks for one incident, or for decided examples.")


class Appeal(BaseModel):
    """Which blocked request was harmless, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[UUID, Field(strict=False)]
    words: str = Field(min_length=1, max_length=4000, pattern=_WORDS)


class Appealed(BaseModel):
    """How many incidents of the request now wait for a reviewer."""

    waiting: int


class Decided(BaseModel):
    """A reviewer's decision: ``upheld`` where the detectors were right."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Literal["upheld", "overturned"]
    note: str = Field(default="", max_length=4000, pattern=_WORDS)


class ThreatShown(BaseModel):
    """How suspicious an account is; the score was that at ``at`` and halves with time."""

    account: str
    score: float
    at: datetime | None
    throttled_until: datetime | None
    suspended_until: datetime | None
    suspensions: int
    reason: str


class BreakerShown(BaseModel):
    """A breaker as this worker knows it; ``held`` ones are open until they are reset by hand."""

    board: str
    name: str
    state: str
    calls: int
    failures: int
    retry_in_s: float
    reason: str


class Trip(BaseModel):
    """Why a breaker is opened by hand."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Reason


def safety_routes(node: Node, door: Door) -> APIRouter:
    """The routes of policies, incidents and threats over one node."""
    router = APIRouter(tags=["safety"])
    _policy_routes(router, node, door)
    _incident_routes(router, node, door)
    _review_routes(router, node, door)
    _threat_routes(router, node, door)
    return router


def _policy_routes(router: APIRouter, node: Node, door: Door) -> None:
    reader, admin, book = door.of(READ), door.of(ADMIN), node.safety.policies

    @router.get("/safety/policies", summary="The policies in force.")
    async def policies(_caller: Annotated[ApiKey, reader]) -> Policies:
        guard = node.safety.guard
        written = [_written(each) for each in await book.current()]
        return Policies(screened_by=guard.name if guard else "", preset=node.settings.screening, written=written)

    @router.get("/safety/policy-history", summary="Every change of a policy, the newest first.")
    async def history(
        _caller: Annotated[ApiKey, admin],
        scope: Annotated[str, Query(max_length=220, pattern=_PLAIN)] = "",
        limit: Limit = 100,
    ) -> list[PolicyWritten]:
        return [_written(each) for each in await book.history(scope or None, limit)]

    @router.put("/safety/policies/{scope:path}", summary="Put a policy in force for node, key:UUID or model:NAME.")
    async def write(scope: Scope, wanted: PolicyWanted, caller: Annotated[ApiKey, admin]) -> PolicyWritten:
        await book.write(scope, _policy(wanted), by=account_of(caller.principal_id), reason=wanted.reason)
        node.outbox.hint()
        return _written((await book.history(scope, 1))[0])

    @router.delete("/safety/policies/{scope:path}", status_code=204, summary="Take a scope's policy away.")
    async def remove(
        scope: Scope,
        caller: Annotated[ApiKey, admin],
        reason: Annotated[str, Query(max_length=1000, pattern=_PLAIN)] = "",
    ) -> None:
        if scope not in {each.scope for each in await book.current()}:
            raise PrsmError(f"No policy of {scope} was written.", kind=Kind.NOT_FOUND, code="no_policy", param="scope")
        await book.write(scope, None, by=account_of(caller.principal_id), reason=reason)
        node.outbox.hint()


def _incident_routes(router: APIRouter, node: Node, door: Door) -> None:
    reader, book = door.of(READ), node.safety.incidents

    @router.get("/safety/incidents", summary="Blocked and reviewed texts: one's own, or an admin's view of all.")
    async def incidents(
        caller: Annotated[ApiKey, reader],
        status: Annotated[Literal["recorded", "open", "upheld", "overturned"] | None, Query()] = None,
        limit: Limit = 100,
    ) -> list[IncidentShown]:
        account = None if caller.is_admin else account_of(caller.principal_id)
        if caller.is_admin:
            await node.audit.seen(caller.principal_id, "incidents and appeals")
        return [_incident(each) for each in await book.listed(status=status, account=account, limit=limit)]

    @router.post("/safety/appeals", status_code=201, summary="Ask for a person to look at a request that was blocked.")
    async def appeal(wanted: Appeal, caller: Annotated[ApiKey, reader]) -> Appealed:
        waiting = await book.appeal(wanted.request_id, account_of(caller.principal_id), wanted.words)
        return Appealed(waiting=waiting)


def _review_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin, book = door.of(ADMIN), node.safety.incidents

    @router.get("/safety/incidents/{incident_id}", summary="One incident with its texts.")
    async def incident(incident_id: UUID, caller: Annotated[ApiKey, admin]) -> IncidentShown:
        await node.audit.seen(caller.principal_id, "an incident and its texts", str(incident_id))
        return _incident(await book.get(incident_id))

    @router.post("/safety/incidents/{incident_id}/decision", summary="Uphold or overturn what was done.")
    async def decide(incident_id: UUID, wanted: Decided, caller: Annotated[ApiKey, admin]) -> IncidentShown:
        return _incident(
            await book.decide(incident_id, wanted.decision, by=account_of(caller.principal_id), note=wanted.note)
        )

    @router.get("/safety/examples", summary="What reviewers decided, with texts: examples to evaluate detectors on.")
    async def examples(caller: Annotated[ApiKey, admin], limit: Limit = 1000) -> list[IncidentShown]:
        await node.audit.seen(caller.principal_id, "incidents that were decided, and their texts")
        return [_incident(each) for each in await book.examples(limit)]


def _threat_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin, threats = door.of(ADMIN), node.safety.threats

    @router.get("/safety/threats", summary="The most suspicious accounts.")
    async def listed(_caller: Annotated[ApiKey, admin], limit: Limit = 100) -> list[ThreatShown]:
        return [
            ThreatShown(
                account=account,
                score=round(threat.score, 3),
                at=_time(threat.at_s),
                throttled_until=_time(threat.throttled_until_s),
                suspended_until=_time(threat.suspended_until_s),
                suspensions=threat.suspensions,
                reason=threat.reason,
            )
            for account, threat in await threats.listed(limit)
        ]

    @router.delete("/safety/threats/{account}", status_code=204, summary="Clear an account and lift what binds it.")
    async def lift(account: Account, caller: Annotated[ApiKey, admin]) -> None:
        await threats.lift(account, by=account_of(caller.principal_id))
        node.outbox.hint()


def breaker_routes(node: Node, door: Door) -> APIRouter:
    """The routes of circuit breakers over one node."""
    router = APIRouter(tags=["safety"])
    admin, safety = door.of(ADMIN), node.safety

    @router.get("/breakers", summary="The circuit breakers of models, providers, storage, callers and the node.")
    async def listed(_caller: Annotated[ApiKey, admin]) -> list[BreakerShown]:
        return [
            BreakerShown(board=board, name=name, **msgspec.to_builtins(view))
            for board, breakers in safety.boards.by_name().items()
            for name, view in sorted(breakers.snapshot().items())
        ]

    @router.put("/breakers/{board}/{name:path}", status_code=204, summary="Open a breaker until it is reset.")
    async def trip(board: str, name: str, wanted: Trip, caller: Annotated[ApiKey, admin]) -> None:
        await safety.sharing.trip(board, _known(board, name), by=account_of(caller.principal_id), reason=wanted.reason)
        node.outbox.hint()

    @router.delete("/breakers/{board}/{name:path}", status_code=204, summary="Close a breaker.")
    async def reset(board: str, name: str, caller: Annotated[ApiKey, admin]) -> None:
        await safety.sharing.reset(board, _known(board, name), by=account_of(caller.principal_id))
        node.outbox.hint()

    return router


def _policy(wanted: PolicyWanted) -> Policy:
    if (wanted.policy is None) == (wanted.preset is None):
        raise InvalidRequest("Give a policy or the name of a preset.", param="policy")
    if wanted.policy is None:
        return PRESETS[wanted.preset or NODE]
    return read_policy(wanted.policy.model_dump_json().encode())


def _written(each: Written) -> PolicyWritten:
    policy = None if each.policy is None else PolicyShown.model_validate_json(msgspec.json.encode(each.policy))
    return PolicyWritten(scope=each.scope, policy=policy, by=each.by, reason=each.reason, at=each.at)


def _incident(each: Incident) -> IncidentShown:
    return IncidentShown.model_validate_json(msgspec.json.encode(each))


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _known(board: str, name: str) -> str:
    if board == "node" and name != HALT:
        raise InvalidRequest(f"The board node has one breaker, which is called {HALT}.", param="name")
    if not name.isprintable() or len(name) > 300:
        raise InvalidRequest("The name of a breaker is printable and at most 300 characters long.", param="name")
    return name
