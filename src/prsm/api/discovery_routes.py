"""Models elsewhere: sources for admins, their listings for everybody who may read, and adopting one as an instance."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from prsm.api.discovery_schemas import (
    MAX_PRICE_CHARS,
    PRICE,
    Able,
    Adopted,
    FoundListing,
    FtnsPrice,
    ListingsFound,
    ListingShown,
    PriceShown,
    SourceChange,
    SourceShown,
    Wish,
)
from prsm.api.door import Door
from prsm.core.clock import now
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import ADMIN, READ, ApiKey
from prsm.federation.discovery.listings import KeptListing
from prsm.federation.discovery.seams import NANO, ListedPrice
from prsm.federation.discovery.search import MAX_QUERY_CHARS, WINDOW, Found, Wanted
from prsm.federation.discovery.source_book import SourceConfig, SourceState, check_source, is_stale
from prsm.node import Node, publish_models
from prsm.node.discovery import EMBEDDED, SOURCE_KINDS, Adoption, adopt, price_micro

_MAX_OFFSET = 1_000_000
Ceiling = Annotated[str | None, Query(pattern=PRICE, max_length=MAX_PRICE_CHARS, description="Per million tokens.")]
Words = Annotated[list[Annotated[str, Query(max_length=200)]], Query(max_length=50)]


def discovery_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/discovery", tags=["discovery"])
    _source_routes(router, node, door)
    _listing_routes(router, node, door)
    return router


def _source_routes(router: APIRouter, node: Node, door: Door) -> None:
    admin = door.of(ADMIN)
    book = node.discovery.book

    @router.get("/sources", summary="All sources of models, without their secrets.")
    async def list_sources(_caller: Annotated[ApiKey, admin]) -> list[SourceShown]:
        return [_source(state) for state in await book.all()]

    @router.put("/sources/{name}", summary="Add a source or change it; it is read soon.")
    async def put_source(name: str, change: SourceChange, _caller: Annotated[ApiKey, admin]) -> SourceShown:
        config = SourceConfig(name, change.kind, change.address, change.every_s, change.secret, change.query)
        check_source(config, SOURCE_KINDS)
        await _refuse_built_in(node, name)
        await book.put(config)
        return _source(await book.one(name))

    @router.delete("/sources/{name}", status_code=204, summary="Remove a source and what it lists.")
    async def remove_source(name: str, _caller: Annotated[ApiKey, admin]) -> None:
        await _refuse_built_in(node, name)
        await book.remove(name)

    @router.post("/sync", status_code=202, summary="Read a source, or all that may be asked now, at once.")
    async def sync(
        _caller: Annotated[ApiKey, admin], source: Annotated[str | None, Query(max_length=64)] = None
    ) -> list[SourceShown]:
        await book.read_soon(source)
        asked = [await book.one(source)] if source else await book.all()
        return [_source(state) for state in asked if state.next_read_at <= now() and not state.removing]


def _listing_routes(router: APIRouter, node: Node, door: Door) -> None:
    discovery = node.discovery
    read = door.of(READ)

    @router.get("/listings", summary="Models that sources list: by name, by what is meant, and by conditions.")
    async def find(
        _caller: Annotated[ApiKey, read],
        q: Annotated[str, Query(max_length=MAX_QUERY_CHARS)] = "",
        capability: Annotated[list[Able], Query(max_length=10)] = [],  # noqa: B006 - FastAPI copies it
        max_input_price: Ceiling = None,
        max_output_price: Ceiling = None,
        currency: Literal["USD", "FTNS"] = "USD",
        min_context_tokens: Annotated[int | None, Query(ge=0, le=2**53 - 1)] = None,
        licence: Words = [],  # noqa: B006
        source: Words = [],  # noqa: B006
        ungated: bool = False,
        limit: Annotated[int, Query(ge=1, le=WINDOW)] = 20,
        offset: Annotated[int, Query(ge=0, le=_MAX_OFFSET)] = 0,
    ) -> ListingsFound:
        wanted = Wanted(
            capabilities=tuple(capability),
            max_input_nano=_nano(max_input_price),
            max_output_nano=_nano(max_output_price),
            currency=currency,
            min_context_tokens=min_context_tokens,
            licences=tuple(licence),
            sources=tuple(source),
            ungated=ungated,
        )
        found = await discovery.search.find(q, wanted, limit=limit, offset=offset)
        more = len(found) == limit and (not q.strip() or offset + 2 * limit <= WINDOW)
        return ListingsFound(
            listings=[_found(node, each) for each in found],
            next_offset=offset + limit if more else None,
            pending=await discovery.indexer.pending(),
        )

    @router.get("/listings/{source}/{name:path}", summary="One listing, also one that was removed.")
    async def one(source: str, name: str, _caller: Annotated[ApiKey, read]) -> ListingShown:
        return ListingShown(**_listing(node, await discovery.listings.one(source, name)))

    @router.post("/adopt", status_code=201, summary="Add a listing as an instance that callers can ask.")
    async def adopt_listing(wish: Wish, _caller: Annotated[ApiKey, door.of(ADMIN)]) -> Adopted:
        values: dict[str, Any] = wish.model_dump() | {"capabilities": tuple(wish.capabilities)}
        model = await adopt(discovery, node.registry, Adoption(**values), node.settings.default_max_output_tokens)
        await publish_models(node)
        return Adopted(
            name=model.name,
            capabilities=sorted(model.capabilities),
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            input_price_micro=model.input_price_micro,
            output_price_micro=model.output_price_micro,
            licence=model.licence,
        )


async def _refuse_built_in(node: Node, name: str) -> None:
    if any(state.name == name and state.kind == EMBEDDED for state in await node.discovery.book.all()):
        raise PrsmError(f"{name} is built in and cannot be changed.", kind=Kind.CONFLICT, code="built_in")


def _source(state: SourceState) -> SourceShown:
    at = now()
    values: dict[str, Any] = {name: getattr(state, name) for name in SourceState.__slots__}
    return SourceShown(
        **values,
        age_s=None if state.last_read_at is None else int((at - state.last_read_at).total_seconds()),
        stale=is_stale(state.last_read_at, state.every_s, at),
    )


def _found(node: Node, found: Found) -> FoundListing:
    similarity = None if found.similarity is None else round(found.similarity, 4)
    return FoundListing(**_listing(node, found.kept), by_name=found.by_name, similarity=similarity)


def _listing(node: Node, kept: KeptListing) -> dict[str, Any]:
    listing, at = kept.listing, now()
    plain = ("name", "title", "description", "context_tokens", "max_output_tokens", "parameters", "licence", "gated")
    return {
        **{name: getattr(listing, name) for name in (*plain, "updated_at", "page_url")},
        **{name: sorted(getattr(listing, name)) for name in ("capabilities", "input_modalities", "output_modalities")},
        **{name: getattr(kept, name) for name in ("source", "first_seen_at", "last_seen_at", "removed_at", "read_at")},
        "served_by": None if listing.served_by is None else [*listing.served_by],
        "price": _price(listing.price, node.discovery.usd_price_micro_ftns) if listing.price else None,
        "age_s": None if kept.read_at is None else int((at - kept.read_at).total_seconds()),
        "stale": is_stale(kept.read_at, kept.every_s, at),
        "indexed": kept.indexed,
    }


def _price(price: ListedPrice, rate: int | None) -> PriceShown:
    ftns = FtnsPrice(
        input_price_micro=price_micro(price, "input_nano", rate),
        output_price_micro=price_micro(price, "output_nano", rate),
    )
    known = ftns.input_price_micro is not None or ftns.output_price_micro is not None
    return PriceShown(
        source=price.source,
        as_of=price.as_of,
        currency=price.currency,
        input=_decimal(price.input_nano),
        output=_decimal(price.output_nano),
        cached_input=_decimal(price.cached_input_nano),
        request=_decimal(price.request_nano),
        ftns=ftns if known else None,
    )


def _nano(price: str | None) -> int | None:
    return None if price is None else int(Decimal(price) * NANO)


def _decimal(nano: int | None) -> str | None:
    """As people write it: 250000000 is ``0.25``."""
    return None if nano is None else format((Decimal(nano) / NANO).normalize(), "f")
