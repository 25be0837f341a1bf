"""What every caller may do with its own things: keys, wallet, receipts, sessions, and finding models.

Each route asks for one scope and touches only what the caller's principal owns; an admin key reaches the others' too
where that is said.
"""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.schemas import CreatedKey, FoundModel, Key, KeyBudget, Session, Transcript, Wallet
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.core.identity import CHAT, EMBEDDINGS, KEYS, READ, SCOPES, ApiKey, Grant
from prsm.core.money import MAX_AMOUNT_MICRO, format_ftns
from prsm.node import KEY_REVOKED, Node
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.orders import Budget

Scope = Annotated[str, Field(json_schema_extra={"enum": [*sorted(SCOPES)]})]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cap = Annotated[int | None, Field(ge=0, le=MAX_AMOUNT_MICRO, description="Spend cap of the key, micro-FTNS.")]


def _storable(at: datetime) -> datetime:
    """A time whose UTC form exists; one without a time zone is refused later, by the rules of grants."""
    try:
        return at.astimezone(UTC) if at.tzinfo else at
    except OverflowError:
        raise ValueError("is not a time between the years 1 and 9999 in UTC") from None


class NewKey(BaseModel):
    """What a new key may do. Scopes are some of chat, embeddings, read, keys, admin."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    scopes: list[Scope] = Field(default=[CHAT, EMBEDDINGS, READ], min_length=1, max_length=10)
    expires_at: Annotated[datetime, Field(strict=False), AfterValidator(_storable)] | None = None
    rate_limit_per_minute: int | None = Field(default=None, ge=1, le=1_000_000)
    cap_micro: Cap = None
    principal_id: Annotated[UUID | None, Field(strict=False, description="Whose key; an admin may name another.")] = (
        None
    )


class Rotation(BaseModel):
    """How long the old key stays valid beside the new one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    grace_s: int = Field(default=0, ge=0, le=86_400)


class CapChange(BaseModel):
    """A key's new spend cap, counted over its whole life; null is no cap of its own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cap_micro: Cap


def user_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter()
    _key_routes(router, node, door)
    _money_routes(router, node, door)
    _session_routes(router, node, door)
    _search_route(router, node, door)
    return router


async def spread_revocation(node: Node, prefix: str) -> None:
    """Forget a key here and tell the other workers to; the ledger refuses it at once in any case."""
    node.identities.forget(prefix)
    await emit(node.database.pool, KEY_REVOKED, {"prefix": prefix})
    node.outbox.hint()


def _key_routes(router: APIRouter, node: Node, door: Door) -> None:
    keys = door.of(KEYS)

    @router.get("/keys", tags=["keys"], summary="The caller's keys (all keys, for an admin), without their secrets.")
    async def list_keys(caller: Annotated[ApiKey, keys], limit: Limit = 100) -> list[Key]:
        if caller.is_admin:
            await node.audit.seen(caller.principal_id, "names of keys")
        found = await node.identities.list_keys(actor=caller, limit=limit)
        budgets = await node.ledger.budgets([key.id for key in found])
        return [Key(**_shown(key, budgets.get(key.id))) for key in found]

    @router.post("/keys", tags=["keys"], status_code=201, summary="A new key; its token is shown this once.")
    async def create_key(new: NewKey, caller: Annotated[ApiKey, keys]) -> CreatedKey:
        grant = Grant(new.name, frozenset(new.scopes), new.expires_at, new.rate_limit_per_minute)
        owner = new.principal_id or caller.principal_id
        issued = await node.enrolment.key(owner, grant, actor=caller, cap_micro=new.cap_micro)
        budgets = await node.ledger.budgets([issued.key.id])
        return CreatedKey(**_shown(issued.key, budgets.get(issued.key.id)), token=issued.token)

    @router.post("/keys/{key_id}/rotate", tags=["keys"], status_code=201, summary="Replace a key by a new one like it.")
    async def rotate_key(key_id: UUID, how: Rotation, caller: Annotated[ApiKey, keys]) -> CreatedKey:
        old = await node.identities.key(key_id, actor=caller)
        if old.id != caller.id:
            await _check_no_cap(node, caller)
        issued = await node.enrolment.rotate(key_id, actor=caller, grace_s=how.grace_s)
        await spread_revocation(node, old.prefix)
        return CreatedKey(**_shown(issued.key, None), token=issued.token)

    @router.delete("/keys/{key_id}", tags=["keys"], summary="Revoke a key, at once and for good.")
    async def revoke_key(key_id: UUID, caller: Annotated[ApiKey, keys]) -> Key:
        revoked = await node.identities.revoke(key_id, actor=caller)
        await spread_revocation(node, revoked.prefix)
        return Key(**_shown(revoked, None))

    @router.put("/keys/{key_id}/cap", tags=["keys"], summary="Change a key's spend cap; nobody changes their own.")
    async def set_cap(key_id: UUID, change: CapChange, caller: Annotated[ApiKey, keys]) -> Key:
        key = await node.identities.key(key_id, actor=caller)
        if key.id == caller.id and not caller.is_admin:
            raise _cap_not_held()
        await _check_no_cap(node, caller)
        await node.ledger.set_cap(key.id, change.cap_micro)
        return Key(**_shown(key, (await node.ledger.budgets([key.id]))[key.id]))


def _money_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.get("/wallet", tags=["wallet"], summary="The caller's money, and what its key has spent.")
    async def wallet(caller: Annotated[ApiKey, read]) -> Wallet:
        account = account_of(caller.principal_id)
        balance = await node.ledger.balance(account)
        budget = (await node.ledger.budgets([caller.id])).get(caller.id)
        return Wallet(
            account=account,
            balance_micro=balance.balance_micro,
            held_micro=balance.held_micro,
            available_micro=balance.available_micro,
            available_ftns=format_ftns(balance.available_micro),
            key=_budget(budget),
        )

    @router.get("/receipts", tags=["receipts"], summary="The caller's newest receipts; page by the last id seen.")
    async def list_receipts(caller: Annotated[ApiKey, read], limit: Limit = 20, before: UUID | None = None) -> Response:
        account_id = await node.ledger.account_id(account_of(caller.principal_id))
        rows = await node.database.pool.fetch(
            "SELECT body FROM receipts WHERE account_id = $1 AND ($2::uuid IS NULL OR id < $2) "
            "ORDER BY id DESC LIMIT $3",
            account_id,
            before,
            limit,
        )
        return Response(b"[" + b",".join(row["body"] for row in rows) + b"]", media_type="application/json")

    @router.get("/receipts/{receipt_id}", tags=["receipts"], summary="One receipt, byte for byte as it was signed.")
    async def get_receipt(receipt_id: UUID, caller: Annotated[ApiKey, read]) -> Response:
        account_id = await node.ledger.account_id(account_of(caller.principal_id))
        row = await node.database.pool.fetchrow(
            "SELECT body, account_id = $2 AS own FROM receipts WHERE id = $1 AND (account_id = $2 OR $3)",
            receipt_id,
            account_id,
            caller.is_admin,
        )
        if row is None:
            raise PrsmError(f"There is no receipt {receipt_id}.", kind=Kind.NOT_FOUND, code="unknown_receipt")
        if not row["own"]:
            await node.audit.seen(caller.principal_id, "a receipt", str(receipt_id))
        return Response(row["body"], media_type="application/json")


def _session_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.get("/sessions", tags=["sessions"], summary="The caller's conversations, newest first.")
    async def list_sessions(caller: Annotated[ApiKey, read], limit: Limit = 100) -> list[Session]:
        return [Session(**found) for found in await node.conversations.list_of(caller.principal_id, limit)]

    @router.get("/sessions/{session_id}", tags=["sessions"], summary="The messages of a conversation.")
    async def get_session(session_id: UUID, caller: Annotated[ApiKey, read]) -> Transcript:
        messages = await node.conversations.history(session_id, caller.principal_id)
        if not messages:
            raise PrsmError(f"There is no session {session_id}.", kind=Kind.NOT_FOUND, code="unknown_conversation")
        return Transcript(id=session_id, messages=messages)

    @router.delete("/sessions/{session_id}", tags=["sessions"], status_code=204, summary="Delete a conversation.")
    async def delete_session(session_id: UUID, caller: Annotated[ApiKey, read]) -> None:
        await node.conversations.delete(session_id, caller.principal_id)


def _search_route(router: APIRouter, node: Node, door: Door) -> None:
    @router.get("/models/search", tags=["models"], summary="Models whose descriptions mean what is asked, best first.")
    async def search(
        _caller: Annotated[ApiKey, door.of(READ)],
        q: Annotated[str, Query(min_length=1, max_length=1000)],
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> list[FoundModel]:
        found = await node.registry.search(q, limit)
        return [
            FoundModel(model=model.name, similarity=round(similarity, 4), description=model.description)
            for model, similarity in found
        ]


async def _check_no_cap(node: Node, caller: ApiKey) -> None:
    """A key with a spend cap must not come by what another may spend; an admin's may."""
    own = (await node.ledger.budgets([caller.id])).get(caller.id)
    if not caller.is_admin and own is not None and own.cap_micro is not None:
        raise _cap_not_held()


def _cap_not_held() -> PrsmError:
    return PrsmError(
        "A key with a spend cap cannot change caps or rotate other keys, and no key changes its own cap.",
        kind=Kind.FORBIDDEN,
        code="cap_not_held",
        remedy="Use another key of yours that has no cap, or ask an admin.",
    )


def _shown(key: ApiKey, budget: Budget | None) -> dict[str, Any]:
    return {
        "id": key.id,
        "principal_id": key.principal_id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "rate_limit_per_minute": key.rate_limit_per_minute,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "created_at": key.created_at,
        "budget": _budget(budget),
    }


def _budget(budget: Budget | None) -> KeyBudget | None:
    if budget is None:
        return None
    return KeyBudget(cap_micro=budget.cap_micro, spent_micro=budget.spent_micro, held_micro=budget.held_micro)
