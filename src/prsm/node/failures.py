"""What a node does about silent models, and with answers it gave before: by its settings, off by default."""

import asyncio

from prsm.agents.hedging import HedgePolicy, Hedger, Silence
from prsm.agents.response_cache import CachePolicy, Meaning, ResponseCache
from prsm.core.cache import Cache
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.encoder import DIMENSION, MAX_TOKENS, TextEncoder
from prsm.core.subject_keys import SubjectKeys
from prsm.core.vectors import pgvector_index
from prsm.monitoring.metrics import Metrics

_COLLECTION = "answers"


def open_hedger(settings: Settings, silence: Silence) -> Hedger | None:
    """The rule that asks a second model beside a silent one; None where its share is zero. Each worker has its own."""
    if not settings.hedge_share_bps:
        return None
    return Hedger(HedgePolicy(settings.hedge_share_bps, settings.hedge_max_output_tokens), silence)


async def open_response_cache(
    settings: Settings,
    store: Database,
    cache: Cache,
    encoder: TextEncoder,
    metrics: Metrics,
    keys: SubjectKeys,
) -> ResponseCache | None:
    """The cache of answers; None where it is off."""
    if settings.response_cache == "off":
        return None
    meaning = None
    if settings.response_cache == "semantic":
        meaning = Meaning(
            await pgvector_index.open_index(store.pool, _COLLECTION, DIMENSION),
            lambda texts: asyncio.to_thread(encoder.encode, texts),
            lambda text: encoder.count_tokens(text) <= MAX_TOKENS,
        )
    policy = CachePolicy(
        settings.response_cache_ttl_s,
        settings.response_cache_answer_bytes,
        settings.response_cache_caller_bytes,
        settings.response_cache_price_bps,
    )
    return ResponseCache(cache, policy, metrics, now, keys, meaning)
