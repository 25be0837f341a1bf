"""A version of a model: what its publisher states of it, once and for all, under an Ed25519 signature.

A statement is its publisher's word; only its form, its signature and its parents are checked. Nothing of a version ever
changes: another statement needs another label. What becomes of a version afterwards stands in ``releases.py``.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec

from prsm.core import canonical, keys
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import BASIS_POINTS

Ref = tuple[str, str]
"""A version by its model and its label; written ``model@label``."""

DOMAIN: Final = b"prsm-model-version-v1\n"
"""Stands before the signed bytes, so that the signature can be nothing else's."""
CAPABILITIES: Final = ("chat", "tools", "vision", "embeddings", "prefill")
STABLE: Final = "stable"
CANDIDATE: Final = "candidate"
MAX_TOKENS: Final = 100_000_000
MAX_PARENTS: Final = 16
MAX_SCORES: Final = 256
MAX_REFERENCES: Final = 64
MAX_VALUE_PPM: Final = 10**12
MAX_ITEMS: Final = 10**9
MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"
LABEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$"
MODALITY_PATTERN: Final = r"^[a-z][a-z0-9_-]{0,31}$"

_MODEL, _LABEL, _MODALITY = re.compile(MODEL_PATTERN), re.compile(LABEL_PATTERN), re.compile(MODALITY_PATTERN)
_CID = re.compile(r"[a-zA-Z0-9]{0,200}")
_KEY, _SIGNATURE, _DIGEST = (re.compile(f"[0-9a-f]{{{digits}}}") for digits in (64, 128, 64))
_MAX_TEXT_CHARS = 200
_MAX_DESCRIPTION_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that this one was made from. ``share_bps`` of what this one earns its owner go there.

    ``digest`` is that of the parent's statement, so that no other version of the same label can stand in for it.
    """

    model: str
    version: str
    share_bps: int = 0
    digest: str = ""

    @property
    def ref(self) -> Ref:
        """Which version."""
        return self.model, self.version


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluation found: ``value_ppm`` is the metric's value in millionths, over ``items`` examples."""

    evaluation: str
    metric: str
    value_ppm: int
    items: int


@dataclass(frozen=True, slots=True)
class Version:
    """A publisher's statement about one version.

    ``weights_cid`` is empty where an upstream serves it and nobody here has the weights; ``data`` names what it was
    trained on (CIDs, URLs or names). Sequences are sorted and without repeats. ``publisher`` is a public key, hex.
    """

    model: str
    version: str
    publisher: str
    capabilities: tuple[str, ...]
    context_tokens: int
    weights_cid: str = ""
    parents: tuple[Parent, ...] = ()
    data: tuple[str, ...] = ()
    training_run: str = ""
    licence: str = ""
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    scores: tuple[Score, ...] = ()
    description: str = ""

    @property
    def ref(self) -> Ref:
        """Which version."""
        return self.model, self.version


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as this node keeps it: its statement's SHA-256, its signature (hex), and who earns by it here."""

    version: Version
    digest: str
    signature: str
    owner_account: str
    registered_at: datetime


def tidy(version: Version) -> Version:
    """The same with every sequence sorted and without repeats, as a statement has them."""
    return replace(
        version,
        capabilities=_sorted(version.capabilities),
        data=_sorted(version.data),
        input_modalities=_sorted(version.input_modalities),
        output_modalities=_sorted(version.output_modalities),
        parents=tuple(sorted(version.parents, key=lambda parent: parent.ref)),
        scores=tuple(sorted(version.scores, key=lambda score: (score.evaluation, score.metric))),
    )


def statement(version: Version) -> bytes:
    """The canonical bytes of a version: what is hashed, signed and kept."""
    # Its types, and ``check_version``, leave nothing that has no canonical encoding.
    return canonical.encode_trusted(msgspec.to_builtins(version))


def read_statement(data: bytes) -> Version:
    """The version in a statement that was kept."""
    return msgspec.json.decode(data, type=Version)


def digest(version: Version) -> str:
    """SHA-256 of the statement, as lower-case hex."""
    return hashlib.sha256(statement(version)).hexdigest()


def sign(version: Version, sign_bytes: Callable[[bytes], bytes]) -> str:
    """The signature, hex; ``sign_bytes`` is ``NodeKey.sign``, or another key's."""
    return sign_bytes(DOMAIN + statement(version)).hex()


def check_signature(version: Version, signature: str) -> None:
    """Raise InvalidRequest unless ``signature`` is the publisher's (RFC 8032)."""
    is_hex = _SIGNATURE.fullmatch(signature) is not None
    if not is_hex or not keys.verify(version.publisher, bytes.fromhex(signature), DOMAIN + statement(version)):
        raise InvalidRequest(
            "The signature is not that of this version by its publisher's key.",
            remedy="Sign the canonical statement, or leave publisher and signature out: then this node signs.",
            param="signature",
        )


def check_version(version: Version) -> None:
    """Raise InvalidRequest, naming the field, unless every value has its form and range."""
    check_model_name(version.model)
    check_label(version.version)
    if not _KEY.fullmatch(version.publisher):
        raise InvalidRequest("The publisher is a public key of 64 lower-case hex digits.", param="publisher")
    if set(version.capabilities) - set(CAPABILITIES) or not version.capabilities:
        raise InvalidRequest(f"Capabilities are some of {', '.join(CAPABILITIES)}.", param="capabilities")
    if not 1 <= version.context_tokens <= MAX_TOKENS:
        raise InvalidRequest(f"context_tokens is from 1 to {MAX_TOKENS}.", param="context_tokens")
    if not _CID.fullmatch(version.weights_cid):
        raise InvalidRequest("weights_cid is a CID, or empty.", param="weights_cid")
    for name in ("training_run", "licence"):
        _check_text(getattr(version, name), name)
    if version != tidy(version):
        raise InvalidRequest("Capabilities, data, modalities, parents and scores are sorted, none twice.", param="data")
    if len(version.data) > MAX_REFERENCES:
        raise InvalidRequest(f"A version names at most {MAX_REFERENCES} data sets.", param="data")
    for text in version.data:
        _check_text(text, "data")
    modalities = (*version.input_modalities, *version.output_modalities)
    if len(modalities) > MAX_REFERENCES:
        raise InvalidRequest(f"A version names at most {MAX_REFERENCES} modalities.", param="input_modalities")
    for modality in modalities:
        if not _MODALITY.fullmatch(modality):
            raise InvalidRequest("A modality is a lower-case word such as text or image.", param="input_modalities")
    if len(version.description) > _MAX_DESCRIPTION_CHARS or "\0" in version.description:
        raise InvalidRequest("A description has at most 4,000 characters and no NUL.", param="description")
    _check_parents(version)
    _check_scores(version.scores)


def check_model_name(model: str) -> None:
    """Raise InvalidRequest unless a registered model may have this name."""
    if not _MODEL.fullmatch(model):
        raise InvalidRequest(
            "A registered model's name has 1 to 200 letters, digits, '.', '_', ':', '/' or '-'.", param="model"
        )
    if model.partition(":")[0] == "auto":
        raise InvalidRequest("'auto' and 'auto:...' mean that the node chooses; no model has that name.", param="model")


def check_label(label: str) -> None:
    """Raise InvalidRequest unless a version, or an alias, may be called this."""
    if not _LABEL.fullmatch(label):
        raise InvalidRequest("A version's label has 1 to 100 letters, digits, '.', '_', '+' or '-'.", param="version")
    if label in (STABLE, CANDIDATE):
        raise InvalidRequest(f"{label!r} is what a release is called, and no version's label.", param="version")


def split_reference(reference: str) -> Ref:
    """``model@label`` as its two parts; without '@' the label is ``stable``."""
    model, _, label = reference.partition("@")
    return model, label or STABLE


def taken(version: Version, kept: Registered) -> PrsmError:
    """The refusal of a label that another statement has."""
    fields = [name for name in Version.__slots__ if getattr(version, name) != getattr(kept.version, name)]
    return PrsmError(
        f"{version.model}@{version.version} is registered with another statement (digest {kept.digest[:12]}); "
        f"it differs in {', '.join(fields)}.",
        kind=Kind.CONFLICT,
        code="version_taken",
        remedy="A version never changes: register the new one under another label.",
        param="version",
    )


def _check_parents(version: Version) -> None:
    parents = version.parents
    if len(parents) > MAX_PARENTS or len({parent.ref for parent in parents}) < len(parents):
        raise InvalidRequest(f"A version has at most {MAX_PARENTS} parents, each named once.", param="parents")
    if version.ref in {parent.ref for parent in parents}:
        raise InvalidRequest("No version is its own parent.", param="parents")
    if not all(_DIGEST.fullmatch(parent.digest) for parent in parents):
        raise InvalidRequest("A parent's digest has 64 lower-case hex digits.", param="parents")
    shares = [parent.share_bps for parent in parents]
    if any(share < 0 for share in shares) or sum(shares) > BASIS_POINTS:
        raise InvalidRequest(
            f"The parents' shares are not negative and together at most {BASIS_POINTS} basis points.", param="parents"
        )


def _check_scores(scores: tuple[Score, ...]) -> None:
    if len(scores) > MAX_SCORES or len({(s.evaluation, s.metric) for s in scores}) < len(scores):
        raise InvalidRequest(f"At most {MAX_SCORES} scores, one for an evaluation and metric.", param="scores")
    for score in scores:
        for text in (score.evaluation, score.metric):
            if not text:
                raise InvalidRequest("A score names its evaluation and its metric.", param="scores")
            _check_text(text, "scores")
        if abs(score.value_ppm) > MAX_VALUE_PPM or not 0 <= score.items <= MAX_ITEMS:
            raise InvalidRequest(
                f"value_ppm is within +-{MAX_VALUE_PPM}, items from 0 (not known) to {MAX_ITEMS}.", param="scores"
            )


def _check_text(text: str, param: str) -> None:
    if len(text) > _MAX_TEXT_CHARS or not text.isascii() or not text.isprintable():
        raise InvalidRequest(f"{param} has at most {_MAX_TEXT_CHARS} printable ASCII characters.", param=param)


def _sorted(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))
