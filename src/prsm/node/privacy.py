"""Privacy in the started node: export, erasure in every worker and cache, consents, retention, the record of it all."""

from typing import Any, Final
from uuid import UUID

from prsm.agents.conversations import Conversations
from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.identity import Identities
from prsm.core.keys import NodeKey
from prsm.core.subject_keys import Erased, SubjectKeys
from prsm.safety.privacy.consents import Consents
from prsm.safety.privacy.erasure import CertificateSigner, erase
from prsm.safety.privacy.records import write_records
from prsm.safety.privacy.retention import Retention, RetentionRules
from prsm.safety.privacy.subject_rows import read_all

PERIODS: Final = (
    *("conversation_kept_days", "preference_kept_days", "idempotency_ttl_s", "feedback_kept_days", "feedback_ttl_s"),
    *("incident_kept_days", "response_cache_ttl_s"),
)
"""The settings that say how long something personal is kept."""


class Privacy:
    """What the node does for the people whose data it has."""

    def __init__(
        self,
        settings: Settings,
        key: NodeKey,
        store: Database,
        keys: SubjectKeys,
        conversations: Conversations,
        identities: Identities,
    ) -> None:
        self._settings = settings
        self._store = store
        self._keys = keys
        self._conversations = conversations
        self._identities = identities
        self._signer = CertificateSigner(key.node_id, key.public_key_hex, key.sign)
        self.consents = Consents(store.pool)
        rules = RetentionRules(
            settings.conversation_kept_days, settings.preference_kept_days, settings.incident_kept_days
        )
        self.retention = Retention(store.pool, keys, rules)

    async def export(self, subject: UUID) -> dict[str, Any]:
        """All that is held of a subject. Raises NOT_FOUND."""
        await self._identities.principal(subject)
        try:
            key = await self._keys.key(subject)
        except Erased:
            key = None
        async with self._store.pool.acquire() as connection:
            held = await read_all(connection, subject, key)
        return {"subject": str(subject), "node": self._signer.node_id, "at": now().isoformat(), "held": held}

    async def erase(self, subject: UUID) -> tuple[bytes, tuple[str, ...]]:
        """Erase a subject: the signed certificate, and the prefixes of its keys, for workers to forget."""
        async with self._store.pool.acquire() as connection:
            erased = await erase(connection, subject, self._signer, now())
        self._keys.forget(subject)
        for conversation_id in erased.conversations:
            await self._conversations.forget(conversation_id)
        return erased.certificate, erased.key_prefixes

    def records(self) -> str:
        """The record of processing activities, as Markdown."""
        return write_records(self._signer.node_id, now().isoformat(timespec="seconds"), self.periods())

    def periods(self) -> dict[str, str]:
        """How long things are kept, by the settings that say so."""
        return {name: str(getattr(self._settings, name)) for name in PERIODS}
