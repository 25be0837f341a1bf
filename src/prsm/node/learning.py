"""How a node learns: made from its settings, rated by the scores of registered versions, shown by gauges."""

import asyncio
from typing import Final

from prsm.agents.learning.board import Board
from prsm.agents.learning.feedback import FeedbackBook
from prsm.agents.learning.learner import Learner, LearnerLimits
from prsm.agents.learning.learning import Learning
from prsm.agents.learning.observation import Observer
from prsm.agents.learning.prompts import Encoder, PromptReader
from prsm.agents.routers.difficulty import load_reader, read_manifest
from prsm.agents.routers.quality import MAX_CALLER_EVIDENCE
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.keys import NodeKey
from prsm.core.subject_keys import SubjectKeys
from prsm.monitoring.metrics import Metrics
from prsm.tokenomics.ftns_service import Ledger

_DAY_S: Final = 86_400
_FULL_OUTCOMES = 3
"""Outcomes in full that the law's own bound on one caller stands for."""


async def open_learning(
    settings: Settings,
    key: NodeKey,
    store: Database,
    encoder: Encoder,
    ledger: Ledger,
    keys: SubjectKeys,
    router_encoder: Encoder | None,
) -> Learning:
    """The parts, with the newest fitted state on the board; for ``router_encoder`` see ``PromptReader``.

    Raises ConfigError when the estimate does not fit.
    """
    reader, manifest = await asyncio.to_thread(load_reader), read_manifest()
    prompts = PromptReader(encoder, reader, manifest, router_encoder=router_encoder, threads=settings.encoder_threads)
    board = Board(prompts)
    observer = Observer(store.pool, prompts, key.derive("quality-callers"))
    learning = Learning(
        prompts,
        board,
        observer,
        FeedbackBook(store.pool, ledger.account_id, keys, ttl_s=settings.feedback_ttl_s),
        Learner(
            store.pool,
            prior=board.prior,
            clusters=reader.clusters,
            estimate=manifest.sha256,
            witness=observer.witness,
            limits=_limits(settings),
        ),
        enabled=settings.learning_enabled,
    )
    await learning.refresh()
    return learning


def expose_learning(learning: Learning, metrics: Metrics) -> None:
    """Gauges that are read when somebody scrapes."""
    metrics.gauge("prsm_quality_state_version", "Version of the fitted quality state.", lambda: learning.version)
    metrics.gauge("prsm_quality_answers_dropped", "Answers that were not observed.", lambda: learning.observer.dropped)


def _limits(settings: Settings) -> LearnerLimits:
    return LearnerLimits(
        half_life_s=settings.learning_half_life_days * _DAY_S,
        answers_kept_s=settings.feedback_ttl_s,
        answers_max=settings.learning_answers_max,
        feedback_kept_s=settings.feedback_kept_days * _DAY_S,
        caller_evidence=MAX_CALLER_EVIDENCE * settings.learning_caller_outcomes / _FULL_OUTCOMES,
    )
