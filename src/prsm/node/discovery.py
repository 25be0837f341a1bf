"""Discovery in a node: sources opened by their kind, read and indexed in the background, and listings adopted.

A price in USD becomes one in FTNS only by a rate that the operator has set; nothing here knows one.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.errors import Kind, PrsmError
from prsm.core.keys import NodeKey
from prsm.core.vectors import pgvector_index
from prsm.federation.discovery.embedded import EmbeddedSource
from prsm.federation.discovery.hugging_face import DEFAULT_ENDPOINT, HubQuery, HuggingFaceSource
from prsm.federation.discovery.indexing import FILTERED, Indexer
from prsm.federation.discovery.listings import KeptListing, Listings
from prsm.federation.discovery.ollama import OllamaSource
from prsm.federation.discovery.openai_list import OpenAIListSource
from prsm.federation.discovery.openrouter import DEFAULT_ADDRESS, OpenRouterSource
from prsm.federation.discovery.seams import NANO, ListedPrice, Source
from prsm.federation.discovery.search import Search
from prsm.federation.discovery.source_book import SourceBook, SourceConfig
from prsm.federation.discovery.sync import Sync
from prsm.federation.model_registry import CAPABILITIES, Model, ModelRegistry, Provider
from prsm.node.built_in import PROVIDER

SOURCE_KINDS: Final = ("huggingface", "openrouter", "openai", "vllm", "ollama", "prsm")
"""Kinds of sources that an operator may add; what runs inside the node is a source of its own."""
EMBEDDED: Final = "embedded"

_LANES: Final = 3
"""Sources that one worker reads at the same time: a slow one does not keep the others waiting."""
_LOOK_S: Final = 2
_FORGET_AFTER_S: Final = 90 * 86_400
_EMBEDDED_EVERY_S: Final = 600
_NANO_PER_MICRO: Final = 1_000
_HUB_ROUTER: Final = "https://router.huggingface.co/v1"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What is known of models elsewhere; ``usd_price_micro_ftns`` is the operator's rate, None: none is set."""

    book: SourceBook
    listings: Listings
    indexer: Indexer
    search: Search
    sync: Sync
    usd_price_micro_ftns: int | None

    async def read_due(self) -> None:
        """Read every source that is due and that nobody else reads."""
        while await self.sync.read_due():
            pass

    async def index(self) -> None:
        """Index what is pending, at half speed: answering requests needs the processor too."""
        while True:
            begun_s = time.monotonic()
            if not await self.indexer.index_pending():
                return
            await asyncio.sleep(time.monotonic() - begun_s)

    async def tidy(self) -> None:
        """Finish removals of sources, and forget what was removed long ago."""
        await self.book.finish_removals()
        while await self.listings.forget_removed(_FORGET_AFTER_S):
            pass


@dataclass(frozen=True, slots=True)
class Adoption:
    """How a listing becomes an instance; what is None is taken from the listing, where that says it.

    ``provider`` is the source's name unless given. Prices are micro-FTNS per million tokens.
    """

    source: str
    name: str
    provider: str = ""
    base_url: str = ""
    input_price_micro: int | None = None
    output_price_micro: int | None = None
    capabilities: tuple[str, ...] = ()
    context_tokens: int | None = None
    max_output_tokens: int | None = None


async def open_discovery(
    settings: Settings, key: NodeKey, store: Database, encoder: TextEncoder, registry: ModelRegistry
) -> Discovery:
    """The parts over the tables."""

    async def embed(texts: Sequence[str]) -> Any:
        return await asyncio.to_thread(encoder.encode, texts)

    async def embed_one(text: str) -> Any:
        return (await embed([text]))[0]

    def built_in() -> list[Model]:
        return [model for model in registry.catalogue.models.values() if model.provider == PROVIDER]

    index = await pgvector_index.open_index(store.pool, "listings", DIMENSION, FILTERED)
    book = SourceBook(store.pool, seal=key.seal, unseal=key.unseal)
    listings = Listings(store.pool, book)
    indexer = Indexer(store.pool, index, embed, encoder.sha256)
    await book.ensure(SourceConfig(PROVIDER, EMBEDDED, every_s=_EMBEDDED_EVERY_S))
    await indexer.start()
    return Discovery(
        book=book,
        listings=listings,
        indexer=indexer,
        search=Search(store.pool, index, embed_one),
        sync=Sync(book, listings, lambda config: open_source(config, built_in)),
        usd_price_micro_ftns=settings.usd_price_micro_ftns or None,
    )


def open_source(config: SourceConfig, built_in: Callable[[], Sequence[Model]]) -> Source:
    """The source of this kind. Raises ConfigError or InvalidRequest where it cannot be asked."""
    name, address, secret = config.name, config.address, config.secret
    if config.kind == EMBEDDED:
        return EmbeddedSource(name, built_in)
    if config.kind == "huggingface":
        # Of the millions on the public hub: where nobody says which, those that somebody serves.
        usual = "" if config.query or address else "all"
        query = HubQuery(
            search=config.query.get("search", ""),
            author=config.query.get("author", ""),
            filter=tuple(filter(None, config.query.get("filter", "").split(","))),
            pipeline_tag=config.query.get("pipeline_tag", ""),
            inference_provider=config.query.get("inference_provider", usual),
        )
        return HuggingFaceSource(name, address or DEFAULT_ENDPOINT, secret=secret, query=query)
    if config.kind == "openrouter":
        return OpenRouterSource(name, address or DEFAULT_ADDRESS, secret=secret)
    if config.kind == "ollama":
        return OllamaSource(name, address, secret=secret)
    return OpenAIListSource(name, address, secret=secret)


def price_micro(price: ListedPrice | None, field: str, usd_price_micro_ftns: int | None) -> int | None:
    """A listed price in micro-FTNS per million tokens, rounded up; None where it or the rate is not known."""
    nano: int | None = getattr(price, field) if price else None
    if price is None or nano is None:
        return None
    if price.currency == "FTNS":
        return -(-nano // _NANO_PER_MICRO)
    return None if usd_price_micro_ftns is None else -(-nano * usd_price_micro_ftns // NANO)


async def adopt(discovery: Discovery, registry: ModelRegistry, wish: Adoption, default_output_tokens: int) -> Model:
    """Add a listing as an instance, and its provider with it. Raises PrsmError saying what must be given.

    An address that the listing's source was added with goes to the provider, with its secret.
    """
    kept = await discovery.listings.one(wish.source, wish.name)
    config = await _config(discovery, wish.source)
    if kept.removed_at:
        raise _refusal(f"{wish.source} lists {wish.name} no longer.", "listing_removed", "Choose another.")
    if kept.listing.served_by == () and not wish.base_url:
        raise _refusal(
            f"No inference provider serves {wish.name} now.", "not_served", "Give --base-url of one that does."
        )
    model = _instance(kept, wish, discovery.usd_price_micro_ftns, default_output_tokens)
    await _put_provider(registry, model.provider, wish, config)
    await registry.put_model(model)
    return model


def _instance(kept: KeptListing, wish: Adoption, rate: int | None, default_output_tokens: int) -> Model:
    listing = kept.listing
    prices = [
        _price(kept, given, field, rate)
        for given, field in ((wish.input_price_micro, "input_nano"), (wish.output_price_micro, "output_nano"))
    ]
    able = wish.capabilities or tuple(listing.capabilities & set(CAPABILITIES))
    context = wish.context_tokens or listing.context_tokens
    if not able:
        raise _refusal("The listing does not say what the model can do.", "unknown_capabilities", "Give --capability.")
    if context is None:
        raise _refusal(
            "The listing does not say how long a context may be.", "unknown_context", "Give --context-tokens."
        )
    provider = wish.provider or wish.source
    return Model(
        name=f"{provider}/{listing.name}",
        provider=provider,
        upstream_name=listing.name,
        capabilities=frozenset(able),
        context_tokens=context,
        max_output_tokens=wish.max_output_tokens or listing.max_output_tokens or min(context, default_output_tokens),
        input_price_micro=prices[0],
        output_price_micro=prices[1],
        description=listing.description,
        licence=listing.licence or "",
    )


def _price(kept: KeptListing, given: int | None, field: str, rate: int | None) -> int:
    if given is not None:
        return given
    price, option = kept.listing.price, f"--price-{'in' if field == 'input_nano' else 'out'}"
    if price and price.request_nano:
        raise _refusal("Each request costs something besides its tokens.", "unknown_price", f"Give {option}.")
    micro = price_micro(price, field, rate)
    if micro is None:
        known = price is not None and getattr(price, field) is not None
        why = "is in USD, and this node knows no rate" if known else "is not known"
        remedy = f"Give {option}, in FTNS per million tokens{', or set usd_price_micro_ftns' if known else ''}."
        raise _refusal(f"The price of {kept.listing.name} {why}.", "unknown_price", remedy)
    return micro


async def _config(discovery: Discovery, source: str) -> SourceConfig:
    state = await discovery.book.one(source)
    if state.kind == EMBEDDED:
        raise _refusal("This model runs inside the node and is answered already.", "built_in", "")
    return SourceConfig(state.name, state.kind, state.address, state.every_s, await discovery.book.secret(source))


async def _put_provider(registry: ModelRegistry, name: str, wish: Adoption, config: SourceConfig) -> None:
    """The provider as it is, where there is one at this address; a secret goes nowhere but to its own source."""
    address = _serving_address(config)
    base_url = (wish.base_url or address).rstrip("/")
    known = registry.catalogue.providers.get(name)
    if not base_url:
        raise _refusal(f"The source {config.name} lists models and serves none.", "serves_none", "Give --base-url.")
    if known and known.base_url != base_url:
        raise _refusal(f"The provider {name} is at {known.base_url}.", "provider_taken", "Give --provider NAME.")
    if not known:
        secret = config.secret if base_url == address else ""
        await registry.put_provider(Provider(name, config.kind, base_url, secret))


def _serving_address(config: SourceConfig) -> str:
    """Where the models that a source lists are asked, empty where it only lists them; some kinds serve elsewhere."""
    address = config.address.rstrip("/")
    if config.kind == "openrouter":
        return f"{(address or DEFAULT_ADDRESS).removesuffix('/api/v1')}/api/v1"
    if config.kind == "ollama":
        return f"{address.removesuffix('/v1')}/v1"
    if config.kind == "huggingface":
        return _HUB_ROUTER if address in ("", DEFAULT_ENDPOINT) else ""
    return address


def _refusal(message: str, code: str, remedy: str) -> PrsmError:
    return PrsmError(message, kind=Kind.CONFLICT, code=code, remedy=remedy)


def background_works(discovery: Discovery, repeat: Callable[..., Any]) -> dict[str, Any]:
    """What a node does for discovery besides answering; ``repeat`` runs a work for ever."""

    async def read(lane: int) -> None:
        if discovery.sync.reading >= lane:  # where those before find nothing to read, this one need not look
            await discovery.read_due()

    lanes = {f"discovery-read-{lane}": repeat(_LOOK_S, partial(read, lane), at_once=True) for lane in range(_LANES)}
    return lanes | {
        "discovery-index": repeat(_LOOK_S, discovery.index),
        "discovery-tidy": repeat(30, discovery.tidy),
    }
