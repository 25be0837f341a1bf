"""What the registry's routes take and show."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from prsm.core.money import BASIS_POINTS
from prsm.federation.model_registry import Catalogue, Model
from prsm.federation.registry.lifecycle import MAX_REASON_CHARS, Limits
from prsm.federation.registry.lineage import ancestors_first, lineage_shares, maker
from prsm.federation.registry.releases import ALIAS_PATTERN, Release
from prsm.federation.registry.version_rows import Change
from prsm.federation.registry.versions import (
    CAPABILITIES,
    LABEL_PATTERN,
    MAX_ITEMS,
    MAX_PARENTS,
    MAX_REFERENCES,
    MAX_SCORES,
    MAX_TOKENS,
    MAX_VALUE_PPM,
    MODALITY_PATTERN,
    MODEL_PATTERN,
    Parent,
    Registered,
    Score,
    Version,
)

_LINE = r"^[\x20-\x7e]*$"
_FORBID = ConfigDict(extra="forbid", strict=True)
ModelName = Annotated[str, Field(max_length=200, pattern=MODEL_PATTERN)]
Label = Annotated[str, Field(max_length=100, pattern=LABEL_PATTERN)]
Reason = Annotated[str, Field(max_length=MAX_REASON_CHARS, pattern=r"^[^\x00-\x1f\x7f]*$", description="For history.")]
Bps = Annotated[int, Field(ge=0, le=BASIS_POINTS)]
Line = Annotated[str, Field(max_length=200, pattern=_LINE)]
Modality = Annotated[str, Field(pattern=MODALITY_PATTERN)]
Capability = Annotated[str, Field(json_schema_extra={"enum": [*CAPABILITIES]})]


class ParentShown(BaseModel):
    """A version that another was made from, and the share of its earnings that goes there."""

    model_config = _FORBID

    model: ModelName
    version: Label
    share_bps: Bps = 0
    digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Empty: of the one registered here.")


class ScoreShown(BaseModel):
    """What an evaluation found: the metric's value in millionths, over so many items (0: not known)."""

    model_config = _FORBID

    evaluation: str = Field(min_length=1, max_length=200, pattern=_LINE)
    metric: str = Field(min_length=1, max_length=200, pattern=_LINE)
    value_ppm: int = Field(ge=-MAX_VALUE_PPM, le=MAX_VALUE_PPM)
    items: int = Field(ge=0, le=MAX_ITEMS)


class NewVersion(BaseModel):
    """A version to register. Without publisher and signature this node signs it."""

    model_config = _FORBID

    model: ModelName
    version: Label
    capabilities: list[Capability] = Field(default=["chat"], min_length=1, max_length=10)
    context_tokens: int = Field(default=8192, ge=1, le=MAX_TOKENS)
    weights_cid: str = Field(default="", max_length=200, pattern=r"^[a-zA-Z0-9]*$")
    parents: list[ParentShown] = Field(default=[], max_length=MAX_PARENTS)
    data: list[Line] = Field(default=[], max_length=MAX_REFERENCES)
    training_run: Line = ""
    licence: Line = ""
    input_modalities: list[Modality] = Field(default=["text"], max_length=MAX_REFERENCES)
    output_modalities: list[Modality] = Field(default=["text"], max_length=MAX_REFERENCES)
    scores: list[ScoreShown] = Field(default=[], max_length=MAX_SCORES)
    description: str = Field(default="", max_length=4000, pattern=r"^[^\x00]*$")
    publisher: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Ed25519 public key, hex.")
    signature: str = Field(default="", pattern=r"^([0-9a-f]{128})?$", description="Of the canonical statement, hex.")
    owner_principal_id: Annotated[UUID | None, Field(strict=False, description="Who earns by it here.")] = None
    state: Literal["draft", "candidate", "live"] = "draft"
    reason: Reason = ""

    def version_stated(self) -> Version:
        """The statement."""
        return Version(
            model=self.model,
            version=self.version,
            publisher=self.publisher,
            capabilities=tuple(self.capabilities),
            context_tokens=self.context_tokens,
            weights_cid=self.weights_cid,
            parents=tuple(Parent(**parent.model_dump()) for parent in self.parents),
            data=tuple(self.data),
            training_run=self.training_run,
            licence=self.licence,
            input_modalities=tuple(self.input_modalities),
            output_modalities=tuple(self.output_modalities),
            scores=tuple(Score(**score.model_dump()) for score in self.scores),
            description=self.description,
        )


class NewState(BaseModel):
    """Where a version is to stand; live is reached by promotion."""

    model_config = _FORBID

    state: Literal["draft", "candidate", "deprecated", "retired"]
    reason: Reason = ""
    retire_at: Annotated[
        datetime | None, Field(strict=False, description="When a deprecated version retires by itself.")
    ] = None


class LimitsShown(BaseModel):
    """What a version is deprecated for breaking; null: nothing is asked."""

    model_config = _FORBID

    availability_bps: Bps | None = None
    error_bps: Bps | None = None
    quality_bps: Bps | None = None
    least_requests: int = Field(default=100, ge=1, le=10**9)


class NewLimits(LimitsShown):
    """New limits, and why."""

    reason: Reason = ""


class Promotion(BaseModel):
    """Make a version stable; without one, the candidate."""

    model_config = _FORBID

    model: ModelName
    version: Annotated[str, Field(max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]*)?$")] = ""
    reason: Reason = ""


class Rollback(BaseModel):
    """Go back to the former stable version; with ``away_from``, only if that one is stable still."""

    model_config = _FORBID

    model: ModelName
    away_from: Annotated[str, Field(max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]*)?$")] = ""
    reason: Reason = ""


class NewAlias(BaseModel):
    """Let an alias mean a version; an empty version takes it away."""

    model_config = _FORBID

    alias: str = Field(pattern=ALIAS_PATTERN)
    version: Annotated[str, Field(max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]*)?$")]
    reason: Reason = ""


class ReleaseShown(BaseModel):
    """What the names of a model mean now; empty where there is none. ``former`` were stable before, the last last."""

    model: str
    stable: str
    candidate: str
    candidate_bps: int
    shadow_bps: int
    aliases: dict[str, str]
    former: list[str]


class StatusShown(BaseModel):
    """A version in short."""

    version: str
    state: str
    since: datetime
    reason: str
    retire_at: datetime | None
    instances: list[str]


class RegisteredModel(BaseModel):
    """A registered model with its versions, newest first."""

    release: ReleaseShown
    versions: list[StatusShown]


class Ancestor(BaseModel):
    """A version upstream."""

    model: str
    version: str
    owner_account: str
    digest: str


class RoyaltyShown(BaseModel):
    """The share of a version's earnings that goes to an owner upstream."""

    account: str
    bps: int


class VersionShown(BaseModel):
    """A version: its statement, its standing, and everything upstream, ancestors first."""

    model: str
    version: str
    digest: str
    publisher: str
    signature: str
    owner_account: str
    registered_at: datetime
    capabilities: list[str]
    context_tokens: int
    weights_cid: str
    parents: list[ParentShown]
    data: list[str]
    training_run: str
    licence: str
    input_modalities: list[str]
    output_modalities: list[str]
    scores: list[ScoreShown]
    description: str
    state: str
    since: datetime
    reason: str
    retire_at: datetime | None
    limits: LimitsShown
    names: list[str] = Field(description="What it is called besides: stable, candidate, aliases.")
    lineage: list[Ancestor]
    royalties: list[RoyaltyShown]
    instances: list[str]


class ChangeShown(BaseModel):
    """A line of a model's history."""

    id: int
    model: str
    version: str
    action: str
    by: str
    at: datetime
    reason: str
    before: dict[str, Any]
    after: dict[str, Any]


class OfferShown(BaseModel):
    """An instance: prices in micro-FTNS per million tokens, and how it does now, null where nothing was seen."""

    instance: str
    input_price_micro: int
    output_price_micro: int
    cached_input_price_micro: int | None
    context_tokens: int
    max_output_tokens: int
    licence: str
    region: str
    resting: bool
    availability: float | None
    first_token_ms: float | None
    tokens_per_s: float | None


class SideShown(BaseModel):
    """One side of a comparison; of what is not registered only the instances are known."""

    name: str
    model: str
    version: str
    state: str
    licence: str
    context_tokens: int | None
    capabilities: list[str]
    instances: list[OfferShown]


class ScorePair(BaseModel):
    """One metric of both, in millionths; null where one was not evaluated by it."""

    evaluation: str
    metric: str
    left_ppm: int | None
    right_ppm: int | None


class Comparison(BaseModel):
    """Two versions, models or instances beside each other."""

    left: SideShown
    right: SideShown
    scores: list[ScorePair]


def shown_release(release: Release) -> ReleaseShown:
    """A release."""
    return ReleaseShown(**msgspec.to_builtins(release) | {"former": list(release.former)})


def shown_model(catalogue: Catalogue, release: Release) -> RegisteredModel:
    """A model with its versions."""
    labels = [label for model, label in catalogue.statuses if model == release.model]
    labels.sort(key=lambda label: catalogue.versions[release.model, label].registered_at, reverse=True)
    return RegisteredModel(
        release=shown_release(release),
        versions=[_status(catalogue, release.model, label) for label in labels],
    )


def shown_version(catalogue: Catalogue, registered: Registered) -> VersionShown:
    """A version with all that is known of it."""
    version, ref = registered.version, registered.version.ref
    status, release = catalogue.statuses[ref], catalogue.releases[version.model]
    makers = {each: maker(found) for each, found in catalogue.versions.items()}
    upstream = ancestors_first(ref, makers)[:-1]
    return VersionShown(
        **msgspec.to_builtins(version)
        | {"parents": [ParentShown(**msgspec.to_builtins(parent)) for parent in version.parents]}
        | {"scores": [ScoreShown(**msgspec.to_builtins(score)) for score in version.scores]},
        digest=registered.digest,
        signature=registered.signature,
        owner_account=registered.owner_account,
        registered_at=registered.registered_at,
        state=status.state,
        since=status.since,
        reason=status.reason,
        retire_at=status.retire_at,
        limits=LimitsShown(**msgspec.to_builtins(status.limits)),
        names=_names(release, version.version),
        lineage=[_ancestor(catalogue.versions[each]) for each in upstream],
        royalties=[RoyaltyShown(account=each.account, bps=each.bps) for each in lineage_shares(ref, makers)],
        instances=_instances(catalogue.serving(*ref)),
    )


def shown_change(change: Change) -> ChangeShown:
    """A line of history."""
    return ChangeShown(**{name: getattr(change, name) for name in Change.__slots__})


def limits_of(new: NewLimits) -> Limits:
    """The limits as the registry keeps them."""
    return Limits(**new.model_dump(exclude={"reason"}))


def _status(catalogue: Catalogue, model: str, label: str) -> StatusShown:
    status = catalogue.statuses[model, label]
    return StatusShown(
        version=label,
        state=status.state,
        since=status.since,
        reason=status.reason,
        retire_at=status.retire_at,
        instances=_instances(catalogue.serving(model, label)),
    )


def _names(release: Release, label: str) -> list[str]:
    meanings = {"stable": release.stable, "candidate": release.candidate, **release.aliases}
    return [name for name, meant in meanings.items() if meant == label]


def _instances(models: Iterable[Model]) -> list[str]:
    return sorted(model.name for model in models)


def _ancestor(registered: Registered) -> Ancestor:
    model, version = registered.version.ref
    return Ancestor(model=model, version=version, owner_account=registered.owner_account, digest=registered.digest)
