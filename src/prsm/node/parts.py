"""What a running node is made of, for the edge to use. No behaviour stands here."""

from collections.abc import Mapping
from dataclasses import dataclass

from prsm.agents.answer import AnswerPath
from prsm.agents.conversations import Conversations
from prsm.agents.learning.learning import Learning
from prsm.agents.seams import Executor
from prsm.core.cache import Cache
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.encoder import TextEncoder
from prsm.core.events import OutboxPublisher
from prsm.core.identity import Identities
from prsm.core.keys import NodeKey
from prsm.core.rate_limit import LeasedLimiter, Rate, RateLimiter
from prsm.core.subject_keys import SubjectKeys
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.provenance.statement_store import Statements
from prsm.data_layer.storage_watch import StorageWatch
from prsm.federation.model_registry import ModelRegistry
from prsm.federation.registry.version_store import VersionStore
from prsm.monitoring.metrics import Metrics
from prsm.monitoring.tracing import Tracing
from prsm.node.audit import Audit
from prsm.node.discovery import Discovery
from prsm.node.liveness import Watch
from prsm.node.monitoring import Monitoring
from prsm.node.privacy import Privacy
from prsm.node.published import Published
from prsm.node.rollouts import Rollouts
from prsm.node.safety import Safety
from prsm.node.teachers import Teachers
from prsm.node.training import Training
from prsm.tokenomics.enrolment import Enrolment
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.idempotency import IdempotencyKeys
from prsm.tokenomics.marketplace import Marketplace

KEY_REVOKED = "keys.revoked"


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
    versions: VersionStore
    published: Published
    conversations: Conversations
    idempotency: IdempotencyKeys
    path: AnswerPath
    limiter: RateLimiter | LeasedLimiter
    rate: Rate
    safety: Safety
    metrics: Metrics
    outbox: OutboxPublisher
    encoder: TextEncoder
    teachers: Teachers
    executors: Mapping[str, Executor]
    storage: EnhancedIPFS
    storage_watch: StorageWatch
    statements: Statements
    learning: Learning
    liveness: Watch
    rollouts: Rollouts
    market: Marketplace
    discovery: Discovery
    training: Training
    audit: Audit
    subject_keys: SubjectKeys
    privacy: Privacy
    monitoring: Monitoring
    traces: Tracing | None
