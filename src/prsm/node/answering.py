"""How the answer path is put together: watched executors, the router, attempts, bills, and what learns from them."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from prsm.agents.answer import AnswerPath
from prsm.agents.attempts import Attempts
from prsm.agents.billing import Biller, Economy
from prsm.agents.executors.anthropic import AnthropicExecutor
from prsm.agents.executors.embedded import EmbeddedExecutor
from prsm.agents.executors.http_client import HttpClient
from prsm.agents.executors.http_connection import Limits
from prsm.agents.executors.huggingface import HuggingFaceExecutor
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.executors.traced import TracedExecutor
from prsm.agents.guard import Guard
from prsm.agents.learning.learning import Learning
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.prober import Prober
from prsm.agents.plan import PathLimits
from prsm.agents.routers.model_router import Rates, Router
from prsm.agents.seams import Executor
from prsm.core.cache import Cache
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.encoder import TextEncoder
from prsm.core.keys import NodeKey
from prsm.core.subject_keys import SubjectKeys
from prsm.federation.registry.version_store import VersionStore
from prsm.monitoring.metrics import Metrics
from prsm.monitoring.tracing import Tracing
from prsm.node.failures import open_hedger, open_response_cache
from prsm.node.learning import open_learning
from prsm.node.liveness import Watch, open_liveness, probe_policy, watched
from prsm.node.rollouts import Rollouts
from prsm.node.safety import Safety
from prsm.node.teachers import Teachers
from prsm.safety.threat import Event
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.receipts import NodeSigner


@dataclass(frozen=True, slots=True)
class Grounds:
    """What the answer path stands on."""

    settings: Settings
    key: NodeKey
    account: str
    store: Database
    cache: Cache
    ledger: Ledger
    metrics: Metrics
    safety: Safety
    encoder: TextEncoder
    teachers: Teachers
    versions: VersionStore
    subject_keys: SubjectKeys
    traces: Tracing | None


@dataclass(frozen=True, slots=True)
class Answering:
    """The answer path, and the parts of it that others look at."""

    path: AnswerPath
    executors: Mapping[str, Executor]
    learning: Learning
    liveness: Watch
    rollouts: Rollouts


async def open_answering(on: Grounds, stack: contextlib.AsyncExitStack) -> Answering:
    """Everything between a request and its receipt; ``stack`` ends it."""
    settings, metrics = on.settings, on.metrics
    speaking = _executors(settings, on.teachers, on.encoder, on.traces)
    for executor in dict.fromkeys(speaking.values()):
        stack.push_async_callback(executor.aclose)
    # One pass over a prompt is enough for who routes it and who screens it; who observes it comes after both.
    routing = on.safety.monitor.content if on.safety.monitor else None
    learning = await open_learning(settings, on.key, on.store, on.encoder, on.ledger, on.subject_keys, routing)
    stack.push_async_callback(learning.close)
    rollouts = Rollouts(
        settings, on.store.pool, on.versions, speaking, lambda: path.models, learning.feedback, on.account
    )
    stack.push_async_callback(rollouts.close)
    liveness = open_liveness(settings, on.safety.boards.models, rollouts.tell)
    executors = watched(speaking, liveness)
    attempts = Attempts(
        on.safety.boards.models,
        metrics,
        RetryPolicy(settings.retry_attempts, total_s=settings.retry_budget_s),
        timeout_s=settings.request_timeout_s,
        hedger=open_hedger(settings, liveness.silence),
        observe=learning.observe,
        draining=lambda: liveness.draining,
        providers=on.safety.boards.providers,
        tripped=lambda account: on.safety.threats.note(account, Event.BREAKER),
    )
    path = AnswerPath(
        ledger=on.ledger,
        executors=executors,
        attempts=attempts,
        biller=_biller(settings, on.key, on.account, on.safety.guard),
        router=_router(settings, on.teachers, liveness, learning),
        metrics=metrics,
        limits=PathLimits(settings.default_max_output_tokens, settings.answer_limit_bytes, settings.request_timeout_s),
        guard=on.safety.guard,
        observe=learning.observe,
        answered=rollouts.answered,
        cache=await open_response_cache(settings, on.store, on.cache, on.encoder, metrics, on.subject_keys),
    )
    prober = Prober(liveness, on.safety.boards.models, speaking, lambda: path.models.by_name, probe_policy(settings))
    watch = Watch(liveness, prober, lambda: path.models.by_name)
    return Answering(path, executors, learning, watch, rollouts)


def _router(settings: Settings, teachers: Teachers, liveness: Liveness, learning: Learning) -> Router:
    return Router(
        teachers.domains,
        liveness.health,
        board=learning.board,
        order=liveness.order,
        rates=Rates(settings.route_answer_micro_per_mtok, settings.route_second_micro),
        explore_bps=settings.explore_share_bps,
    )


def _biller(settings: Settings, key: NodeKey, account: str, guard: Guard | None) -> Biller:
    shares = settings.split_owner_bps, settings.split_executor_bps, settings.split_treasury_bps
    signer = NodeSigner(key.node_id, key.public_key_hex, key.sign)
    return Biller(signer, Economy(*shares, account), now, [guard.name] if guard else [])


def _executors(
    settings: Settings, teachers: Teachers, encoder: TextEncoder, traces: Tracing | None
) -> dict[str, Executor]:
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
    speaking: list[tuple[tuple[str, ...], Executor]] = [
        (("openai", "ollama", "vllm", "openrouter", "prsm"), OpenAICompatibleExecutor(client)),
        (("anthropic",), AnthropicExecutor(client)),
        (("huggingface",), HuggingFaceExecutor(client)),
        (("embedded",), EmbeddedExecutor(teachers.by_name, encoder.encode, encoder.count_tokens)),
    ]
    if traces:
        client.further_headers = traces.header_lines
        speaking = [(kinds, TracedExecutor(executor, traces)) for kinds, executor in speaking]
    return {kind: executor for kinds, executor in speaking for kind in kinds}
