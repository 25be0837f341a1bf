"""Privacy over HTTP: everybody can have what is held of himself exported and erased; an admin what is held of anybody.

Whatever an admin does here with another's data is in the audit log.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.user_routes import spread_revocation
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ADMIN, KEYS, READ, ApiKey
from prsm.node import Node


class ExportShown(BaseModel):
    """All that is held of one subject, by table; None stands for what nobody can open any more."""

    subject: UUID
    node: str
    at: datetime
    held: dict[str, list[dict[str, Any]]]


class ErasureWish(BaseModel):
    """Whom to erase. It cannot be undone: the keys end, conversations and ratings go, accounts stay without a name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    principal_id: Annotated[UUID, Field(strict=False)]


class ConsentWord(BaseModel):
    """A yes or a no to a purpose."""

    model_config = ConfigDict(extra="forbid", strict=True)

    granted: bool


class ConsentShown(BaseModel):
    """A purpose and what counts for it; ``since`` null: nothing was said, the default counts."""

    purpose: str
    says: str
    granted: bool
    since: datetime | None


def privacy_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/privacy", tags=["privacy"])
    _own_routes(router, node, door)
    _subject_routes(router, node, door)
    _consent_routes(router, node, door)
    _operator_routes(router, node, door)
    return router


def _own_routes(router: APIRouter, node: Node, door: Door) -> None:
    @router.get("/export", summary="All that the node holds of the caller, machine-readable.")
    async def export(caller: Annotated[ApiKey, door.of(READ)]) -> ExportShown:
        return ExportShown.model_validate(await node.privacy.export(caller.principal_id))

    @router.post("/erase", summary="Erase the caller for good; answers the signed certificate.")
    async def erase(wish: ErasureWish, caller: Annotated[ApiKey, door.of(KEYS)]) -> Response:
        if wish.principal_id != caller.principal_id:
            raise PrsmError(
                f"You are not the principal {wish.principal_id}.",
                kind=Kind.NOT_FOUND,
                code="principal_not_found",
                remedy=f"Send your own id, {caller.principal_id}, to say that you mean it.",
            )
        if caller.role == "admin":
            raise PrsmError("An admin cannot erase itself; another one can.", kind=Kind.CONFLICT, code="own_principal")
        return await _erased(node, caller.principal_id)


def _subject_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.get("/principals/{principal_id}/export", summary="All that the node holds of somebody.")
    async def export_of(principal_id: UUID, caller: Annotated[ApiKey, admin]) -> ExportShown:
        await node.audit.seen(caller.principal_id, "everything", str(principal_id))
        return ExportShown.model_validate(await node.privacy.export(principal_id))

    @router.post("/principals/{principal_id}/erase", summary="Erase somebody for good; answers the certificate.")
    async def erase_of(principal_id: UUID, caller: Annotated[ApiKey, admin]) -> Response:
        if principal_id == caller.principal_id:
            raise PrsmError("An admin cannot erase itself; another one can.", kind=Kind.CONFLICT, code="own_principal")
        return await _erased(node, principal_id)


def _consent_routes(router: APIRouter, node: Node, door: Door) -> None:
    @router.get("/consents", summary="What the caller agrees to, purpose by purpose.")
    async def consents(caller: Annotated[ApiKey, door.of(READ)]) -> list[ConsentShown]:
        found = await node.privacy.consents.of(caller.principal_id)
        return [ConsentShown.model_validate(each, from_attributes=True) for each in found]

    @router.put("/consents/{purpose}", summary="Agree to a purpose, or no longer.")
    async def say(purpose: str, word: ConsentWord, caller: Annotated[ApiKey, door.of(READ)]) -> list[ConsentShown]:
        found = await node.privacy.consents.say(caller.principal_id, purpose, granted=word.granted)
        return [ConsentShown.model_validate(each, from_attributes=True) for each in found]


def _operator_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.get(
        "/records",
        summary="The record of processing (GDPR Art. 30).",
        responses={"200": {"content": {"text/markdown": {"schema": {"type": "string"}}}}},
    )
    async def records(_caller: Annotated[ApiKey, admin]) -> Response:
        return PlainTextResponse(node.privacy.records(), media_type="text/markdown")

    @router.get("/retention", summary="How long what is kept, by the settings that say so.")
    async def retention(_caller: Annotated[ApiKey, door.of(READ)]) -> dict[str, str]:
        return node.privacy.periods()

    @router.post("/retention", summary="Do now what is due; answers how many rows were taken away or sealed.")
    async def enforce(_caller: Annotated[ApiKey, admin]) -> dict[str, int]:
        return {"rows": await node.privacy.retention.step()}


async def _erased(node: Node, subject: UUID) -> Response:
    certificate, prefixes = await node.privacy.erase(subject)
    for prefix in prefixes:
        await spread_revocation(node, prefix)
    return Response(certificate, media_type="application/json")
