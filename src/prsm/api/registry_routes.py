"""Registered models over HTTP: versions, releases, their history, and two of them beside each other.

Reading is open to every key with the scope; whatever changes what callers get is an admin's, and stands in the history
with who did it. A change answers when this worker follows it; the others hear of it within a second.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from prsm.api.door import Door
from prsm.api.registry_comparing import compared
from prsm.api.registry_schemas import (
    ChangeShown,
    Comparison,
    NewAlias,
    NewLimits,
    NewState,
    NewVersion,
    Promotion,
    RegisteredModel,
    ReleaseShown,
    Rollback,
    VersionShown,
    limits_of,
    shown_change,
    shown_model,
    shown_release,
    shown_version,
)
from prsm.api.user_routes import Limit
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ADMIN, READ, ApiKey
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.releases import Standing
from prsm.federation.registry.versions import CANDIDATE, MODEL_PATTERN, Ref, Registered, split_reference
from prsm.node import Node, reload_models
from prsm.tokenomics.enrolment import account_of

Name = Annotated[str, Path(max_length=200, pattern=MODEL_PATTERN, description="A registered model.")]
Reference = Annotated[
    str, Path(min_length=1, max_length=301, description="MODEL@VERSION, MODEL@ALIAS, or MODEL for the stable one.")
]
Side = Annotated[str, Query(min_length=1, max_length=301, description="MODEL, MODEL@VERSION or PROVIDER/MODEL.")]


def registry_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/registry", tags=["registry"])
    _reading_routes(router, node, door)
    _version_routes(router, node, door)
    _release_routes(router, node, door)
    return router


def _reading_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.get("/models", summary="Registered models, by name; page by the last name seen.")
    async def list_models(
        _caller: Annotated[ApiKey, read], limit: Limit = 100, after: Annotated[str, Query(max_length=200)] = ""
    ) -> list[ReleaseShown]:
        releases = node.registry.catalogue.releases
        return [shown_release(releases[name]) for name in sorted(name for name in releases if name > after)[:limit]]

    @router.get("/models/{model:path}", summary="A registered model: its release and its versions, newest first.")
    async def get_model(model: Name, _caller: Annotated[ApiKey, read]) -> RegisteredModel:
        catalogue = node.registry.catalogue
        if model not in catalogue.releases:
            raise _unknown(f"There is no registered model {model!r}.", "unknown_model")
        return shown_model(catalogue, catalogue.releases[model])

    @router.get("/versions/{reference:path}", summary="A version: its statement, standing, lineage and scores.")
    async def get_version(reference: Reference, _caller: Annotated[ApiKey, read]) -> VersionShown:
        return shown_version(node.registry.catalogue, _meant(node, reference))

    @router.get("/history/{model:path}", summary="What became of a model, newest first; page by the last id seen.")
    async def history(
        model: Name,
        _caller: Annotated[ApiKey, read],
        limit: Limit = 100,
        before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    ) -> list[ChangeShown]:
        return [shown_change(each) for each in await node.versions.history(model, limit=limit, before=before)]

    @router.get("/compare", summary="Two versions, models or instances beside each other.")
    async def compare(_caller: Annotated[ApiKey, read], left: Side, right: Side) -> Comparison:
        return compared(node, left, right)


def _version_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.post("/versions", status_code=201, summary="Register a version; the same again changes nothing.")
    async def register(new: NewVersion, caller: Annotated[ApiKey, admin]) -> VersionShown:
        owner = new.owner_principal_id
        registered = await node.versions.register(
            new.version_stated(),
            by=account_of(caller.principal_id),
            signature=new.signature,
            owner_account=account_of((await node.identities.principal(owner)).id) if owner else "",
            state=State(new.state),
            reason=new.reason,
        )
        return await _followed(node, registered.version.ref)

    @router.put("/states/{reference:path}", summary="Make a version a draft, the candidate, deprecated or retired.")
    async def move(reference: Reference, new: NewState, caller: Annotated[ApiKey, admin]) -> VersionShown:
        ref = _meant(node, reference).version.ref
        by = account_of(caller.principal_id)
        await node.versions.move(ref, State(new.state), by=by, reason=new.reason, retire_at=new.retire_at)
        return await _followed(node, ref)

    @router.put("/limits/{reference:path}", summary="Declare what a version is deprecated for breaking.")
    async def limit(reference: Reference, new: NewLimits, caller: Annotated[ApiKey, admin]) -> VersionShown:
        ref = _meant(node, reference).version.ref
        by = account_of(caller.principal_id)
        await node.versions.set_limits(ref, limits_of(new), by=by, reason=new.reason)
        return await _followed(node, ref)


def _release_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.post("/promotions", summary="Make a version stable; no request fails meanwhile.")
    async def promote(new: Promotion, caller: Annotated[ApiKey, admin]) -> ReleaseShown:
        by = account_of(caller.principal_id)
        standing = await node.versions.promote(new.model, new.version or CANDIDATE, by=by, reason=new.reason)
        return await _released(node, standing)

    @router.post("/rollbacks", summary="Go back to the former stable version; no request fails meanwhile.")
    async def roll_back(new: Rollback, caller: Annotated[ApiKey, admin]) -> ReleaseShown:
        by = account_of(caller.principal_id)
        standing = await node.versions.roll_back(new.model, by=by, away_from=new.away_from, reason=new.reason)
        return await _released(node, standing)

    @router.put("/aliases/{model:path}", summary="Let MODEL@ALIAS mean a version, or nothing any more.")
    async def alias(model: Name, new: NewAlias, caller: Annotated[ApiKey, admin]) -> ReleaseShown:
        by = account_of(caller.principal_id)
        standing = await node.versions.set_alias(model, new.alias, new.version, by=by, reason=new.reason)
        return await _released(node, standing)


async def _followed(node: Node, ref: Ref) -> VersionShown:
    """The version as it is known after this worker has read the change; the others are told to."""
    node.outbox.hint()
    await reload_models(node)
    catalogue = node.registry.catalogue
    return shown_version(catalogue, catalogue.versions[ref])


async def _released(node: Node, standing: Standing) -> ReleaseShown:
    node.outbox.hint()
    await reload_models(node)
    return shown_release(standing.release)


def _meant(node: Node, reference: str) -> Registered:
    found = node.registry.catalogue.meant(*split_reference(reference))
    if found is None:
        raise _unknown(f"There is no registered version {reference!r}.", "unknown_version")
    return found


def _unknown(message: str, code: str) -> PrsmError:
    return PrsmError(message, kind=Kind.NOT_FOUND, code=code, remedy="See: prsm models list.")
