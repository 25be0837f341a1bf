"""The composition root: makes every part from the settings, hands each what it needs, and ends them in order.

Nothing below reads a setting by itself. ``open_node`` makes a node on given servers; ``servers`` runs embedded ones.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import structlog

from prsm.agents.answer import AnswerPath
from prsm.agents.attempts import Attempts
from prsm.agents.billing import Biller, Economy
from prsm.agents.call import Target
from prsm.agents.conversations import Conversations
from prsm.agents.executors.anthropic import AnthropicExecutor
from prsm.agents.executors.embedded import EmbeddedExecutor
from prsm.agents.executors.http_client import HttpClient
from prsm.agents.executors.http_connection import Limits
from prsm.agents.executors.huggingface import HuggingFaceExecutor
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.plan import PathLimits
from prsm.agents.routers.model_router import roster
from prsm.agents.seams import Executor
from prsm.core import database
from prsm.core.cache import Cache
from prsm.core.cancellation import end_tasks
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.embedded.home import NodeHome
from prsm.core.embedded.postgres import EmbeddedPostgres
from prsm.core.embedded.server import EmbeddedServer
from prsm.core.embedded.valkey import EmbeddedValkey
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.errors import PrsmError, Unavailable
from prsm.core.events import OutboxPublisher
from prsm.core.identity import Identities
from prsm.core.keys import NodeKey
from prsm.core.presence import Presence
from prsm.core.rate_limit import LeasedLimiter, Rate, RateLimiter
from prsm.core.vectors import pgvector_index
from prsm.data_layer import assembly
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS, StoragePolicy
from prsm.data_layer.network.mdns import OwnGateway
from prsm.data_layer.provenance.statement_store import Statements
from prsm.data_layer.storage_watch import StorageWatch
from prsm.federation.model_registry import CHANGED as MODELS_CHANGED
from prsm.federation.model_registry import Catalogue, Model, ModelRegistry, Provider
from prsm.monitoring.metrics import Metrics, breaker_level
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy
from prsm.teachers.arithmetic.teacher import MAX_OUTPUT_TOKENS, ArithmeticTeacher
from prsm.tokenomics.enrolment import Enrolment
from prsm.tokenomics.ftns_service import Ledger, LedgerLimits
from prsm.tokenomics.idempotency import IdempotencyKeys
from prsm.tokenomics.receipts import NodeSigner

KEY_REVOKED = "keys.revoked"
_BUILT_IN = "local"
_TEACHER_CONTEXT_TOKENS = 1_000_000
"""It reads the last message only, so that a conversation before it may have any length."""
_SWEEP_S = 5.0
_WATCH_S = 0.5
_PRESENCE_S = 1.0
_STORAGE_WATCH_S = 15.0
_EVENTS_KEPT_S = 86_400
_log: Any = structlog.get_logger("node")


@dataclass(frozen=True, slots=True)
class Node:
    """All parts of a running node, for the edge to use."""

    settings: Settings
    key: NodeKey
    account: str
    database: Database
    cache: Cache
    identities: Identities
    enrolment: Enrolment
    ledger: Ledger
    registry: ModelRegistry
    conversations: Conversations
    idempotency: IdempotencyKeys
    path: AnswerPath
    limiter: RateLimiter | LeasedLimiter
    rate: Rate
    breakers: BreakerBoard
    metrics: Metrics
    outbox: OutboxPublisher
    encoder: TextEncoder
    executors: Mapping[str, Executor]
    storage: EnhancedIPFS
    storage_breakers: BreakerBoard
    storage_watch: StorageWatch
    statements: Statements


@asynccontextmanager
async def servers(settings: Settings) -> AsyncGenerator[tuple[str, str], None]:
    """The addresses of PostgreSQL and Valkey: those configured, or embedded ones that are started, watched, stopped."""
    with NodeHome.claim(settings.home) as home:
        embedded: list[EmbeddedServer] = []
        postgres_url, valkey_url = settings.database_url, settings.redis_url
        async with contextlib.AsyncExitStack() as stack:
            if not (postgres_url and valkey_url):
                site = await asyncio.to_thread(home.server_site)
                if not postgres_url:
                    postgres = EmbeddedPostgres(site)
                    stack.push_async_callback(postgres.stop)
                    embedded.append(postgres)
                if not valkey_url:
                    valkey = EmbeddedValkey(site)
                    stack.push_async_callback(valkey.stop)
                    embedded.append(valkey)
            urls = dict(zip([s.name for s in embedded], await asyncio.gather(*map(_start, embedded)), strict=True))
            watcher = asyncio.create_task(_watch(embedded))
            stack.push_async_callback(end_tasks, [watcher])
            yield urls.get("postgres", postgres_url), urls.get("valkey", valkey_url)


@asynccontextmanager
async def open_node(
    settings: Settings, postgres_url: str, valkey_url: str, *, first: bool = False
) -> AsyncGenerator[Node, None]:
    """A node on the given servers, its background work running; closed in order when the block ends.

    The ``first`` of this home (its workers come later) ends what a killed node left behind, unless another node works
    on the database.
    """
    key = NodeKey.load_or_create(settings.home / "node.key")
    async with contextlib.AsyncExitStack() as stack:
        store = await database.connect(
            postgres_url, pool_size=settings.database_pool_size, timeout_ms=settings.database_timeout_ms
        )
        stack.push_async_callback(store.close)
        presence = Presence(postgres_url)
        stack.callback(presence.leave)
        alone = await presence.join(alone=first)
        await database.migrate(store.engine)
        cache = Cache(valkey_url)
        stack.push_async_callback(cache.aclose)
        ledger = _ledger(settings, store)
        ledger.start()
        stack.push_async_callback(ledger.close)
        node = await _assemble(settings, key, store, cache, ledger, stack)
        _expose(node)
        if first and (alone or not settings.database_url):  # an embedded database is this home's own
            await recover(node)
        if alone:
            await presence.settle()
        background = _background(node) | {"renew-presence": _repeat(_PRESENCE_S, presence.renew)}
        tasks = [asyncio.create_task(work, name=name) for name, work in background.items()]
        subscription = cache.subscribe("*", _listener(node), on_gap=lambda: _catch_up(node))
        stack.push_async_callback(end_tasks, tasks)
        stack.push_async_callback(subscription.aclose)
        stack.push_async_callback(node.path.close)
        yield node


async def _assemble(
    settings: Settings,
    key: NodeKey,
    store: Database,
    cache: Cache,
    ledger: Ledger,
    stack: contextlib.AsyncExitStack,
) -> Node:
    account = _account(key)
    await ledger.account_id(account)
    metrics = Metrics()
    breakers = BreakerBoard(time.monotonic, _breaker_policy(settings))
    encoder = await asyncio.to_thread(TextEncoder.load, None, settings.encoder_threads)
    teacher = await asyncio.to_thread(ArithmeticTeacher.load)
    executors = _executors(settings, teacher, encoder)
    for executor in dict.fromkeys(executors.values()):
        stack.push_async_callback(executor.aclose)
    storage_breakers = BreakerBoard(time.monotonic, _breaker_policy(settings))
    storage = await asyncio.to_thread(_storage, settings, key, store, storage_breakers)
    stack.push_async_callback(storage.aclose)
    registry = await _registry(settings, key, store, encoder, teacher)
    identities = Identities(store.pool, key.derive("api-keys"))
    attempts = Attempts(
        breakers,
        metrics,
        RetryPolicy(settings.retry_attempts, total_s=settings.retry_budget_s),
        timeout_s=settings.request_timeout_s,
    )
    path = AnswerPath(
        ledger=ledger,
        executors=executors,
        attempts=attempts,
        biller=_biller(settings, key),
        domains={"arithmetic": teacher.understands},
        metrics=metrics,
        limits=PathLimits(settings.default_max_output_tokens, settings.answer_limit_bytes, settings.request_timeout_s),
    )
    node = Node(
        settings=settings,
        key=key,
        account=account,
        database=store,
        cache=cache,
        identities=identities,
        enrolment=Enrolment(identities, ledger, welcome_grant_micro=settings.welcome_grant_micro),
        ledger=ledger,
        registry=registry,
        conversations=Conversations(store.pool, cache, max_messages=settings.conversation_max_messages),
        idempotency=IdempotencyKeys(store.pool),
        path=path,
        limiter=RateLimiter() if settings.workers == 1 else LeasedLimiter(cache.client, settings.workers),
        rate=Rate.per_minute(settings.rate_limit_per_minute, settings.rate_limit_burst),
        breakers=breakers,
        metrics=metrics,
        outbox=OutboxPublisher(store.pool, cache.publish),
        encoder=encoder,
        executors=MappingProxyType(executors),
        storage=storage,
        storage_breakers=storage_breakers,
        storage_watch=StorageWatch(storage, metrics.storage_moved),
        statements=Statements(storage.catalog, key.public_key_hex, key.sign, now),
    )
    await node.storage_watch.refresh()
    await reload_models(node)
    await registry.index(tuple(registry.catalogue.models.values()))
    return node


async def recover(node: Node) -> None:
    """End what a killed node left behind, so that its callers can ask again at once and need not wait for expiry.

    Only before the first request, and only for a database that no other node works on.
    """
    holds, claims = await node.ledger.release_open(), await node.idempotency.free_all()
    if holds or claims:
        _log.info("recovered", holds_released=holds, idempotency_keys_freed=claims)


async def reload_models(node: Node) -> None:
    """Read the catalogue anew and give it to the answer path."""
    await node.registry.reload()
    publish_models(node)


def publish_models(node: Node) -> None:
    """Give the answer path the catalogue as the registry has it now."""
    node.path.models = roster(_targets(node.registry.catalogue, node.account))


def _ledger(settings: Settings, store: Database) -> Ledger:
    limits = LedgerLimits(
        settings.ledger_batch_max,
        settings.ledger_queue_max,
        settings.ledger_timeout_s,
        settings.hold_ttl_s,
        settings.ledger_linger_ms / 1000,
    )
    timeout_s = settings.database_timeout_ms / 1000
    return Ledger(lambda: database.connect_one(store.url, timeout_s=timeout_s), store.pool, limits)


def _breaker_policy(settings: Settings) -> BreakerPolicy:
    return BreakerPolicy(failure_rate=settings.breaker_failure_ratio_bps / 10_000, open_s=settings.breaker_open_s)


async def _registry(
    settings: Settings, key: NodeKey, store: Database, encoder: TextEncoder, teacher: ArithmeticTeacher
) -> ModelRegistry:
    return ModelRegistry(
        store.pool,
        seal=key.seal,
        unseal=key.unseal,
        built_in=_built_in(teacher if settings.teacher_enabled else None, _account(key)),
        index=await pgvector_index.open_index(store.pool, "models", DIMENSION),
        embed=lambda texts: asyncio.to_thread(encoder.encode, texts),
        embedder=encoder.sha256,
    )


def _biller(settings: Settings, key: NodeKey) -> Biller:
    shares = settings.split_owner_bps, settings.split_executor_bps, settings.split_treasury_bps
    signer = NodeSigner(key.node_id, key.public_key_hex, key.sign)
    return Biller(signer, Economy(*shares, _account(key)), now, screened_by=())


def _account(key: NodeKey) -> str:
    return f"node:{key.node_id}"


def _storage(settings: Settings, key: NodeKey, store: Database, breakers: BreakerBoard) -> EnhancedIPFS:
    places = assembly.Places(
        settings.storage_nodes,
        settings.storage_gateways,
        settings.storage_private_hosts,
        Path(settings.storage_peers_file).expanduser() if settings.storage_peers_file else None,
        settings.storage_mdns_interface,
        OwnGateway(key.node_id, settings.host, settings.port) if settings.storage_gateway_enabled else None,
    )
    policy = StoragePolicy(
        profile=settings.storage_profile,
        limit_bytes=settings.storage_limit_bytes,
        object_limit_bytes=settings.storage_object_limit_bytes,
        quota_bytes=settings.storage_quota_bytes,
        workers=settings.storage_workers,
        block_budget_s=settings.storage_block_budget_s,
        scrub_after_s=settings.storage_scrub_days * 86_400,
    )
    folder = settings.home / "storage"
    return assembly.assemble(folder, store.pool, breakers, places, policy, settings.storage_rate_limit_bytes_s or None)


def _executors(settings: Settings, teacher: ArithmeticTeacher, encoder: TextEncoder) -> dict[str, Executor]:
    client = HttpClient(
        Limits(
            connect_s=settings.upstream_connect_timeout_s,
            first_byte_s=settings.upstream_first_byte_timeout_s,
            idle_s=settings.upstream_idle_timeout_s,
            total_s=settings.request_timeout_s,
            max_body_bytes=settings.answer_limit_bytes * 4,
            max_connections_per_origin=settings.upstream_connections_per_origin,
        )
    )
    openai: Executor = OpenAICompatibleExecutor(client)
    kinds = dict.fromkeys(("openai", "ollama", "vllm", "openrouter", "prsm"), openai)
    return {
        **kinds,
        "anthropic": AnthropicExecutor(client),
        "huggingface": HuggingFaceExecutor(client),
        "embedded": EmbeddedExecutor(teacher, encoder.encode, encoder.count_tokens),
    }


def _built_in(teacher: ArithmeticTeacher | None, account: str) -> tuple[Sequence[Provider], Sequence[Model]]:
    """What answers with no provider configured, priced so that the whole money path runs on a fresh machine."""
    models = [
        Model(
            name=f"{_BUILT_IN}/minilm-l6",
            provider=_BUILT_IN,
            upstream_name="minilm-l6",
            capabilities=frozenset({"embeddings"}),
            context_tokens=256,
            max_output_tokens=1,
            input_price_micro=2_000_000,
            description="Sentence embeddings for search, routing and clustering; 384 dimensions; English.",
            version="all-MiniLM-L6-v2-u8",
            owner_account=account,
        )
    ]
    if teacher:
        models.append(
            Model(
                name=f"{_BUILT_IN}/arithmetic",
                provider=_BUILT_IN,
                upstream_name="arithmetic",
                capabilities=frozenset({"chat"}),
                domain="arithmetic",
                context_tokens=_TEACHER_CONTEXT_TOKENS,
                max_output_tokens=MAX_OUTPUT_TOKENS,
                input_price_micro=20_000_000,
                output_price_micro=60_000_000,
                description="A small teacher that runs inside the node and answers arithmetic: sums, differences, "
                "products, greatest common divisors, counting legs of animals.",
                version=teacher.version,
                owner_account=account,
            )
        )
    return [Provider(_BUILT_IN, "embedded")], models


def _targets(catalogue: Catalogue, executor_account: str) -> list[Target]:
    return [
        Target(
            name=model.name,
            upstream_name=model.upstream_name,
            provider=model.provider,
            kind=(provider := catalogue.providers[model.provider]).kind,
            base_url=provider.base_url,
            api_key=provider.api_key,
            capabilities=model.capabilities,
            domain=model.domain,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            input_price_micro=model.input_price_micro,
            output_price_micro=model.output_price_micro,
            version=model.version,
            cid=model.cid,
            owner_account=model.owner_account,
            executor_account=executor_account,
        )
        for model in catalogue.models.values()
    ]


def _expose(node: Node) -> None:
    """Gauges that are read when somebody scrapes."""
    metrics = node.metrics
    metrics.gauge("prsm_ledger_queue", "Ledger orders waiting to be committed.", lambda: node.ledger.waiting)
    metrics.gauge("prsm_cache_up", "1 while Valkey answers.", lambda: float(node.cache.state.up))
    metrics.levels(
        "prsm_breaker_state",
        "Circuit breakers: 0 closed, 1 half-open, 2 open.",
        "model",
        lambda: {name: breaker_level(view.state) for name, view in node.breakers.snapshot().items()},
    )
    _expose_storage(node)


def _expose_storage(node: Node) -> None:
    """Read from what ``storage-watch`` has counted: a scrape asks neither the database nor the disk."""
    metrics, watch = node.metrics, node.storage_watch
    metrics.gauge("prsm_storage_stored_bytes", "Disk that stored objects take.", lambda: watch.usage.stored_bytes)
    metrics.gauge("prsm_storage_limit_bytes", "Disk they may take.", lambda: node.storage.policy.limit_bytes)
    metrics.gauge("prsm_storage_free_bytes", "Disk that may still be taken.", lambda: watch.free_bytes)
    metrics.levels("prsm_storage_objects", "Objects by state.", "state", watch.objects)
    metrics.levels(
        "prsm_storage_uploads",
        "Queued uploads to own IPFS nodes.",
        "state",
        lambda: {"waiting": watch.usage.uploads_waiting, "failed": watch.usage.uploads_failed},
    )
    metrics.levels("prsm_storage_transfers", "Transfers under way.", "direction", watch.transfers)
    metrics.gauge("prsm_storage_offline", "1 while no endpoint answers.", lambda: float(bool(watch.offline())))
    metrics.levels(
        "prsm_storage_endpoint_state", "Endpoints: 0 live, 1 failing, 2 resting, 3 banned.", "endpoint", watch.levels
    )
    metrics.levels(
        "prsm_storage_breaker_state",
        "Circuit breakers of endpoints: 0 closed, 1 half-open, 2 open.",
        "endpoint",
        lambda: {name: breaker_level(view.state) for name, view in node.storage_breakers.snapshot().items()},
    )


def _background(node: Node) -> dict[str, Any]:
    return {
        "outbox": node.outbox.run(),
        "expire-holds": _repeat(_SWEEP_S, lambda: _drain(node.ledger.expire_due)),
        "forget-idempotency-keys": _repeat(60, lambda: node.idempotency.forget_old(node.settings.idempotency_ttl_s)),
        "free-idempotency-keys": _repeat(1, node.idempotency.free_owed),
        "forget-events": _repeat(600, lambda: node.outbox.forget_published(_EVENTS_KEPT_S)),
        "reload-models": _repeat(30, lambda: reload_models(node)),
        "probe-cache": _repeat(1, node.cache.ping),
        "storage-reconcile": _repeat(1800, node.storage.reconcile, at_once=True),
        "storage-upload": _repeat(1, node.storage.uploads.drain),
        "storage-meet": _repeat(10, node.storage.meet),
        "storage-count-reads": _repeat(5, node.storage.flush_reads),
        "storage-make-room": _repeat(10, node.storage.make_room),
        "storage-verify": _repeat(60, node.storage.verify_next),
        "storage-watch": _repeat(_STORAGE_WATCH_S, node.storage_watch.refresh),
        "storage-tidy": _repeat(3600, node.storage.uploads.tidy),
    }


async def _drain(step: Callable[[], Awaitable[int]]) -> None:
    done = 1
    while done:
        done = await step()


async def _repeat(every_s: float, work: Callable[[], Awaitable[Any]], *, at_once: bool = False) -> None:
    """Run ``work`` for ever; an outage is logged once and passes."""
    failing = False
    while True:
        if not at_once:
            await asyncio.sleep(every_s)
        at_once = False
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - background work must outlive whatever happens to it
            if not failing:
                _log.warning(
                    "background work fails", error=str(error) if isinstance(error, PrsmError) else type(error).__name__
                )
            failing = True
        else:
            failing = False


async def _start(server: EmbeddedServer) -> str:
    """Start a server; the node goes on without Valkey, and the watch keeps trying to start it."""
    try:
        return await server.start()
    except Unavailable as error:
        if server.name != EmbeddedValkey.name:
            raise
        _log.warning("starting without valkey", reason=error.message)
        return server.url


async def _watch(embedded: Sequence[EmbeddedServer]) -> None:
    """Start again what has died; every half second is often enough to lose no request that waits."""

    async def look() -> None:
        for server in embedded:
            await server.ensure_running()

    await _repeat(_WATCH_S, look)


def _listener(node: Node) -> Callable[[str, bytes], Awaitable[None]]:
    async def hear(topic: str, payload: bytes) -> None:
        if topic == MODELS_CHANGED:
            await reload_models(node)
        elif topic == KEY_REVOKED:
            node.identities.forget(msgspec.json.decode(payload)["prefix"])

    return hear


async def _catch_up(node: Node) -> None:
    """Messages may have been lost: read anew what they would have changed. Cached keys expire within seconds."""
    await reload_models(node)


async def readiness(node: Node) -> dict[str, Any]:
    """Each part by name: whether it answers, its latency in milliseconds, and what is wrong."""
    return {
        "postgres": await _probe(node.database.ping),
        "valkey": await _probe(node.cache.ping),
        "models": {"ok": bool(node.path.models.by_name), "count": len(node.path.models.by_name)},
        "ledger": {"ok": node.ledger.waiting < node.settings.ledger_queue_max, "waiting": node.ledger.waiting},
        "storage": node.storage_watch.readiness(),
    }


async def _probe(ping: Callable[[], Awaitable[float]]) -> dict[str, Any]:
    try:
        return {"ok": True, "latency_ms": round(await ping(), 2)}
    except (PrsmError, Unavailable) as error:
        return {"ok": False, "error": str(error)}
