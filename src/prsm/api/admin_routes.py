"""What only an admin may do: principals, grants, providers, models, breakers, and the proof of the ledger."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.schemas import GrantShown, LedgerProof, ModelShown, PrincipalShown, ProviderShown
from prsm.api.user_routes import Limit, spread_revocation
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ADMIN, ApiKey, Principal, Role
from prsm.core.money import MAX_AMOUNT_MICRO
from prsm.federation.model_registry import CAPABILITIES, MAX_PRICE_MICRO, MAX_TOKENS, PROVIDER_KINDS, Model, Provider
from prsm.node import Node, publish_models
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.verify import verify

Capability = Annotated[str, Field(json_schema_extra={"enum": [*CAPABILITIES]})]

_PLAIN = r"^[^\x00-\x1f\x7f]*$"


class NewPrincipal(BaseModel):
    """A person, team or service that will own keys and money."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100, pattern=_PLAIN)
    role: Role = "user"


class NewGrant(BaseModel):
    """FTNS issued to a principal; sending the same ``id`` again grants nothing more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[UUID, Field(strict=False)]
    amount_micro: int = Field(ge=1, le=MAX_AMOUNT_MICRO)


class ProviderChange(BaseModel):
    """How a provider is reached. ``api_key`` is sealed and never shown; empty keeps it while the address stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str = Field(max_length=40, json_schema_extra={"enum": [*PROVIDER_KINDS]})
    base_url: str = Field(max_length=2000)
    api_key: str = Field(default="", max_length=4000)


class ModelChange(BaseModel):
    """A model as callers see it; prices are micro-FTNS per million tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    capabilities: list[Capability] = Field(default=["chat"], min_length=1, max_length=10)
    context_tokens: int = Field(default=8192, ge=1, le=MAX_TOKENS)
    max_output_tokens: int = Field(default=4096, ge=1, le=MAX_TOKENS)
    input_price_micro: int = Field(ge=0, le=MAX_PRICE_MICRO)
    output_price_micro: int = Field(ge=0, le=MAX_PRICE_MICRO)
    description: str = Field(default="", max_length=4000, pattern=r"^[^\x00]*$")
    version: str = Field(default="", max_length=200, pattern=_PLAIN)
    cid: str = Field(default="", max_length=200, pattern=r"^[a-zA-Z0-9]*$")
    model: str = Field(default="", max_length=200, pattern=_PLAIN, description="The registered model it serves.")
    licence: str = Field(default="", max_length=200, pattern=_PLAIN)
    region: str = Field(default="", max_length=200, pattern=_PLAIN)
    cached_input_price_micro: int | None = Field(default=None, ge=0, le=MAX_PRICE_MICRO)
    owner_principal_id: Annotated[UUID | None, Field(strict=False, description="Who earns the owner's share.")] = None


def admin_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(tags=["admin"])
    _principal_routes(router, node, door)
    _provider_routes(router, node, door)
    _model_routes(router, node, door)
    _proof_routes(router, node, door)
    return router


def _principal_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.get("/principals", summary="All principals.")
    async def list_principals(caller: Annotated[ApiKey, admin], limit: Limit = 100) -> list[PrincipalShown]:
        await node.audit.seen(caller.principal_id, "names of principals")
        return [_shown(principal) for principal in await node.identities.list_principals(limit)]

    @router.post("/principals", status_code=201, summary="A new principal, with an account and the welcome grant.")
    async def create_principal(new: NewPrincipal, _caller: Annotated[ApiKey, admin]) -> PrincipalShown:
        return _shown(await node.enrolment.principal(new.name, new.role))

    @router.delete("/principals/{principal_id}", summary="Disable a principal: all its keys are refused from now on.")
    async def disable_principal(principal_id: UUID, caller: Annotated[ApiKey, admin]) -> PrincipalShown:
        if principal_id == caller.principal_id:
            raise PrsmError("An admin cannot disable itself.", kind=Kind.CONFLICT, code="own_principal")
        for prefix in await node.identities.disable_principal(principal_id):
            await spread_revocation(node, prefix)
        return _shown(await node.identities.principal(principal_id))

    @router.post("/principals/{principal_id}/grants", status_code=201, summary="Issue FTNS to a principal.")
    async def grant(principal_id: UUID, new: NewGrant, _caller: Annotated[ApiKey, admin]) -> GrantShown:
        principal = await node.identities.principal(principal_id)
        account = account_of(principal.id)
        await node.ledger.account_id(account)
        fresh = await node.ledger.transfer(new.id, "issuance", account, new.amount_micro, "grant")
        return GrantShown(id=new.id, account=account, amount_micro=new.amount_micro, already_granted=not fresh)


def _provider_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.get("/providers", summary="All providers, without their secrets.")
    async def list_providers(_caller: Annotated[ApiKey, admin]) -> list[ProviderShown]:
        return [
            ProviderShown(name=p.name, kind=p.kind, base_url=p.base_url, has_api_key=bool(p.api_key))
            for p in node.registry.catalogue.providers.values()
        ]

    @router.get("/providers/{name}/models", summary="What the provider offers, by its own names.")
    async def discover(name: str, _caller: Annotated[ApiKey, admin]) -> list[str]:
        provider = node.registry.catalogue.providers.get(name)
        if provider is None:
            raise PrsmError(f"There is no provider {name[:64]}.", kind=Kind.NOT_FOUND, code="unknown_provider")
        return await node.executors[provider.kind].list_models(provider.base_url, provider.api_key)

    @router.put("/providers/{name}", summary="Add a provider or change it.")
    async def put_provider(name: str, change: ProviderChange, _caller: Annotated[ApiKey, admin]) -> ProviderShown:
        await node.registry.put_provider(Provider(name, change.kind, change.base_url, change.api_key))
        await publish_models(node)
        kept = node.registry.catalogue.providers[name]
        return ProviderShown(name=name, kind=kept.kind, base_url=kept.base_url, has_api_key=bool(kept.api_key))


def _model_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)

    @router.put("/models/{provider}/{upstream_name:path}", summary="Add a model or change it.")
    async def put_model(
        provider: str, upstream_name: str, change: ModelChange, _caller: Annotated[ApiKey, admin]
    ) -> ModelShown:
        values = change.model_dump(exclude={"capabilities", "owner_principal_id"})
        owner = change.owner_principal_id
        model = Model(
            name=f"{provider}/{upstream_name}",
            provider=provider,
            upstream_name=upstream_name,
            capabilities=frozenset(change.capabilities),
            owner_account=account_of((await node.identities.principal(owner)).id) if owner else "",
            **values,
        )
        await node.registry.put_model(model)
        await publish_models(node)
        return ModelShown(name=model.name, **change.model_dump())

    @router.delete("/models/{provider}/{upstream_name:path}", status_code=204, summary="Remove a model.")
    async def remove_model(provider: str, upstream_name: str, _caller: Annotated[ApiKey, admin]) -> None:
        name = f"{provider}/{upstream_name}"
        if name not in node.registry.catalogue.models:
            raise PrsmError(f"There is no model {name[:200]!r}.", kind=Kind.NOT_FOUND, code="unknown_model")
        await node.registry.remove_model(name)
        await publish_models(node)


def _proof_routes(router: APIRouter, node: Node, door: Door) -> None:
    @router.get("/ledger/verify", summary="Replay the whole ledger and prove its invariants.")
    async def verify_ledger(_caller: Annotated[ApiKey, door.of(ADMIN)]) -> LedgerProof:
        async with node.database.pool.acquire() as connection:
            proof = await verify(connection)
        return LedgerProof(
            ok=proof.violation_count == 0,
            head=proof.head,
            holds=proof.holds,
            captures=proof.captures,
            releases=proof.releases,
            expiries=proof.expiries,
            transfers=proof.transfers,
            refunds=proof.refunds,
            open_holds=proof.open_holds,
            violation_count=proof.violation_count,
            violations=list(proof.violations),
        )


def _shown(principal: Principal) -> PrincipalShown:
    return PrincipalShown(
        id=principal.id,
        name=principal.name,
        role=principal.role,
        account=account_of(principal.id),
        created_at=principal.created_at,
        disabled_at=principal.disabled_at,
    )
