"""Erasing a person: rows deleted, names blanked, the key destroyed, and a signed certificate of it, in one transaction.

What accounts and proofs need stays, under an id that leads nowhere any more; what was sealed in it cannot be opened by
anybody. The ledger, the receipts and the audit log verify as before.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from prsm.core.canonical import Canonical, encode
from prsm.core.database import Connection
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.core.keys import verify
from prsm.core.subject_keys import begin_erasure
from prsm.safety.audit.log_book import note
from prsm.safety.audit.state import ERASED
from prsm.safety.privacy.register import HOLDINGS
from prsm.safety.privacy.subject_rows import account_of

SUBJECT_ERASED: Final = "subjects.erased"
"""The event by which every worker forgets a subject's key."""
DOMAIN: Final = b"prsm-erasure-v1\n"
_VECTORS: Final = (
    "DELETE FROM vector_items WHERE collection = 'answers' "
    "AND id IN (SELECT id::text FROM receipts WHERE account_id = $1)"
)


@dataclass(frozen=True, slots=True)
class CertificateSigner:
    """The node that certifies."""

    node_id: str
    public_key_hex: str
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Erasure:
    """The certificate, byte for byte; the conversations whose copies, and the keys whose cached forms, must go."""

    certificate: bytes
    conversations: tuple[UUID, ...] = ()
    key_prefixes: tuple[str, ...] = ()


async def erase(connection: Connection, subject: UUID, signer: CertificateSigner, at: datetime) -> Erasure:
    """Erase a subject; one that was erased before is answered with its certificate. Raises NOT_FOUND."""
    async with connection.transaction():
        await begin_erasure(connection)
        if not await connection.fetchval("SELECT id FROM principals WHERE id = $1 FOR UPDATE", subject):
            raise PrsmError(f"There is no principal {subject}.", kind=Kind.NOT_FOUND, code="principal_not_found")
        known = await connection.fetchval("SELECT certificate FROM privacy_erasures WHERE subject_id = $1", subject)
        if known is not None:
            return Erasure(known)
        conversations = await connection.fetch("SELECT id FROM conversations WHERE principal_id = $1", subject)
        prefixes = await connection.fetch("SELECT prefix FROM api_keys WHERE principal_id = $1", subject)
        counts = await _remove(connection, subject)
        certificate = _certificate(subject, counts, signer, at)
        await connection.execute(
            "INSERT INTO privacy_erasures (subject_id, at, certificate) VALUES ($1, $2, $3)", subject, at, certificate
        )
        digest = hashlib.sha256(certificate).hexdigest()
        await note(connection, ERASED, subject=str(subject), certificate_sha256=digest)
        await emit(connection, SUBJECT_ERASED, {"subject": str(subject)})
        return Erasure(certificate, tuple(row["id"] for row in conversations), tuple(row["prefix"] for row in prefixes))


def check_certificate(certificate: bytes, public_key_hex: str) -> bool:
    """Whether a certificate is signed by the node of this key."""
    try:
        signed: dict[str, Any] = msgspec.json.decode(certificate)
        message = DOMAIN + encode(signed["certificate"])
        return verify(public_key_hex, bytes.fromhex(signed["signature"]), message)
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return False


async def _remove(connection: Connection, subject: UUID) -> dict[str, int]:
    account, account_id = await account_of(connection, subject)
    counts: dict[str, int] = {}
    for holding in HOLDINGS:
        if holding.at_erasure == "delete":
            about = "(SELECT $1::uuid, $2::text, $3::bigint) AS about"
            tag = await connection.execute(
                f"DELETE FROM {holding.table} USING {about} WHERE {holding.whose}",  # noqa: S608
                *(subject, account, account_id),
            )
        elif holding.at_erasure == "blank":
            tag = await connection.execute(holding.blank, subject)
        else:
            continue
        counts[holding.table] = int(tag.split()[-1])
    if await connection.fetchval("SELECT to_regclass('vector_items') IS NOT NULL"):
        counts["vector_items"] = int((await connection.execute(_VECTORS, account_id)).split()[-1])
    counts["subject_salts"] = int(
        (await connection.execute("DELETE FROM subject_salts WHERE subject_id = $1", subject)).split()[-1]
    )
    return counts


def _certificate(subject: UUID, counts: dict[str, int], signer: CertificateSigner, at: datetime) -> bytes:
    blanked = {holding.table for holding in HOLDINGS if holding.at_erasure == "blank"}
    certificate: Canonical = {
        "version": 1,
        "subject": str(subject),
        "node": {"id": signer.node_id, "public_key": signer.public_key_hex},
        "erased_at": at.astimezone(UTC).isoformat(),
        "deleted_rows": {table: count for table, count in counts.items() if table not in blanked},
        "blanked_rows": {table: count for table, count in counts.items() if table in blanked},
        "key_destroyed": counts["subject_salts"] == 1,
        "kept": [
            {"table": holding.table, "what": holding.what, "why": holding.basis, "how_long": holding.kept}
            for holding in HOLDINGS
            if holding.at_erasure == "keep"
        ],
    }
    signature = signer.sign(DOMAIN + encode(certificate)).hex()
    return encode({"certificate": certificate, "signature": signature})
