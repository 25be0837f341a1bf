"""Personal content is sealed under its subject's own key, so that to erase a person is to destroy one secret.

A subject is a principal. Its key is derived (HKDF, RFC 5869) from the node's secret and the subject's salt, 32 random
bytes in ``subject_salts``: the database alone opens nothing, the node key alone nothing once the salt is gone. What is
sealed must name its place again to be opened. The nonce is a keyed hash of place and text, so equal sealings are equal.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection
from typing import Final
from uuid import NAMESPACE_OID, UUID, uuid5

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prsm.core.database import UNREACHABLE, Connection, Pool
from prsm.core.errors import Kind, PrsmError, Unavailable

MAX_KEPT: Final = 20_000
_MARK: Final = "sealed:v1:"
_BYTES_MARK: Final = b"\x01"
_NONCE_BYTES: Final = 12
_ERASING_LOCK: Final = 7018


class Unreadable(PrsmError):
    """What was sealed was altered, moved, or sealed under a key that is gone."""

    code = "personal_data_unreadable"


class Erased(PrsmError):
    """The person whose data this would be was erased."""

    kind = Kind.FORBIDDEN
    code = "principal_erased"


class SubjectKey:
    """One person's key."""

    __slots__ = ("_aead", "_nonces")

    def __init__(self, secret: bytes, salt: bytes) -> None:
        material = HKDF(algorithm=hashes.SHA256(), length=64, salt=salt, info=b"prsm/subject").derive(secret)
        self._aead = AESGCM(material[:32])
        self._nonces = material[32:]

    def seal(self, text: str, place: str) -> str:
        """``text`` as it may be stored at ``place``; an empty one stays empty."""
        return _MARK + base64.urlsafe_b64encode(self.seal_bytes(text.encode(), place)).decode() if text else ""

    def open(self, stored: str, place: str) -> str:
        """What ``seal`` was given; a text that was stored before texts were sealed is itself. Raises Unreadable."""
        if not is_sealed(stored):
            return stored
        try:
            return self.open_bytes(base64.urlsafe_b64decode(stored[len(_MARK) :]), place).decode()
        except binascii.Error:
            raise _unreadable(place) from None

    def seal_bytes(self, data: bytes, place: str) -> bytes:
        """The same of bytes, as they are kept for a while."""
        context = place.encode()
        nonce = hmac.digest(self._nonces, hashlib.sha256(context).digest() + data, "sha256")[:_NONCE_BYTES]
        return _BYTES_MARK + nonce + self._aead.encrypt(nonce, data, context)

    def open_bytes(self, sealed: bytes, place: str) -> bytes:
        """What ``seal_bytes`` was given. Raises Unreadable."""
        try:
            if not are_sealed(sealed):
                raise ValueError
            nonce, data = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
            return self._aead.decrypt(nonce, data, place.encode())
        except (InvalidTag, ValueError):
            raise _unreadable(place) from None


class SubjectKeys:
    """The keys of all subjects; those in use are kept in memory, so that sealing costs no round trip."""

    def __init__(self, pool: Pool, secret: bytes) -> None:
        self._pool = pool
        self._secret = secret
        self._kept: dict[UUID, SubjectKey] = {}

    async def key(self, subject: UUID) -> SubjectKey:
        """A subject's key, made when it is first needed. Raises Erased for one that was erased, Unavailable."""
        kept = self._kept.get(subject)
        if kept is not None:
            return kept
        try:
            salt: bytes | None = await self._pool.fetchval(_SALT, subject)
        except UNREACHABLE as error:
            raise Unavailable("PostgreSQL does not answer.", remedy="Try again shortly.", retry_after_s=1) from error
        if salt is None:
            raise Erased("The owner of this data was erased.")
        return self.offer(subject, salt)

    async def of_account(self, account: str) -> SubjectKey:
        """The key of the principal whose account this is; an account that is no person's is a subject of its own."""
        return await self.key(subject_of(account))

    def offer(self, subject: UUID, salt: bytes) -> SubjectKey:
        """Keep the key of a subject whose salt was read along with something else."""
        kept = self._kept.get(subject)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            kept = self._kept[subject] = SubjectKey(self._secret, salt)
        return kept

    def forget(self, subject: UUID) -> None:
        """Drop a key from memory: its subject was erased."""
        self._kept.pop(subject, None)


def subject_of(account: str) -> UUID:
    """The subject whose account this is."""
    try:
        return UUID(account.removeprefix("principal:"))
    except ValueError:
        return uuid5(NAMESPACE_OID, account)


async def begin_erasure(connection: Connection) -> None:
    """Wait for who writes late, and keep them out until the transaction ends."""
    await connection.execute(f"SELECT pg_advisory_xact_lock({_ERASING_LOCK})")


async def erased_among(connection: Connection, accounts: Collection[str]) -> set[str]:
    """Of these accounts those whose owners were erased; the other owners are not before the transaction ends.

    For who writes later, in a batch, what concerns a person: the erasure has removed what was there before it.
    """
    await connection.execute(f"SELECT pg_advisory_xact_lock_shared({_ERASING_LOCK})")
    subjects = {subject_of(account): account for account in accounts}
    rows = await connection.fetch(
        "SELECT subject_id FROM privacy_erasures WHERE subject_id = ANY ($1::uuid[])", list(subjects)
    )
    return {subjects[row["subject_id"]] for row in rows}


def is_sealed(stored: str) -> bool:
    """Whether a stored text is sealed."""
    return stored.startswith(_MARK)


def are_sealed(stored: bytes) -> bool:
    """Whether stored bytes are sealed; nothing that is text begins so."""
    return stored.startswith(_BYTES_MARK)


_SALT: Final = (
    "SELECT CASE WHEN NOT EXISTS (SELECT FROM privacy_erasures WHERE subject_id = $1) THEN audit_salt($1) END"
)


def _unreadable(place: str) -> Unreadable:
    return Unreadable(f"The stored {place.partition(':')[0]} cannot be opened: it was altered, or its owner erased.")
