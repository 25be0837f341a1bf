"""Who published what, when, under which licence, derived from what: a signed statement, kept with the CID it is about.

A statement is its publisher's word, no proof. Several publishers may speak about one CID, and a later statement
of the same key replaces its earlier one. It is canonical JSON under an Ed25519 signature (RFC 8032).
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from prsm.core import canonical, keys
from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import BadCid, Cid

DOMAIN = b"prsm-provenance-v1\n"
"""Stands before the signed bytes, so that a statement's signature can be nothing else's."""

MAX_ENVELOPE_BYTES = 65_536
MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead of ours a publisher's clock may be."""

_MAX_PARENTS = 64
_MAX_ANNOTATIONS = 32
_MAX_ANNOTATION_CHARS = 1024
_MAX_TITLE_CHARS = 200
_MAX_PUBLISHER_CHARS = 200
_MAX_LICENCE_CHARS = 256
_MAX_SIZE_BYTES = 2**53 - 1
_KEY = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")  # RFC 6838
_ANNOTATION_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class BadProvenance(InvalidRequest):
    """A statement that breaks a rule, or whose signature is not its publisher's; ``param`` names the field."""

    code = "bad_provenance"


class ContentKind(StrEnum):
    """What the content is."""

    MODEL = "model"
    DATASET = "dataset"
    OTHER = "other"


class Relation(StrEnum):
    """How the content came from another."""

    FINE_TUNED_FROM = "fine_tuned_from"
    DISTILLED_FROM = "distilled_from"
    QUANTISED_FROM = "quantised_from"
    TRAINED_ON = "trained_on"
    PART_OF = "part_of"
    VERSION_OF = "version_of"


@dataclass(frozen=True, slots=True)
class Origin:
    """One thing the content was derived from."""

    cid: str
    relation: Relation


@dataclass(frozen=True, slots=True)
class Provenance:
    """One publisher's statement about one CID.

    ``publisher`` is a node id, which must then be that of ``public_key`` (hex), or the id of a principal's account;
    ``licence`` is an SPDX expression, with ``LicenseRef-...`` for one that is not on SPDX's list; ``published_at`` is
    kept to the millisecond.
    """

    cid: str
    kind: ContentKind
    publisher: str
    public_key: str
    published_at: datetime
    licence: str
    title: str
    media_type: str
    size_bytes: int
    derived_from: tuple[Origin, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


def sign(statement: Provenance, sign_bytes: Callable[[bytes], bytes]) -> bytes:
    """The envelope ``{"provenance": {...}, "signature": hex}``; ``sign_bytes`` is ``NodeKey.sign`` or another key's.

    Raises BadProvenance when a field breaks a rule or the signature is not by ``public_key``.
    """
    _check(statement)
    body = _encode(statement)
    signature = sign_bytes(DOMAIN + body)
    if not keys.verify(statement.public_key, signature, DOMAIN + body):
        raise BadProvenance("The public key is not that of the signing key.", param="public_key")
    envelope = _envelope(body, signature.hex())
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise BadProvenance(
            f"The statement has {len(envelope)} bytes; {MAX_ENVELOPE_BYTES} are allowed.",
            remedy="Shorten the annotations.",
            param="annotations",
        )
    return envelope


def verify(envelope: bytes, at: datetime) -> Provenance:
    """The statement in an envelope, once its form, its fields, its time (not after ``at``) and its signature hold.

    Raises BadProvenance. There is one encoding of a statement; any other, even of equal JSON, is refused.
    """
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise BadProvenance(
            f"The statement has {len(envelope)} bytes; {MAX_ENVELOPE_BYTES} are allowed.", param="envelope"
        )
    try:
        wire = msgspec.json.decode(envelope, type=_Envelope)
        statement = _decode(wire.provenance)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadProvenance(f"This is no provenance statement: {str(error)[:200]}.", param="envelope") from None
    _check(statement)
    body = _encode(statement)
    if not _SIGNATURE.fullmatch(wire.signature) or _envelope(body, wire.signature) != envelope:
        raise BadProvenance("The statement is not in its canonical form.", param="envelope")
    if not keys.verify(statement.public_key, bytes.fromhex(wire.signature), DOMAIN + body):
        raise BadProvenance(
            "The signature is not that of this statement by its public key.",
            remedy="It was altered on its way; get it again from its publisher.",
            param="signature",
        )
    if statement.published_at > at + MAX_CLOCK_SKEW:
        raise BadProvenance(
            f"The statement is dated {_time(statement.published_at)}, which is in the future.",
            remedy="Check this node's clock and the publisher's.",
            param="published_at",
        )
    return statement


def spdx(expression: str) -> str:
    """The expression as SPDX spells it (``mit or apache-2.0`` is ``MIT OR Apache-2.0``). Raises BadProvenance."""
    if len(expression) > _MAX_LICENCE_CHARS:
        raise BadProvenance(f"A licence has at most {_MAX_LICENCE_CHARS} characters.", param="licence")
    try:
        return canonicalize_license_expression(expression)
    except InvalidLicenseExpression as error:
        raise BadProvenance(
            f"The licence is no SPDX expression: {error}.",
            remedy="Take an identifier from SPDX's list, or LicenseRef-<name> for a licence that is not on it.",
            param="licence",
        ) from None


class _WireOrigin(msgspec.Struct, forbid_unknown_fields=True):
    cid: str
    relation: Relation


class _WireStatement(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    cid: str
    kind: ContentKind
    publisher: str
    public_key: str
    published_at: str
    licence: str
    title: str
    media_type: str
    size_bytes: int
    derived_from: list[_WireOrigin]
    annotations: dict[str, str]


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    provenance: _WireStatement
    signature: str


def _envelope(body: bytes, signature_hex: str) -> bytes:
    return b'{"provenance":' + body + b',"signature":"' + signature_hex.encode() + b'"}'


def _encode(statement: Provenance) -> bytes:
    return canonical.encode(
        {
            "version": 1,
            "cid": statement.cid,
            "kind": statement.kind.value,
            "publisher": statement.publisher,
            "public_key": statement.public_key,
            "published_at": _time(statement.published_at),
            "licence": statement.licence,
            "title": statement.title,
            "media_type": statement.media_type,
            "size_bytes": statement.size_bytes,
            "derived_from": [{"cid": o.cid, "relation": o.relation.value} for o in statement.derived_from],
            "annotations": dict(statement.annotations),
        }
    )


def _decode(wire: _WireStatement) -> Provenance:
    return Provenance(
        cid=wire.cid,
        kind=wire.kind,
        publisher=wire.publisher,
        public_key=wire.public_key,
        published_at=datetime.strptime(wire.published_at, _TIME).replace(tzinfo=UTC),
        licence=wire.licence,
        title=wire.title,
        media_type=wire.media_type,
        size_bytes=wire.size_bytes,
        derived_from=tuple(Origin(origin.cid, origin.relation) for origin in wire.derived_from),
        annotations=wire.annotations,
    )


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)[:-4] + "Z"


def _check(statement: Provenance) -> None:
    _check_cid(statement.cid, "cid")
    _check_publisher(statement)
    if statement.published_at.tzinfo is None or not 2000 <= statement.published_at.year < 9000:
        raise BadProvenance("published_at needs a time zone and a year from 2000.", param="published_at")
    if spdx(statement.licence) != statement.licence:
        raise BadProvenance(f"The licence is spelt {spdx(statement.licence)!r} by SPDX.", param="licence")
    _check_line(statement.title, "title", _MAX_TITLE_CHARS)
    if not _MEDIA_TYPE.fullmatch(statement.media_type):
        raise BadProvenance("The media type is not of the form type/subtype, in lower case.", param="media_type")
    if not 0 <= statement.size_bytes <= _MAX_SIZE_BYTES:
        raise BadProvenance(f"size_bytes is not from 0 to {_MAX_SIZE_BYTES}.", param="size_bytes")
    _check_origins(statement)
    if len(statement.annotations) > _MAX_ANNOTATIONS:
        raise BadProvenance(f"At most {_MAX_ANNOTATIONS} annotations are allowed.", param="annotations")
    for key, value in statement.annotations.items():
        if not _ANNOTATION_KEY.fullmatch(key):
            raise BadProvenance(
                "An annotation's key has 1 to 64 lower-case letters, digits and ._-", param="annotations"
            )
        _check_line(value, "annotations", _MAX_ANNOTATION_CHARS)


def _check_publisher(statement: Provenance) -> None:
    _check_line(statement.publisher, "publisher", _MAX_PUBLISHER_CHARS)
    if not _KEY.fullmatch(statement.public_key):
        raise BadProvenance("The public key is not 64 lower-case hex digits.", param="public_key")
    digest = hashlib.sha256(bytes.fromhex(statement.public_key)).digest()
    node_id = "prsm1" + base64.b32encode(digest[:20]).decode().lower()  # as core/keys.py names a node
    if statement.publisher.startswith("prsm1") and statement.publisher != node_id:
        raise BadProvenance(f"The publisher is not the node of this public key, {node_id}.", param="publisher")


def _check_origins(statement: Provenance) -> None:
    if len(statement.derived_from) > _MAX_PARENTS:
        raise BadProvenance(f"derived_from names more than {_MAX_PARENTS} origins.", param="derived_from")
    if len(set(statement.derived_from)) != len(statement.derived_from):
        raise BadProvenance("derived_from names an origin twice.", param="derived_from")
    for origin in statement.derived_from:
        _check_cid(origin.cid, "derived_from")
        if origin.cid == statement.cid:
            raise BadProvenance("Nothing is derived from itself.", param="derived_from")


def _check_cid(text: str, param: str) -> None:
    try:
        spelt = str(Cid.parse(text))
    except BadCid as error:
        raise BadProvenance(error.message, param=param) from None
    if spelt != text:
        raise BadProvenance(f"The CID is spelt {spelt} here (CIDv1, base32).", param=param)


def _check_line(text: str, param: str, most: int) -> None:
    """One line of text, without control characters and marks that reverse the reading order."""
    if not 0 < len(text) <= most or not text.isprintable():
        raise BadProvenance(f"{param} needs 1 to {most} printable characters on one line.", param=param)
