"""A version's statement: one encoding, one digest, signed by its publisher; every field has its form and range."""

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from prsm.core import canonical
from prsm.core.errors import InvalidRequest, Kind
from prsm.core.keys import NodeKey
from prsm.federation.registry.versions import (
    MAX_SCORES,
    Parent,
    Registered,
    Score,
    Version,
    check_signature,
    check_version,
    digest,
    read_statement,
    sign,
    split_reference,
    statement,
    taken,
    tidy,
)

KEY, OTHER = (NodeKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))
DIGEST = "ab" * 32
WHOLE = Version(
    "org/m",
    "v1.0",
    KEY.public_key_hex,
    ("chat", "tools"),
    8192,
    weights_cid="bafybeigdyrzt",
    parents=(Parent("base", "v0", 500, DIGEST),),
    data=("bafydata", "https://data/set"),
    training_run="run 7",
    licence="MIT",
    input_modalities=("image", "text"),
    scores=(Score("gsm8k", "exact_match", 812_000, 1319),),
    description="Knows much, é.",
)

texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
versions = st.builds(
    Version,
    model=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name != "auto"),
    version=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,9}", fullmatch=True).filter(
        lambda label: label not in ("stable", "candidate")
    ),
    publisher=st.just(KEY.public_key_hex),
    capabilities=st.sets(st.sampled_from(["chat", "tools", "vision", "embeddings"]), min_size=1).map(tuple),
    context_tokens=st.integers(1, 10**8),
    parents=st.dictionaries(texts.filter(bool), st.integers(0, 600), max_size=16).map(
        lambda shares: tuple(Parent("up", label, share, DIGEST) for label, share in shares.items())
    ),
    data=st.lists(texts, max_size=5).map(tuple),
    scores=st.dictionaries(texts.filter(bool), st.integers(-(10**12), 10**12), max_size=5).map(
        lambda found: tuple(Score(name, "accuracy", value, 10) for name, value in found.items())
    ),
    description=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50),
).map(tidy)


@given(versions)
def test_a_statement_is_canonical_and_reads_back(version: Version) -> None:
    check_version(version)
    data = statement(version)
    assert canonical.encode(msgspec.json.decode(data)) == data
    assert read_statement(data) == version
    check_signature(version, sign(version, KEY.sign))


@given(versions, versions)
def test_other_statements_have_other_digests_and_signatures(one: Version, other: Version) -> None:
    assert (digest(one) == digest(other)) == (one == other)
    if one != other:
        with pytest.raises(InvalidRequest, match="signature"):
            check_signature(other, sign(one, KEY.sign))


def test_a_signature_is_its_publishers_and_nobody_elses() -> None:
    check_version(WHOLE)
    for signature in (sign(WHOLE, OTHER.sign), "", "00" * 64, "zz" * 64, sign(WHOLE, KEY.sign).upper()):
        with pytest.raises(InvalidRequest) as refused:
            check_signature(WHOLE, signature)
        assert refused.value.param == "signature"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "a@b"}, "model"),
        ({"model": "auto"}, "model"),
        ({"model": "auto:cheap"}, "model"),
        ({"model": "m" * 201}, "model"),
        ({"model": "m\n"}, "model"),
        ({"version": ""}, "version"),
        ({"version": "stable"}, "version"),
        ({"version": "candidate"}, "version"),
        ({"version": "a/b"}, "version"),
        ({"publisher": "AB" * 32}, "publisher"),
        ({"capabilities": ()}, "capabilities"),
        ({"capabilities": ("fly",)}, "capabilities"),
        ({"capabilities": ("tools", "chat")}, "data"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"weights_cid": "no/cid"}, "weights_cid"),
        ({"licence": "é"}, "licence"),
        ({"training_run": "x" * 201}, "training_run"),
        ({"data": ("b", "a")}, "data"),
        ({"data": tuple(sorted(f"{n:03}" for n in range(65)))}, "data"),
        ({"input_modalities": ("Text",)}, "input_modalities"),
        ({"description": "a\0"}, "description"),
        ({"parents": (Parent("base", "v0", -1, DIGEST),)}, "parents"),
        ({"parents": (Parent("a", "v", 6000, DIGEST), Parent("b", "v", 4001, DIGEST))}, "parents"),
        ({"parents": (Parent("a", "v", 1, DIGEST), Parent("a", "v", 2, DIGEST))}, "parents"),
        ({"parents": (Parent("org/m", "v1.0", 1, DIGEST),)}, "parents"),
        ({"parents": (Parent("a", "v", 1, "short"),)}, "parents"),
        ({"parents": tuple(Parent("a", f"{n:02}", 1, DIGEST) for n in range(17))}, "parents"),
        ({"scores": (Score("e", "m", 10**12 + 1, 1),)}, "scores"),
        ({"scores": (Score("e", "m", 1, -1),)}, "scores"),
        ({"scores": (Score("", "m", 1, 1),)}, "scores"),
        ({"scores": (Score("e", "m", 1, 1), Score("e", "m", 2, 1))}, "scores"),
        ({"scores": tuple(Score(f"{n:04}", "m", 1, 1) for n in range(MAX_SCORES + 1))}, "scores"),
    ],
)
def test_what_is_out_of_range_is_refused_and_named(change: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_version(replace(WHOLE, **change))  # type: ignore[arg-type]
    assert refused.value.param == param


def test_a_label_that_is_taken_says_what_differs() -> None:
    kept = Registered(WHOLE, digest(WHOLE), "", "", datetime(2026, 1, 1, tzinfo=UTC))
    error = taken(replace(WHOLE, licence="Apache-2.0", context_tokens=1), kept)
    assert error.kind is Kind.CONFLICT
    assert "differs in context_tokens, licence." in error.message
    assert digest(WHOLE)[:12] in error.message


def test_a_reference_without_a_label_means_the_stable_version() -> None:
    assert split_reference("org/m") == ("org/m", "stable")
    assert split_reference("org/m@v1") == ("org/m", "v1")
