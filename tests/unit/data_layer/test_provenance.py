"""Signed statements of provenance: what is signed comes back; each altered, odd or oversized field is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core import canonical
from prsm.core.keys import NodeKey
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.provenance.signed_statement import (
    DOMAIN,
    MAX_CLOCK_SKEW,
    MAX_ENVELOPE_BYTES,
    BadProvenance,
    ContentKind,
    Origin,
    Provenance,
    Relation,
    sign,
    spdx,
    verify,
)

KEY = NodeKey(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
OTHER = NodeKey(Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))
ELSEWHERE = timezone(timedelta(hours=5))
AT = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


def cid(text: str) -> str:
    return str(Cid.of(Codec.RAW, text.encode()))


STATEMENT = Provenance(
    cid=cid("model"),
    kind=ContentKind.MODEL,
    publisher=KEY.node_id,
    public_key=KEY.public_key_hex,
    published_at=AT,
    licence="Apache-2.0 OR LicenseRef-llama3",
    title="Modèle de test",
    media_type="application/vnd.safetensors",
    size_bytes=1234,
    derived_from=(Origin(cid("base"), Relation.FINE_TUNED_FROM), Origin(cid("data"), Relation.TRAINED_ON)),
    annotations={"language": "fr", "note": 'a "quoted" text'},
)


def signed(body: dict[str, Any], key: NodeKey = KEY, domain: bytes = DOMAIN) -> bytes:
    """An envelope of any body, with a signature that is right for it."""
    raw = canonical.encode(body)
    return b'{"provenance":' + raw + b',"signature":"' + key.sign(domain + raw).hex().encode() + b'"}'


def body() -> dict[str, Any]:
    return json.loads(sign(STATEMENT, KEY.sign))["provenance"]


def test_what_is_signed_comes_back() -> None:
    assert verify(sign(STATEMENT, KEY.sign), AT) == STATEMENT


def test_the_signature_is_over_the_domain_and_the_canonical_body() -> None:
    assert sign(STATEMENT, KEY.sign) == signed(body())


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        Provenance,
        cid=st.text(max_size=5).map(cid),
        kind=st.sampled_from(ContentKind),
        publisher=st.sampled_from([KEY.node_id, "0198c0de-0000-7000-8000-000000000001", "Müller & Söhne"]),
        public_key=st.just(KEY.public_key_hex),
        published_at=st.integers(10**12, 1_772_000_000_000).map(
            lambda ms: datetime.fromtimestamp(ms // 1000, ELSEWHERE) + timedelta(milliseconds=ms % 1000)
        ),
        licence=st.sampled_from(["MIT", "CC-BY-SA-4.0", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-x"]),
        title=st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=200),
        media_type=st.sampled_from(["application/json", "text/csv", "application/vnd.gguf+zip"]),
        size_bytes=st.integers(0, 2**53 - 1),
        derived_from=st.lists(
            st.builds(Origin, st.integers().map(lambda number: cid(f"parent {number}")), st.sampled_from(Relation)),
            max_size=4, unique=True,
        ).map(tuple),
        annotations=st.dictionaries(
            st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
            st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1), max_size=4,
        ),
    )
)  # fmt: skip
def test_every_statement_comes_back(statement: Provenance) -> None:
    assert verify(sign(statement, KEY.sign), AT) == statement


TAMPERED: dict[str, Any] = {
    "cid": cid("another"),
    "kind": "dataset",
    "publisher": "someone else",
    "published_at": "2026-03-01T11:00:00.123Z",
    "licence": "MIT",
    "title": "Modele de test",
    "media_type": "application/octet-stream",
    "size_bytes": 1235,
    "derived_from": [],
    "annotations": {},
}


@pytest.mark.parametrize("field", TAMPERED)
def test_a_tampered_field_is_refused(field: str) -> None:
    wire = json.loads(sign(STATEMENT, KEY.sign))
    wire["provenance"][field] = TAMPERED[field]
    with pytest.raises(BadProvenance) as caught:
        verify(canonical.encode(wire), AT)
    assert caught.value.param == "signature"
    verify(signed(body() | {field: TAMPERED[field]}), AT)  # it is the signature that was wrong, not the value


def test_a_tampered_key_is_refused_with_and_without_its_node_id() -> None:
    wire = json.loads(sign(STATEMENT, KEY.sign))
    wire["provenance"]["public_key"] = OTHER.public_key_hex
    with pytest.raises(BadProvenance, match="not the node of this public key"):
        verify(canonical.encode(wire), AT)
    wire["provenance"]["publisher"] = OTHER.node_id
    with pytest.raises(BadProvenance, match="signature is not that of this statement"):
        verify(canonical.encode(wire), AT)


def test_a_signature_made_for_something_else_is_refused() -> None:
    for domain in (b"", b"prsm-receipt-v1\n", b"prsm-provenance-v2\n"):
        with pytest.raises(BadProvenance, match="signature is not that"):
            verify(signed(body(), domain=domain), AT)
    with pytest.raises(BadProvenance, match="signature is not that"):
        verify(signed(body(), OTHER), AT)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("cid", "", "cid"),
        ("cid", "../etc", "cid"),
        ("cid", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "cid"),  # right, but not the one spelling
        ("publisher", "", "publisher"),
        ("publisher", "a" * 201, "publisher"),
        ("publisher", "a\nb", "publisher"),
        ("publisher", "prsm1aaaa", "publisher"),
        ("public_key", "00", "public_key"),
        ("public_key", "A" * 64, "public_key"),
        ("published_at", "1999-12-31T23:59:59.999Z", "published_at"),
        ("licence", "", "licence"),
        ("licence", "apache-2.0", "licence"),
        ("licence", "Proprietary", "licence"),
        ("licence", "MIT AND", "licence"),
        ("licence", "MIT " * 100, "licence"),
        ("licence", "(" * 200 + "MIT", "licence"),
        ("title", "", "title"),
        ("title", "a" * 201, "title"),
        ("title", "a\u202eb", "title"),
        ("media_type", "text", "media_type"),
        ("media_type", "Text/CSV", "media_type"),
        ("media_type", "text/csv; charset=x", "media_type"),
        ("media_type", "text/" + "a" * 64, "media_type"),
        ("size_bytes", -1, "size_bytes"),
        ("derived_from", [{"cid": "x", "relation": "part_of"}], "derived_from"),
        ("derived_from", [{"cid": STATEMENT.cid, "relation": "part_of"}], "derived_from"),
        ("derived_from", [{"cid": cid("a"), "relation": "part_of"}] * 2, "derived_from"),
        ("derived_from", [{"cid": cid(str(n)), "relation": "part_of"} for n in range(65)], "derived_from"),
        ("annotations", {"A": "b"}, "annotations"),
        ("annotations", {"a": ""}, "annotations"),
        ("annotations", {"a": "b\x00"}, "annotations"),
        ("annotations", {"a": "b" * 1025}, "annotations"),
        ("annotations", {"a" * 65: "b"}, "annotations"),
        ("annotations", {str(n): "b" for n in range(33)}, "annotations"),
        # what the types of the wire already refuse
        ("cid", 1, "envelope"),
        ("kind", "model ", "envelope"),
        ("size_bytes", "1", "envelope"),
        ("size_bytes", True, "envelope"),
        ("size_bytes", 2**53, "size_bytes"),
        ("published_at", "yesterday", "envelope"),
        ("derived_from", [{"cid": cid("a"), "relation": "stolen_from"}], "envelope"),
        ("derived_from", [{"cid": cid("a"), "relation": "part_of", "x": 1}], "envelope"),
        ("version", 2, "envelope"),
        ("extra", 1, "envelope"),
    ],
)  # fmt: skip
def test_a_field_that_breaks_a_rule_is_refused_although_signed(field: str, value: Any, param: str) -> None:
    raw = json.dumps(body() | {field: value}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    envelope = b'{"provenance":' + raw + b',"signature":"' + KEY.sign(DOMAIN + raw).hex().encode() + b'"}'
    with pytest.raises(BadProvenance) as caught:
        verify(envelope, AT)
    assert caught.value.param == param
    assert caught.value.message


@pytest.mark.parametrize("field", sorted(body()))
def test_no_field_may_be_missing(field: str) -> None:
    with pytest.raises(BadProvenance, match=field):
        verify(signed({key: value for key, value in body().items() if key != field}), AT)


@pytest.mark.parametrize(
    "alter",
    [
        lambda envelope: envelope + b" ",
        lambda envelope: b" " + envelope,
        lambda envelope: envelope.replace(b'":', b'": ', 1),
        lambda envelope: envelope.replace(b'"version":1', b'"version":1.0'),
        lambda envelope: envelope.replace(b"Mod\xc3\xa8le", b"Mod\\u00e8le"),
        lambda envelope: envelope.replace(b".123Z", b".123000Z"),
        lambda envelope: envelope[:-130] + envelope[-130:].upper(),
        lambda envelope: envelope.replace(b'{"provenance"', b'{"signature":"00","provenance"'),
        lambda envelope: envelope.replace(b'{"annotations"', b'{"cid":"x","annotations"'),
        lambda envelope: envelope[:-10] + b'"}',
    ],
)  # fmt: skip
def test_there_is_one_encoding(alter: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BadProvenance) as caught:
        verify(alter(sign(STATEMENT, KEY.sign)), AT)
    assert caught.value.param == "envelope"


@pytest.mark.parametrize("envelope", [b"", b"{}", b"null", b"\xff", b"[" * 60_000, b'{"provenance":{},"signature":""}'])
def test_what_is_no_statement_is_refused(envelope: bytes) -> None:
    with pytest.raises(BadProvenance, match="no provenance statement"):
        verify(envelope, AT)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_passes(place: int, change: int) -> None:
    envelope = bytearray(sign(STATEMENT, KEY.sign))
    envelope[place % len(envelope)] ^= change
    with pytest.raises(BadProvenance):
        verify(bytes(envelope), AT)


def test_sizes_are_bounded() -> None:
    with pytest.raises(BadProvenance, match="65536 are allowed"):
        verify(b" " * (MAX_ENVELOPE_BYTES + 1), AT)
    large = replace(STATEMENT, annotations={str(number): "😀" * 1024 for number in range(32)})
    with pytest.raises(BadProvenance, match="65536 are allowed"):
        sign(large, KEY.sign)


def test_a_statement_from_the_future_is_refused() -> None:
    envelope = sign(STATEMENT, KEY.sign)
    assert verify(envelope, AT - MAX_CLOCK_SKEW) == STATEMENT
    with pytest.raises(BadProvenance, match="future"):
        verify(envelope, AT - MAX_CLOCK_SKEW - timedelta(milliseconds=1))


def test_signing_checks_too() -> None:
    with pytest.raises(BadProvenance, match="not that of the signing key"):
        sign(STATEMENT, OTHER.sign)
    with pytest.raises(BadProvenance, match="time zone"):
        sign(replace(STATEMENT, published_at=datetime(2026, 1, 1)), KEY.sign)
    with pytest.raises(BadProvenance, match="is spelt 'MIT'"):
        sign(replace(STATEMENT, licence="mit"), KEY.sign)


def test_several_publishers_speak_about_one_cid() -> None:
    theirs = replace(STATEMENT, publisher=OTHER.node_id, public_key=OTHER.public_key_hex, licence="MIT")
    assert verify(sign(theirs, OTHER.sign), AT).cid == verify(sign(STATEMENT, KEY.sign), AT).cid


def test_spdx_spells_and_refuses() -> None:
    assert spdx("mit or (apache-2.0 and licenseref-Mine)") == "MIT OR (Apache-2.0 AND LicenseRef-Mine)"
    for wrong in ("", "other", "MIT OR", "MIT Apache-2.0", "__import__('os')", "MIT\0", "a" * 257, "(" * 256):
        with pytest.raises(BadProvenance):
            spdx(wrong)
    assert spdx("(" * 100 + "MIT" + ")" * 100)
