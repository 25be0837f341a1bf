"""The models this node can ask: providers and models in PostgreSQL, and one immutable snapshot of them in memory.

A request reads only the snapshot. Changes are written with an event, and every node on the database reloads on it.
What is registered of the models they serve (versions, releases) is part of the snapshot; ``registry/`` changes it.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import structlog

from prsm.core.database import Connection, Pool
from prsm.core.errors import ConfigError, Kind, PrsmError
from prsm.core.events import emit
from prsm.core.seams import Attribute, Filter, VectorIndex, VectorItem
from prsm.federation.registry.catalogue import (
    MAX_PRICE_MICRO,
    PROVIDER_KINDS,
    Catalogue,
    Model,
    Provider,
    Registry,
    build_catalogue,
    check_model,
    check_provider,
)
from prsm.federation.registry.version_rows import CHANGED, read_registry
from prsm.federation.registry.versions import CAPABILITIES, MAX_TOKENS

__all__ = [
    "CAPABILITIES", "CHANGED", "MAX_PRICE_MICRO", "MAX_TOKENS", "PROVIDER_KINDS", "Catalogue", "Model", "ModelRegistry",
    "Provider", "build_catalogue", "check_model", "check_provider",
]  # fmt: skip

_INDEX_BATCH = 100
_STAMP = "stamp"

Seal = Callable[[str, str], str]
Embed = Callable[[Sequence[str]], Awaitable[Any]]

_log: Any = structlog.get_logger("models")


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
        self._outdated = asyncio.Event()
        self._asked = self._read = 0
        self._stored: dict[str, tuple[str, Model]] = {}
        self._digest: Any = None
        self._providers: list[Provider] = []
        self._registered = Registry({}, {}, {})
        self._unreadable: set[str] = set()
        self.catalogue = build_catalogue(*built_in)

    def put_built_in(self, built_in: tuple[Sequence[Provider], Sequence[Model]]) -> None:
        """Other instances stand beside the stored ones from now on."""
        self._built_in = built_in
        self._build()

    async def reload(self) -> Catalogue:
        """Read what has changed; the catalogue is another object only if something has.

        Of several that wait for their turn, one reads for all. A provider whose secret cannot be opened is left out,
        with a line in the log.
        """
        self._asked += 1
        asked = self._asked
        async with self._reloading:  # or an older reading could be the last to be kept
            if self._read < asked:
                covered = self._asked
                await self._reload()
                self._read = covered
        return self.catalogue

    async def changed(self) -> None:
        """Wait until ``outdate`` was called; many calls are one."""
        await self._outdated.wait()
        self._outdated.clear()

    def outdate(self) -> None:
        """Somebody has changed something."""
        self._outdated.set()

    async def _reload(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = await connection.fetch("SELECT name, kind, base_url, sealed_key FROM providers ORDER BY name")
            digest = await connection.fetchrow(_MODELS_DIGEST)
            stored = self._stored if digest == self._digest else await self._read_models(connection)
            registered = await read_registry(connection, self._registered.versions)
        providers = [found for row in rows if (found := self._provider(row)) is not None]
        if (providers, registered) == (self._providers, self._registered) and stored == self._stored:
            return
        same = stored is self._stored and providers == self._providers
        self._digest, self._stored, self._providers, self._registered = digest, stored, providers, registered
        if same:
            self.catalogue = self.catalogue.registered(registered)
        else:
            self._build()

    def _build(self) -> None:
        models = [*self._built_in[1], *(model for _, model in self._stored.values())]
        self.catalogue = build_catalogue([*self._built_in[0], *self._providers], models, self._registered)

    async def _read_models(self, connection: Connection) -> dict[str, tuple[str, Model]]:
        """All models by name, each with the mark of its row; only those whose mark is another are read whole."""
        marks = await connection.fetch("SELECT name, xmin::text AS mark FROM models ORDER BY name")
        known = self._stored
        fresh = [row["name"] for row in marks if row["name"] not in known or known[row["name"]][0] != row["mark"]]
        rows = await connection.fetch("SELECT * FROM models WHERE name = ANY($1)", fresh) if fresh else []
        stored = {row["name"]: _model(row) for row in rows}
        return {
            name: (mark, stored[name]) if name in stored else known[name]
            for name, mark in ((row["name"], row["mark"]) for row in marks)
        }

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


_MODELS_DIGEST = "SELECT count(*), sum(hashtextextended(name || ' ' || xmin::text, 0)) FROM models"
"""Changes with every change of an instance: a thousand rows that are as they were cost the event loop nothing."""
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
