"""The composition root: makes every part from the settings, hands each what it needs, and ends them in order.

Nothing below reads a setting by itself.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from prsm.agents.conversations import Conversations
from prsm.core import database
from prsm.core.cache import Cache
from prsm.core.cancellation import end_tasks
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.encoder import DIMENSION, TextEncoder
from prsm.core.events import OutboxPublisher
from prsm.core.identity import Identities
from prsm.core.keys import NodeKey
from prsm.core.money import BASIS_POINTS
from prsm.core.presence import Presence
from prsm.core.rate_limit import LeasedLimiter, Rate, RateLimiter
from prsm.core.subject_keys import SubjectKeys
from prsm.core.vectors import pgvector_index
from prsm.data_layer import assembly
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS, StoragePolicy
from prsm.data_layer.network.mdns import OwnGateway
from prsm.data_layer.provenance.statement_store import Statements
from prsm.data_layer.storage_watch import StorageWatch
from prsm.federation.model_registry import ModelRegistry
from prsm.federation.registry.version_store import Signer, VersionStore
from prsm.monitoring.metrics import Metrics
from prsm.monitoring.tracing import Tracing, open_tracing
from prsm.node.answering import Grounds, open_answering
from prsm.node.audit import Audit
from prsm.node.background import background, catch_up, listener, repeat
from prsm.node.built_in import built_in, served_by
from prsm.node.catalogue import look_again, reload_models
from prsm.node.discovery import open_discovery
from prsm.node.gauges import expose
from prsm.node.market import open_market
from prsm.node.monitoring import Monitoring
from prsm.node.parts import Node
from prsm.node.privacy import Privacy
from prsm.node.published import Published
from prsm.node.releases import register_built_in
from prsm.node.safety import Boards, open_safety
from prsm.node.teachers import Teachers
from prsm.node.training import open_training
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy
from prsm.safety.monitor import Monitor, open_monitor
from prsm.tokenomics.enrolment import Enrolment
from prsm.tokenomics.ftns_service import Ledger, LedgerLimits
from prsm.tokenomics.idempotency import IdempotencyKeys

_PRESENCE_S = 1.0
_log: Any = structlog.get_logger("node")


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
        await database.migrate(store)
        cache = Cache(valkey_url)
        stack.push_async_callback(cache.aclose)
        ledger = _ledger(settings, store)
        ledger.start()
        stack.push_async_callback(ledger.close)
        node = await _assemble(settings, key, store, cache, ledger, stack)
        node.path.look_again = look_again(node)
        expose(node)
        if first and (alone or not settings.database_url):  # an embedded database is this home's own
            await recover(node)
        if alone:
            await presence.settle()
        works = background(node) | {"renew-presence": repeat(_PRESENCE_S, presence.renew)}
        tasks = [asyncio.create_task(work, name=name) for name, work in works.items()]
        subscription = cache.subscribe("*", listener(node), on_gap=lambda: catch_up(node))
        node.monitoring.start()
        stack.push_async_callback(node.monitoring.close)
        stack.push_async_callback(node.training.supervisor.close)
        stack.push_async_callback(end_tasks, tasks)
        stack.push_async_callback(subscription.aclose)
        stack.push_async_callback(node.path.close)
        yield node


async def _assemble(
    settings: Settings, key: NodeKey, store: Database, cache: Cache, ledger: Ledger, stack: contextlib.AsyncExitStack
) -> Node:
    account = _account(key)
    await ledger.account_id(account)
    metrics = Metrics()
    boards = Boards.new(_breaker_policy(settings))
    encoder = await asyncio.to_thread(TextEncoder.load, None, settings.encoder_threads)
    teachers = await asyncio.to_thread(Teachers.open, settings)
    storage = await asyncio.to_thread(_storage, settings, key, store, boards.storage)
    stack.push_async_callback(storage.aclose)
    registry = await _registry(settings, key, store, encoder, teachers)
    versions = _versions(key, store, registry)
    monitor = await asyncio.to_thread(_monitor, settings, encoder)
    if monitor:
        stack.callback(monitor.close)
    keys = SubjectKeys(store.pool, key.derive("subjects"))
    safety = open_safety(settings, keys, store, boards, metrics, monitor)
    traces = await asyncio.to_thread(_tracing, settings, key.node_id)
    if traces:
        stack.push_async_callback(asyncio.to_thread, traces.close)
    grounds = Grounds(
        settings, key, account, store, cache, ledger, metrics, safety, encoder, teachers, versions, keys, traces
    )
    answering = await open_answering(grounds, stack)
    conversations = Conversations(store.pool, cache, keys, max_messages=settings.conversation_max_messages)
    identities = Identities(store.pool, key.derive("api-keys"), keys)
    storage_watch = StorageWatch(storage, metrics.storage_moved)
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
        versions=versions,
        published=Published(),
        conversations=conversations,
        idempotency=IdempotencyKeys(store.pool),
        path=answering.path,
        limiter=RateLimiter() if settings.workers == 1 else LeasedLimiter(cache.client, settings.workers),
        rate=Rate.per_minute(settings.rate_limit_per_minute, settings.rate_limit_burst),
        safety=safety,
        metrics=metrics,
        outbox=OutboxPublisher(store.pool, cache.publish),
        encoder=encoder,
        teachers=teachers,
        executors=answering.executors,
        storage=storage,
        storage_watch=storage_watch,
        statements=Statements(storage.catalog, key.public_key_hex, key.sign, now),
        learning=answering.learning,
        market=await open_market(settings, key, store, ledger, keys, metrics.tokens),
        discovery=await open_discovery(settings, key, store, encoder, registry),
        rollouts=answering.rollouts,
        liveness=answering.liveness,
        training=open_training(settings, key.node_id, account, store, ledger, keys),
        audit=Audit(store, key),
        subject_keys=keys,
        privacy=Privacy(settings, key, store, keys, conversations, identities),
        monitoring=Monitoring(settings, key.node_id, store, metrics, storage_watch),
        traces=traces,
    )
    await _load(node)
    return node


async def _load(node: Node) -> None:
    """What a node has in memory before it answers."""
    await node.safety.load()
    await node.storage_watch.refresh()
    await reload_models(node)
    await register_built_in(node)
    await node.rollouts.trials.reload()
    await node.registry.index(tuple(node.registry.catalogue.models.values()))


async def recover(node: Node) -> None:
    """End what a killed node left behind, so that its callers can ask again at once and need not wait for expiry.

    Only before the first request, and only for a database that no other node works on.
    """
    holds, claims = await node.ledger.release_open(), await node.idempotency.free_all()
    if holds or claims:
        _log.info("recovered", holds_released=holds, idempotency_keys_freed=claims)


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


def _monitor(settings: Settings, encoder: TextEncoder) -> Monitor | None:
    if settings.screening == "off":
        return None
    banned = Path(settings.banned_file) if settings.banned_file else None
    return open_monitor(encoder, banned, threads=settings.screening_threads, time_limit_s=settings.screening_timeout_s)


def _breaker_policy(settings: Settings) -> BreakerPolicy:
    return BreakerPolicy(failure_rate=settings.breaker_failure_ratio_bps / BASIS_POINTS, open_s=settings.breaker_open_s)


async def _registry(
    settings: Settings, key: NodeKey, store: Database, encoder: TextEncoder, teachers: Teachers
) -> ModelRegistry:
    return ModelRegistry(
        store.pool,
        seal=key.seal,
        unseal=key.unseal,
        built_in=built_in(settings, encoder, teachers, _account(key)),
        index=await pgvector_index.open_index(store.pool, "models", DIMENSION),
        embed=lambda texts: asyncio.to_thread(encoder.encode, texts),
        embedder=encoder.sha256,
    )


def _versions(key: NodeKey, store: Database, registry: ModelRegistry) -> VersionStore:
    served = served_by(registry.catalogue.models.values())
    return VersionStore(store.pool, Signer(key.public_key_hex, key.sign), served=served)


def _tracing(settings: Settings, node: str) -> Tracing | None:
    share, content = settings.otlp_share_bps, settings.otlp_content
    return open_tracing(settings.otlp_endpoint, settings.otlp_headers, node, share_bps=share, content=content)


def _account(key: NodeKey) -> str:
    return f"node:{key.node_id}"


def _storage(settings: Settings, key: NodeKey, store: Database, breakers: BreakerBoard) -> EnhancedIPFS:
    places = assembly.Places(
        settings.storage_nodes,
        settings.storage_gateways,
        settings.storage_private_hosts,
        Path(settings.storage_peers_file) if settings.storage_peers_file else None,
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
