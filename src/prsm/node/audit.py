"""The audit log of a node: what appends to it, what reads it, and how it is verified."""

from collections.abc import Sequence
from uuid import UUID

from prsm.core.clock import now
from prsm.core.database import Database
from prsm.core.errors import InvalidRequest
from prsm.core.keys import NodeKey
from prsm.core.merkle.notes import MalformedNote, VerifierKey, parse_key
from prsm.safety.audit import log_book
from prsm.safety.audit.checking import Witnessed
from prsm.safety.audit.log_book import LogBook
from prsm.safety.audit.sequencer import LogSigner, Sequencer
from prsm.safety.audit.verify import Verdict, verify_log

READ_PERSONAL = "personal.read"
"""The event of somebody's reading personal data of others."""


class Audit:
    """The log over one database, signed with the node's key."""

    def __init__(self, store: Database, key: NodeKey) -> None:
        self._store = store
        self.key = log_key(key)
        self.book = LogBook(store.pool)
        self.sequencer = Sequencer(store.pool, LogSigner(self.key, key.sign), now)

    async def seen(self, by: UUID, what: str, subject: str = "everybody") -> None:
        """Write down that an admin reads personal data of ``subject``, before it is answered."""
        await log_book.note(self._store.pool, READ_PERSONAL, by=f"principal:{by}", data=what, subject=subject)

    async def verify(self, witnessed: Sequence[str], witness: str | None) -> Verdict:
        """Replay everything, against checkpoints kept elsewhere. Raises InvalidRequest for a malformed key."""
        try:
            witness_key = parse_key(witness) if witness else None
        except MalformedNote as error:
            raise InvalidRequest(f"The witness's key cannot be read: {error}.", param="witness_key") from error
        async with self._store.pool.acquire() as connection:
            return await verify_log(connection, self.key, [Witnessed(note, witness_key) for note in witnessed])


def log_key(key: NodeKey) -> VerifierKey:
    """The key of a node's log; its name is the log's origin."""
    return VerifierKey(f"prsm.audit/{key.node_id}", key.public_key_hex)
