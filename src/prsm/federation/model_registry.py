"""The models this node can ask: providers and models in PostgreSQL, and one immutable snapshot of them in memory.

A request reads only the snapshot. Changes are written with an event, and every node on the database reloads on it.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import asyncpg
import structlog

from prsm.core.database import Pool
from prsm.core.errors import ConfigError, InvalidRequest, Kind, PrsmError
from prsm.core.events import emit
from prsm.core.seams import Attribute, Filter, VectorIndex, VectorItem

CHANGED = "models.changed"
PROVIDER_KINDS = ("openai", "anthropic", "huggingface", "ollama", "vllm", "openrouter", "prsm", "embedded")
CAPABILITIES = ("chat", "tools", "vision", "embeddings")
MAX_PRICE_MICRO = 10**12
MAX_TOKENS = 100_000_000
_INDEX_BATCH = 100
_STAMP = "stamp"

Seal = Callable[[str, str], str]
Embed = Callable[[Sequence[str]], Awaitable[Any]]

_log: Any = structlog.get_logger("models")


@dataclass(frozen=True, slots=True)
class Provider:
    """Where models are reached. ``api_key`` is plaintext here and sealed at rest."""

    name: str
    kind: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """An instance, what callers may name: ``name`` is ``provider/model``; prices are micro-FTNS per million tokens.

    ``model`` is the registered model that it serves (else it stands for itself), ``version`` the version of that.
    ``region`` is where it runs, as its operator says. A cached input token without a price costs as any input token.
    """

    name: str
    provider: str
    upstream_name: str
    capabilities: frozenset[str]
    domain: str | None = None
    context_tokens: int = 8192
    max_output_tokens: int = 4096
    input_price_micro: int = 0
    output_price_micro: int = 0
    description: str = ""
    version: str = ""
    cid: str = ""
    owner_account: str = ""
    model: str = ""
    licence: str = ""
    region: str = ""
    cached_input_price_micro: int | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One consistent view: models by name, providers by name, and models by their short name."""

    models: MappingProxyType[str, Model]
    providers: MappingProxyType[str, Provider]
    by_short_name: MappingProxyType[str, tuple[Model, ...]]

    def find(self, name: str) -> tuple[Model, ...]:
        """The models a caller means by ``name``: the full name, or the part after the provider's."""
        exact = self.models.get(name)
        return (exact,) if exact else self.by_short_name.get(name, ())


def build_catalogue(providers: Sequence[Provider], models: Sequence[Model]) -> Catalogue:
    """Index models and providers; models whose provider is not known are left out."""
    known = {provider.name: provider for provider in providers}
    able = {model.name: model for model in models if model.provider in known}
    short: dict[str, tuple[Model, ...]] = {}
    for model in able.values():
        short[model.upstream_name] = (*short.get(model.upstream_name, ()), model)
    return Catalogue(MappingProxyType(able), MappingProxyType(known), MappingProxyType(short))


def check_provider(provider: Provider) -> None:
    """Raise InvalidRequest unless the provider can be used."""
    _check_name(provider.name, "provider")
    if provider.kind not in PROVIDER_KINDS:
        raise InvalidRequest(f"A provider's kind is one of {', '.join(PROVIDER_KINDS)}.", param="kind")
    if provider.kind != "embedded" and not provider.base_url.startswith(("http://", "https://")):
        raise InvalidRequest("A provider's base_url begins with http:// or https://.", param="base_url")
    if any(ord(c) <= 32 or ord(c) > 126 for c in provider.base_url + provider.api_key):
        raise InvalidRequest("base_url and api_key are plain ASCII without spaces.", param="base_url")
    if len(provider.base_url) > 2000 or len(provider.api_key) > 4000:
        raise InvalidRequest("base_url has at most 2,000 and api_key at most 4,000 characters.", param="base_url")


def check_model(model: Model) -> None:
    """Raise InvalidRequest, naming the field, unless every value is in its range."""
    _check_name(model.provider, "provider")
    if model.name != f"{model.provider}/{model.upstream_name}":
        raise InvalidRequest("A model's name is provider/model.", param="name")
    if not 1 <= len(model.upstream_name) <= 200 or not _plain(model.upstream_name):
        # The name stands in a header of the response.
        raise InvalidRequest("A model's name has 1 to 200 printable ASCII characters.", param="upstream_name")
    unknown = model.capabilities - set(CAPABILITIES)
    if unknown or not model.capabilities:
        raise InvalidRequest(f"Capabilities are some of {', '.join(CAPABILITIES)}.", param="capabilities")
    for name in ("input_price_micro", "output_price_micro"):
        if not 0 <= getattr(model, name) <= MAX_PRICE_MICRO:
            raise InvalidRequest(f"{name} is from 0 to {MAX_PRICE_MICRO} micro-FTNS per million tokens.", param=name)
    if not 0 <= (model.cached_input_price_micro or 0) <= model.input_price_micro:
        raise InvalidRequest(
            "A cached input token costs at most what any input token does.", param="cached_input_price_micro"
        )
    for name in ("context_tokens", "max_output_tokens"):
        if not 1 <= getattr(model, name) <= MAX_TOKENS:
            raise InvalidRequest(f"{name} is from 1 to {MAX_TOKENS}.", param=name)
    for name in ("domain", "version", "cid", "owner_account", "model", "licence", "region"):
        if len(text := getattr(model, name) or "") > 200 or not _plain(text):
            raise InvalidRequest(f"{name} has at most 200 printable ASCII characters.", param=name)
    if len(model.description) > 4000 or "\0" in model.description:
        raise InvalidRequest("A description has at most 4,000 characters and no NUL.", param="description")


class ModelRegistry:
    """Reads and writes the catalogue; ``seal`` and ``unseal`` protect providers' secrets at rest."""

    def __init__(
        self,
        pool: Pool,
        *,
        seal: Seal,
        unseal: Seal,
        built_in: tuple[Sequence[Provider], Sequence[Model]] = ((), ()),
        index: VectorIndex | None = None,
        embed: Embed | None = None,
        embedder: str = "",
    ) -> None:
        """``built_in`` stand beside the stored ones; ``index`` with ``embed`` makes models findable by description.

        ``embedder`` names what ``embed`` computes: with another name all vectors are computed anew.
        """
        self._pool = pool
        self._seal = seal
        self._unseal = unseal
        self._built_in = built_in
        self._index = index
        self._embed = embed
        self._embedder = embedder
        self._reloading = asyncio.Lock()
        self._unreadable: set[str] = set()
        self.catalogue = build_catalogue(*built_in)

    async def reload(self) -> Catalogue:
        """Read the catalogue anew; a provider whose secret cannot be opened is left out, with a line in the log."""
        async with self._reloading:  # or an older reading could be the last to be kept
            # Models first: the provider of a model that is there is there too.
            models = [_model(row) for row in await self._pool.fetch("SELECT * FROM models ORDER BY name")]
            rows = await self._pool.fetch("SELECT name, kind, base_url, sealed_key FROM providers ORDER BY name")
            providers = [found for row in rows if (found := self._provider(row)) is not None]
            self.catalogue = build_catalogue([*self._built_in[0], *providers], [*self._built_in[1], *models])
        return self.catalogue

    async def put_provider(self, provider: Provider) -> None:
        """Add a provider or change it. Raises InvalidRequest.

        Without an ``api_key`` the stored one stays, but only at the address that it was given for.
        """
        check_provider(provider)
        self._refuse_built_in(provider.name)
        sealed = self._seal(provider.api_key, f"provider:{provider.name}") if provider.api_key else ""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO providers (name, kind, base_url, sealed_key) VALUES ($1, $2, $3, $4) "
                "ON CONFLICT (name) DO UPDATE SET kind = $2, base_url = $3, sealed_key = "
                "CASE WHEN $4 = '' AND providers.base_url = $3 THEN providers.sealed_key ELSE $4 END",
                provider.name,
                provider.kind,
                provider.base_url.rstrip("/"),
                sealed,
            )
            await emit(connection, CHANGED, {"provider": provider.name})
        await self.reload()

    async def put_model(self, model: Model) -> None:
        """Add a model or change it, and index its description. Raises InvalidRequest."""
        check_model(model)
        self._refuse_built_in(model.provider)
        values = (
            model.name,
            model.provider,
            model.upstream_name,
            sorted(model.capabilities),
            model.domain,
            model.context_tokens,
            model.max_output_tokens,
            model.input_price_micro,
            model.output_price_micro,
            model.description,
            model.version,
            model.cid,
            model.owner_account,
            model.model,
            model.licence,
            model.region,
            model.cached_input_price_micro,
        )
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_PUT_MODEL, *values)
                await emit(connection, CHANGED, {"model": model.name})
        except asyncpg.ForeignKeyViolationError:
            raise PrsmError(
                f"There is no provider {model.provider}.",
                kind=Kind.NOT_FOUND,
                code="unknown_provider",
                remedy="Add it first: prsm models add --help.",
            ) from None
        await self.reload()
        await self.index([model])

    async def remove_model(self, name: str) -> None:
        """Forget a model; its provider goes with its last model. Raises PrsmError when there is none."""
        self._refuse_built_in(name.partition("/")[0])
        async with self._pool.acquire() as connection, connection.transaction():
            provider = await connection.fetchval("DELETE FROM models WHERE name = $1 RETURNING provider", name)
            if provider is None:
                raise PrsmError(f"There is no model {name} to remove.", kind=Kind.NOT_FOUND, code="unknown_model")
            await connection.execute(
                "DELETE FROM providers WHERE name = $1 AND NOT EXISTS (SELECT 1 FROM models WHERE provider = $1)",
                provider,
            )
            await emit(connection, CHANGED, {"model": name})
        if self._index:
            await self._index.delete([name])
        await self.reload()

    async def index(self, models: Sequence[Model]) -> None:
        """Make models findable by their descriptions; those indexed as they are now cost nothing."""
        if not (self._index and self._embed):
            return
        for start in range(0, len(models), _INDEX_BATCH):
            stamps = {model: self._stamp(model) for model in models[start : start + _INDEX_BATCH]}
            kept = await _stamped(self._index, list(stamps.values()))
            changed = [model for model, stamp in stamps.items() if (model.name, stamp) not in kept]
            if changed:
                vectors = await self._embed([_indexed_text(model) for model in changed])
                items = zip(changed, vectors, strict=True)
                await self._index.upsert(
                    [VectorItem(m.name, vector, {**_attributes(m), _STAMP: stamps[m]}) for m, vector in items]
                )

    async def search(self, text: str, limit: int, filters: Sequence[Filter] = ()) -> list[tuple[Model, float]]:
        """Models whose descriptions mean something like ``text``, best first, with their similarity."""
        if not (self._index and self._embed):
            raise PrsmError("This node has no search by description.", kind=Kind.UNAVAILABLE, code="search_off")
        vector = (await self._embed([text]))[0]
        hits = await self._index.search(vector, limit, filters)
        models = self.catalogue.models
        return [(models[hit.id], hit.similarity) for hit in hits if hit.id in models]

    def _stamp(self, model: Model) -> str:
        """Changes with whatever of a model, or of what embeds it, is in the index."""
        parts = [self._embedder, _indexed_text(model), sorted(_attributes(model).items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _provider(self, row: Any) -> Provider | None:
        name, sealed = row["name"], row["sealed_key"]
        try:
            api_key = self._unseal(sealed, f"provider:{name}") if sealed else ""
        except ConfigError as error:
            if name not in self._unreadable:
                _log.error("provider left out", provider=name, reason=str(error))
            self._unreadable.add(name)
            return None
        self._unreadable.discard(name)
        return Provider(name, row["kind"], row["base_url"], api_key)

    def _refuse_built_in(self, provider: str) -> None:
        if provider in {built_in.name for built_in in self._built_in[0]}:
            raise PrsmError(f"{provider} is built in and cannot be changed.", kind=Kind.CONFLICT, code="built_in")


_PUT_MODEL = """
INSERT INTO models (name, provider, upstream_name, capabilities, domain, context_tokens, max_output_tokens,
    input_price_micro, output_price_micro, description, version, cid, owner_account,
    model, licence, region, cached_input_price_micro)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (name) DO UPDATE SET provider = $2, upstream_name = $3, capabilities = $4, domain = $5,
    context_tokens = $6, max_output_tokens = $7, input_price_micro = $8, output_price_micro = $9, description = $10,
    version = $11, cid = $12, owner_account = $13, model = $14, licence = $15, region = $16,
    cached_input_price_micro = $17, updated_at = now()
"""


def _check_name(name: str, param: str) -> None:
    if (
        not 1 <= len(name) <= 64
        or not name.isascii()
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    ):
        raise InvalidRequest("A provider's name has 1 to 64 letters, digits, '-', '_' or '.'.", param=param)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _indexed_text(model: Model) -> str:
    return f"{model.name}. {model.description}"


async def _stamped(index: VectorIndex, stamps: list[str]) -> set[tuple[str, Attribute | None]]:
    """The ids and stamps of the items that have one of these; what they are near to does not matter."""
    anywhere = [1.0] + [0.0] * (index.dimension - 1)
    hits = await index.search(anywhere, len(stamps), [Filter(_STAMP, "in", stamps)])
    return {(hit.id, hit.attributes.get(_STAMP)) for hit in hits}


def _attributes(model: Model) -> dict[str, str | int | bool]:
    return {
        "provider": model.provider,
        "input_price_micro": model.input_price_micro,
        "output_price_micro": model.output_price_micro,
        "context_tokens": model.context_tokens,
        **{capability: capability in model.capabilities for capability in CAPABILITIES},
    }


def _model(row: Any) -> Model:
    values: dict[str, Any] = {name: row[name] for name in Model.__slots__}
    values["capabilities"] = frozenset(row["capabilities"])
    return Model(**values)
