"""The vector index on Weaviate, by its official client: the scale-out behind the same seam as pgvector.

An attribute becomes a property named by its type and its name (``s_tag``, ``i_size``, ``b_flag``), because Weaviate
gives a property one type for ever and the seam gives it none. Properties are made here, never guessed by the server:
guessed text would be split into words and ``=`` would no longer mean equal.
"""

import asyncio
import importlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid5

import numpy as np
import numpy.typing as npt

from prsm.core.errors import ConfigError, Unavailable
from prsm.core.seams import Attribute, Filter, Hit, Vector, VectorItem
from prsm.core.vectors import checks

_IDS: Final = UUID("6d0c2c0e-6f53-5f0e-9a43-3c6d4f2b9a10")
"""Namespace of the object ids: Weaviate wants UUIDs, the seam has strings."""
_PREFIXES: Final = {str: "s", int: "i", bool: "b"}
_BATCH_ROWS: Final = 500
_TIMEOUT_S: Final = 30
_GRPC_PORT: Final = 50_051


class WeaviateIndex:
    """One collection; make it with ``open_index``, end it with ``aclose``."""

    def __init__(self, weaviate: Any, client: Any, collection: Any, dimension: int, properties: Iterable[str]) -> None:
        self._weaviate = weaviate
        self._client = client
        self._collection = collection
        self._dimension = dimension
        self._properties = set(properties)
        self._declaring = asyncio.Lock()

    @property
    def dimension(self) -> int:
        """Length of every vector here."""
        return self._dimension

    async def upsert(self, items: Sequence[VectorItem]) -> None:
        """Put the items in, batch by batch: a server that goes away between two batches leaves the earlier ones in."""
        rows = checks.distinct_items(items)
        vectors = checks.unit_rows([item.vector for item in rows], self._dimension)
        async with self._reachable():
            await self._declare(
                {(_property(name, value), type(value)) for row in rows for name, value in row.attributes.items()}
            )
            objects = [self._object(item, vector) for item, vector in zip(rows, vectors, strict=True)]
            await self._insert(objects)

    async def delete(self, ids: Sequence[str]) -> int:
        """Take the items out; answers how many there were."""
        checks.check_ids(ids)
        keys, deleted = sorted({str(uuid5(_IDS, item_id)) for item_id in ids}), 0
        async with self._reachable():
            for start in range(0, len(keys), _BATCH_ROWS):
                chosen = self._weaviate.classes.query.Filter.by_id().contains_any(keys[start : start + _BATCH_ROWS])
                deleted += (await self._collection.data.delete_many(where=chosen)).successful
        return deleted

    async def search(self, vector: Vector, limit: int, filters: Sequence[Filter] = ()) -> list[Hit]:
        """The nearest items that pass every filter, nearest first."""
        checks.check_search(limit, filters)
        query = checks.unit_rows([vector], self._dimension)[0]
        async with self._reachable():
            conditions = [await self._condition(condition) for condition in filters]
            if any(condition is None for condition in conditions):
                return []
            answer = await self._collection.query.near_vector(
                near_vector=query.tolist(),
                limit=limit,
                filters=self._weaviate.classes.query.Filter.all_of(conditions) if conditions else None,
                return_metadata=self._weaviate.classes.query.MetadataQuery(distance=True),
            )
        return checks.ordered(
            Hit(found.properties["item_id"], 1 - found.metadata.distance, _attributes(found.properties))
            for found in answer.objects
        )

    async def count(self) -> int:
        """How many items there are."""
        async with self._reachable():
            return (await self._collection.aggregate.over_all(total_count=True)).total_count

    async def reindex(self) -> None:
        """Put every item in anew: Weaviate has no rebuild, but a replaced object is linked into the graph afresh."""
        objects: list[Any] = []
        async with self._reachable():
            async for found in self._collection.iterator(include_vector=True):
                kept = {name: value for name, value in found.properties.items() if value is not None}
                vector = np.asarray(found.vector["default"], np.float32)
                objects.append(self._weaviate.classes.data.DataObject(kept, found.uuid, vector.tolist()))
                if len(objects) == _BATCH_ROWS:
                    await self._insert(objects)
                    objects.clear()
            await self._insert(objects)

    async def recall(self, queries: Sequence[Vector], limit: int = 10) -> float:
        """Mean share of the truly nearest ``limit`` items that ``search`` finds; reads every vector once."""
        wanted = checks.unit_rows(queries, self._dimension)
        nearest: list[list[Hit]] = [[] for _ in wanted]
        async with self._reachable():
            async for found in self._collection.iterator(include_vector=True):
                similarities = wanted @ np.asarray(found.vector["default"], np.float32)
                for hits, similarity in zip(nearest, similarities, strict=True):
                    hits.append(Hit(found.properties["item_id"], float(similarity), {}))
                    if len(hits) > 4 * limit:
                        hits[:] = checks.ordered(hits)[:limit]
        exact = [checks.ordered(hits)[:limit] for hits in nearest]
        shares = [
            checks.recall_of(await self.search(query, limit), hits) for query, hits in zip(wanted, exact, strict=True)
        ]
        return sum(shares) / len(shares) if shares else 1.0

    async def ping(self) -> float:
        """Milliseconds one round trip takes now."""
        started = time.perf_counter()
        async with self._reachable():
            if not await self._client.is_ready():
                raise Unavailable("Weaviate is not ready.")
        return (time.perf_counter() - started) * 1000

    async def aclose(self) -> None:
        """Close the client."""
        await self._client.close()

    def _object(self, item: VectorItem, vector: npt.NDArray[np.float32]) -> Any:
        properties = {_property(name, value): value for name, value in item.attributes.items()}
        return self._weaviate.classes.data.DataObject(
            {"item_id": item.id, **properties}, uuid5(_IDS, item.id), vector.tolist()
        )

    async def _insert(self, objects: list[Any]) -> None:
        for start in range(0, len(objects), _BATCH_ROWS):
            answer = await self._collection.data.insert_many(objects[start : start + _BATCH_ROWS])
            if answer.has_errors:
                first = next(iter(answer.errors.values()))
                raise Unavailable(f"Weaviate refused {len(answer.errors)} items, the first because: {first.message}")

    async def _declare(self, wanted: set[tuple[str, type[Attribute]]]) -> None:
        if all(name in self._properties for name, _ in wanted):
            return
        async with self._declaring:
            self._properties = await _property_names(self._collection)
            for name, kind in sorted(wanted, key=lambda pair: pair[0]):
                if name not in self._properties:
                    await self._collection.config.add_property(_declaration(self._weaviate, name, kind))
                    self._properties.add(name)

    async def _condition(self, condition: Filter) -> Any:
        """Weaviate's form of a filter, or None when nothing can pass it: no item ever had such an attribute."""
        by_property: dict[str, list[Attribute]] = {}
        for value in checks.values_of(condition):
            by_property.setdefault(_property(condition.attribute, value), []).append(value)
        if not by_property.keys() <= self._properties:
            # Another node may have made them since.
            self._properties = await _property_names(self._collection)
        by = self._weaviate.classes.query.Filter.by_property
        known = {name: values for name, values in by_property.items() if name in self._properties}
        if not known:
            return None
        if condition.compare == "<=":
            return by(next(iter(known))).less_or_equal(condition.value)
        if condition.compare == ">=":
            return by(next(iter(known))).greater_or_equal(condition.value)
        equal = [by(name).equal(value) for name, values in known.items() for value in values]
        return self._weaviate.classes.query.Filter.any_of(equal)

    @asynccontextmanager
    async def _reachable(self) -> AsyncGenerator[None]:
        try:
            yield
        except (OSError, TimeoutError, self._weaviate.exceptions.WeaviateBaseError) as error:
            raise Unavailable(f"Weaviate does not answer: {type(error).__name__}: {error}") from error


async def open_index(url: str, collection: str, dimension: int, api_key: str | None = None) -> WeaviateIndex:
    """Connect and open the collection, made when it is new; ``url`` is ``http[s]://host[:port][?grpc_port=50051]``.

    Raises ConfigError on a wrong address, a missing client or another dimension, Unavailable on no answer.
    """
    checks.check_collection(collection, dimension)
    try:
        # Heavy and optional: it stands in the extra ``weaviate``.
        weaviate: Any = importlib.import_module("weaviate")
        importlib.import_module("weaviate.classes")
    except ImportError as error:
        raise ConfigError("Weaviate needs its client.", remedy="Run: pip install 'prsm[weaviate]'") from error
    client = _client(weaviate, url, api_key)
    try:
        await client.connect()
        handle = await _open_collection(weaviate, client, f"Prsm_{collection}", dimension)
        return WeaviateIndex(weaviate, client, handle, dimension, await _property_names(handle))
    except (OSError, TimeoutError, weaviate.exceptions.WeaviateBaseError) as error:
        await client.close()
        raise Unavailable(f"Weaviate cannot be reached at {urlsplit(url).netloc}: {error}") from error
    except BaseException:
        await client.close()
        raise


def _client(weaviate: Any, url: str, api_key: str | None) -> Any:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    init = weaviate.classes.init
    try:
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it needs a scheme and a host")
        return weaviate.use_async_with_custom(
            http_host=parts.hostname,
            http_port=parts.port or (443 if secure else 80),
            http_secure=secure,
            grpc_host=parts.hostname,
            grpc_port=int(parse_qs(parts.query).get("grpc_port", [str(_GRPC_PORT)])[0]),
            grpc_secure=secure,
            auth_credentials=init.Auth.api_key(api_key) if api_key else None,
            additional_config=init.AdditionalConfig(
                timeout=init.Timeout(init=_TIMEOUT_S, query=_TIMEOUT_S, insert=_TIMEOUT_S)
            ),
        )
    except ValueError as error:
        raise ConfigError(
            f"The Weaviate address cannot be used: {error}.", remedy="Write it like http://host:8080?grpc_port=50051."
        ) from error


async def _open_collection(weaviate: Any, client: Any, name: str, dimension: int) -> Any:
    declaration = f"dimension={dimension}"
    if not await client.collections.exists(name):
        configure = weaviate.classes.config.Configure
        hnsw = configure.VectorIndex.hnsw(
            distance_metric=weaviate.classes.config.VectorDistances.COSINE,
            max_connections=16,
            ef_construction=128,
            ef=200,
        )
        try:
            await client.collections.create(
                name,
                description=declaration,
                vector_config=configure.Vectors.self_provided(vector_index_config=hnsw),
                properties=[_declaration(weaviate, "item_id", str)],
            )
        except weaviate.exceptions.UnexpectedStatusCodeError:
            # Another node may have made it at the same moment; then it is there now.
            if not await client.collections.exists(name):
                raise
    handle = client.collections.use(name)
    declared = (await handle.config.get()).description
    if declared != declaration:
        raise ConfigError(f"The Weaviate collection {name} has {declared}, not {declaration}.")
    return handle


def _declaration(weaviate: Any, name: str, kind: type[Attribute]) -> Any:
    config = weaviate.classes.config
    if kind is str:
        # FIELD: the whole text is one token, so that equal means equal.
        whole = config.Tokenization.FIELD
        return config.Property(
            name=name, data_type=config.DataType.TEXT, tokenization=whole, index_filterable=True, index_searchable=False
        )
    data_type = config.DataType.BOOL if kind is bool else config.DataType.INT
    return config.Property(name=name, data_type=data_type, index_filterable=True)


async def _property_names(handle: Any) -> set[str]:
    return {declared.name for declared in (await handle.config.get()).properties}


def _property(name: str, value: Attribute) -> str:
    return f"{_PREFIXES[type(value)]}_{name}"


def _attributes(properties: dict[str, Any]) -> dict[str, Attribute]:
    """The seam's attributes from Weaviate's properties; whole numbers may come back as floats."""
    return {
        name[2:]: int(value) if name.startswith("i_") else value
        for name, value in properties.items()
        if name != "item_id" and value is not None
    }
