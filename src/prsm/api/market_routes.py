"""The market over HTTP: offers, quotes, earnings, statements and refunds. Each caller reaches what is its own.

Selling needs the scope market; asking for prices, for one's own figures and for money back needs read, as everything
about one's own money does.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from prsm.agents.call import Target
from prsm.agents.routers.model_router import Question
from prsm.agents.routers.roster import served_model
from prsm.api.door import Door
from prsm.api.market_schemas import (
    EarningsShown,
    NewDecision,
    NewOffer,
    NewQuote,
    NewRefund,
    OfferChange,
    OfferHistory,
    OfferShown,
    RefundShown,
    StatementShown,
    shown_earnings,
    shown_history,
    shown_offer,
    shown_refund,
    shown_statement,
)
from prsm.api.user_routes import Limit
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import MARKET, READ, ApiKey
from prsm.node import Node, reload_market
from prsm.tokenomics.enrolment import account_of
from prsm.tokenomics.market.offers import MAX_PRICE_MICRO, Listed, Offer, State, Wanted, check_seller, find
from prsm.tokenomics.market.quote_book import Wish
from prsm.tokenomics.quotes import Price

_Text = Annotated[str, Query(max_length=300)]
_PriceLimit = Annotated[int | None, Query(ge=0, le=MAX_PRICE_MICRO, description="Micro-FTNS per million tokens.")]
_Whose = Annotated[
    str,
    Query(
        max_length=300, pattern=r"^[^\x00]*$", description="Whose; empty: the caller's. An admin may name any account."
    ),
]


def market_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/market", tags=["market"])
    _offer_routes(router, node, door)
    _seller_routes(router, node, door)
    _quote_routes(router, node, door)
    _account_routes(router, node, door)
    _refund_routes(router, node, door)
    return router


def _offer_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.get("/offers", summary="What is for sale now; page by the last id seen.")
    async def list_offers(
        _caller: Annotated[ApiKey, read],
        model: _Text = "",
        capability: _Text = "",
        licence: _Text = "",
        owner: _Text = "",
        max_input_price_micro: _PriceLimit = None,
        max_output_price_micro: _PriceLimit = None,
        limit: Limit = 100,
        after: UUID | None = None,
    ) -> list[OfferShown]:
        wanted = Wanted(model, capability, licence, owner, max_input_price_micro, max_output_price_micro)
        served = node.path.models.by_name
        pairs = [(offer, _listed(node, name)) for name, offer in node.market.live.items() if name in served]
        return [shown_offer(*pair) for pair in find(pairs, wanted, after=after, limit=limit)]

    @router.get("/offers/{offer_id}", summary="An offer with its revisions and the moves of its prices.")
    async def get_offer(offer_id: UUID, _caller: Annotated[ApiKey, read]) -> OfferHistory:
        offer = await node.market.offers.offer(offer_id)
        return shown_history(_shown(node, offer), *await node.market.offers.history(offer_id))


def _seller_routes(router: APIRouter, node: Node, door: Door) -> None:
    market = door.of(MARKET)

    @router.post("/offers", status_code=201, summary="Offer an instance that the caller owns.")
    async def open_offer(new: NewOffer, caller: Annotated[ApiKey, market]) -> OfferShown:
        target = node.path.models.by_name.get(new.instance)
        if target is None:
            raise PrsmError(f"There is no instance {new.instance!r}.", kind=Kind.NOT_FOUND, code="model_not_found")
        owner = _owner(node, target)
        check_seller(owner, account_of(caller.principal_id), is_admin=caller.is_admin)
        await node.market.check_stake(owner, new.stake_micro)
        offer = await node.market.offers.open(new.instance, owner, new.terms(), account_of(caller.principal_id))
        await _spread(node)
        return _shown(node, offer)

    @router.put("/offers/{offer_id}", summary="Change an offer's terms, or pause and open it.")
    async def change_offer(offer_id: UUID, change: OfferChange, caller: Annotated[ApiKey, market]) -> OfferShown:
        await _check_owner(node, caller, offer_id)
        terms = change.terms.terms() if change.terms else None
        by = account_of(caller.principal_id)
        state = State(change.state) if change.state else None
        offer = await node.market.offers.revise(offer_id, terms, state, by)
        await _spread(node)
        return _shown(node, offer)

    @router.delete("/offers/{offer_id}", summary="Withdraw an offer, for good.")
    async def withdraw_offer(offer_id: UUID, caller: Annotated[ApiKey, market]) -> OfferShown:
        await _check_owner(node, caller, offer_id)
        by = account_of(caller.principal_id)
        offer = await node.market.offers.revise(offer_id, None, State.WITHDRAWN, by)
        await _spread(node)
        return _shown(node, offer)


def _quote_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.post("/quotes", status_code=201, summary="Prices that bind for a time, signed by the node.")
    async def make_quote(new: NewQuote, caller: Annotated[ApiKey, read]) -> Response:
        account = account_of(caller.principal_id)
        wish = Wish(account, new.model, new.input_tokens, new.output_tokens, new.ttl_s)
        node.market.quotes.check(wish)
        needs = frozenset({"chat" if new.output_tokens else "embeddings"})
        most = new.input_tokens + new.output_tokens
        question = Question(needs, new.question, new.input_tokens, new.output_tokens, new.input_tokens, most)
        chosen = (await node.path.candidates(new.model, question))[0].target
        price = Price(chosen.input_price_micro, chosen.output_price_micro, chosen.cached_input_price_micro)
        return _json(await node.market.quotes.make(wish, chosen.name, price), 201)

    @router.get("/quotes/{quote_id}", summary="A quote, byte for byte as it was signed.")
    async def get_quote(quote_id: UUID, caller: Annotated[ApiKey, read]) -> Response:
        return _json(await node.market.quotes.body(quote_id, account_of(caller.principal_id)))


def _account_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.get("/earnings", summary="What an account has earned, and what of it went back.")
    async def earnings(caller: Annotated[ApiKey, read], account: _Whose = "") -> EarningsShown:
        return shown_earnings(await node.market.accounts.earnings(await _whose(node, caller, account)))

    @router.get("/statements/{month}", summary="An account's statement of a month, like 2026-01.")
    async def statement(month: str, caller: Annotated[ApiKey, read], account: _Whose = "") -> StatementShown:
        return shown_statement(await node.market.accounts.statement(await _whose(node, caller, account), month))


def _refund_routes(router: APIRouter, node: Node, door: Door) -> None:
    read = door.of(READ)

    @router.post("/refunds", status_code=201, summary="Ask for the money of a request back.")
    async def ask_refund(new: NewRefund, caller: Annotated[ApiKey, read]) -> RefundShown:
        account = account_of(caller.principal_id)
        asked = await node.market.refunds.ask(
            new.request_id, account, new.reason, amount_micro=new.amount_micro, note=new.note
        )
        return shown_refund(asked)

    @router.get("/refunds", summary="Refunds that the caller asked for or sold (all, for an admin), newest first.")
    async def list_refunds(
        caller: Annotated[ApiKey, read], limit: Limit = 20, before: UUID | None = None
    ) -> list[RefundShown]:
        if caller.is_admin:
            await node.audit.seen(caller.principal_id, "refunds and their notes")
        found = await node.market.refunds.refunds(_reach(caller), limit=limit, before=before)
        return [shown_refund(refund) for refund in found]

    @router.get("/refunds/{refund_id}", summary="One refund with its decisions.")
    async def get_refund(refund_id: UUID, caller: Annotated[ApiKey, read]) -> RefundShown:
        if caller.is_admin:
            await node.audit.seen(caller.principal_id, "a refund and its notes", str(refund_id))
        return shown_refund(await node.market.refunds.refund(refund_id, _reach(caller)))

    @router.post("/refunds/{refund_id}/decisions", status_code=201, summary="Grant a refund, or refuse it.")
    async def decide(refund_id: UUID, decision: NewDecision, caller: Annotated[ApiKey, door.of(MARKET)]) -> RefundShown:
        decided = await node.market.refunds.decide(
            refund_id,
            account_of(caller.principal_id),
            is_admin=caller.is_admin,
            amount_micro=decision.amount_micro,
            note=decision.note,
        )
        return shown_refund(decided)


async def _spread(node: Node) -> None:
    """The new prices here at once, and at the other workers by the event."""
    await reload_market(node)
    node.outbox.hint()


async def _check_owner(node: Node, caller: ApiKey, offer_id: UUID) -> None:
    """Who earns by the instance now may change its offer; of one that is gone, who made it."""
    offer = await node.market.offers.offer(offer_id)
    target = node.path.models.by_name.get(offer.instance)
    owner = _owner(node, target) if target else offer.owner_account
    check_seller(owner, account_of(caller.principal_id), is_admin=caller.is_admin)


def _owner(node: Node, target: Target) -> str:
    return target.owner_account or node.account


def _shown(node: Node, offer: Offer) -> OfferShown:
    return shown_offer(offer, _listed(node, offer.instance))


def _listed(node: Node, instance: str) -> Listed:
    """What the registry says of an instance; one that is gone can do nothing."""
    target = node.path.models.by_name.get(instance)
    if target is None:
        return Listed("", frozenset(), "")
    return Listed(served_model(target), target.capabilities, target.licence)


async def _whose(node: Node, caller: ApiKey, account: str) -> str:
    own = account_of(caller.principal_id)
    if account in ("", own):
        return own
    if not caller.is_admin:
        raise PrsmError("Only an admin sees another's figures.", kind=Kind.FORBIDDEN, code="not_an_admin")
    if not await node.ledger.has_account(account):
        raise PrsmError(
            f"No account {account} was ever opened.", kind=Kind.NOT_FOUND, code="unknown_account", param="account"
        )
    await node.audit.seen(caller.principal_id, "figures of an account", account)
    return account


def _reach(caller: ApiKey) -> str | None:
    return None if caller.is_admin else account_of(caller.principal_id)


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
