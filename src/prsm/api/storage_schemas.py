"""What the storage routes take and show."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from prsm.data_layer import enhanced_ipfs
from prsm.data_layer.network.endpoints import EndpointView
from prsm.data_layer.provenance.signed_statement import ContentKind, Relation
from prsm.data_layer.provenance.statement_store import Signed
from prsm.data_layer.storage_watch import endpoint_state
from prsm.data_layer.store.catalog import StoredObject
from prsm.data_layer.store.uploads import Upload

MAX_UNPINNED = 1_000
CidText = Annotated[str, Field(max_length=300, pattern=r"^[a-zA-Z0-9]+$", description="A content identifier.")]
ProfileName = Literal["", "unixfs-v1-2025", "kubo-v1"]


class Added(BaseModel):
    """An object that was added and is kept for the caller."""

    cid: str
    kind: str
    profile: str
    size_bytes: int
    fresh: bool = Field(description="It was not here before.")
    newly_kept: bool = Field(description="The caller did not keep it before.")


class NewEntry(BaseModel):
    """A file or folder that is here, and where it is to stand in a new directory."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(min_length=1, max_length=4096, description="Steps apart by /, below the new directory.")
    cid: CidText


class NewDirectory(BaseModel):
    """A directory made of objects that are here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    entries: list[NewEntry] = Field(max_length=enhanced_ipfs.MAX_DIRECTORY_PARTS)
    profile: ProfileName = ""


class Unpinning(BaseModel):
    """Objects to keep no more."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cids: list[CidText] = Field(max_length=MAX_UNPINNED)


class Unpinned(BaseModel):
    """How many of them the caller had pinned."""

    unpinned: int


class ObjectShown(BaseModel):
    """An object in this node's storage."""

    cid: str
    kind: str
    profile: str
    size_bytes: int
    stored_bytes: int
    state: str = Field(description="whole, damaged or missing.")
    pinned: bool = Field(description="Whether anybody keeps it by itself, not only what it stands in.")
    created_at: datetime
    verified_at: datetime | None


class EntryShown(BaseModel):
    """One entry of a directory; ``kind`` and size are known once it is here."""

    name: str
    cid: str
    kind: str | None
    size_bytes: int | None


class UploadShown(BaseModel):
    """An upload to one of the node's own IPFS nodes."""

    cid: str
    node: str
    state: str
    attempts: int
    last_error: str


class DamagedObject(BaseModel):
    """An object that is not what its CID says, or not here; ``blocks`` names what of it is damaged."""

    cid: str
    blocks: list[str]


class VerifyReport(BaseModel):
    """What reading an object, and all that stands in it, whole has shown."""

    cid: str
    whole: bool
    objects: int
    blocks: int
    size_bytes: int
    damaged: list[DamagedObject]


class RepairReport(BaseModel):
    """The objects that were damaged or not here, and are whole now."""

    cid: str
    repaired: list[str]
    fetched_bytes: int


class CollectedShown(BaseModel):
    """What was deleted; ``busy`` are or were being read, and stayed; with ``elsewhere`` another worker collects now."""

    objects: int
    freed_bytes: int
    busy: int
    elsewhere: bool


class EndpointShown(BaseModel):
    """A place that blocks come from or go to."""

    name: str
    state: str = Field(description="live, failing, resting or banned.")
    p50_s: float | None
    fetched_bytes: int
    failed: int
    last_fault: str


class StorageStatus(BaseModel):
    """The state of storage."""

    objects: int
    stored_bytes: int
    limit_bytes: int
    free_bytes: int
    pinned: int
    leased: int
    damaged: int
    missing: int
    uploads_waiting: int
    uploads_failed: int
    transfers: int
    offline: bool = Field(description="No endpoint is configured, or none answers.")
    offline_reason: str
    endpoints: list[EndpointShown]


class Source(BaseModel):
    """What an object was made from, and how."""

    model_config = ConfigDict(extra="forbid", strict=True)

    relation: Annotated[Relation, Field(strict=False)]
    cid: CidText


class NewProvenance(BaseModel):
    """A statement about an object, signed by the node in the name of the caller's account."""

    model_config = ConfigDict(extra="forbid", strict=True)

    licence: str = Field(min_length=1, max_length=256, description="An SPDX expression, as Apache-2.0.")
    title: str = Field(min_length=1, max_length=200)
    media_type: str = Field(default="application/octet-stream", max_length=130)
    kind: Annotated[ContentKind, Field(strict=False)] = ContentKind.OTHER
    derived_from: list[Source] = Field(default=[], max_length=64)


class ProvenanceShown(BaseModel):
    """A statement whose signature was checked; ``envelope`` is what was signed, byte for byte."""

    cid: str
    kind: ContentKind
    publisher: str
    public_key: str
    published_at: datetime
    licence: str
    title: str
    media_type: str
    size_bytes: int
    derived_from: list[Source]
    envelope: str


def added(made: enhanced_ipfs.Added) -> Added:
    """What was added."""
    return Added(
        cid=str(made.cid),
        kind=made.kind,
        profile=made.profile,
        size_bytes=made.size_bytes,
        fresh=made.fresh,
        newly_kept=made.newly_kept,
    )


def shown_object(found: StoredObject) -> ObjectShown:
    """A row of the catalog."""
    return ObjectShown(
        cid=str(found.cid),
        kind=found.kind,
        profile=found.profile,
        size_bytes=found.size_bytes,
        stored_bytes=found.stored_bytes,
        state=found.state,
        pinned=found.pinned,
        created_at=found.created_at,
        verified_at=found.verified_at,
    )


def shown_upload(upload: Upload) -> UploadShown:
    """A row of the queue."""
    return UploadShown(
        cid=str(upload.cid),
        node=upload.node,
        state=upload.state,
        attempts=upload.attempts,
        last_error=upload.last_error,
    )


def shown_endpoint(view: EndpointView) -> EndpointShown:
    """How an endpoint does."""
    return EndpointShown(
        name=view.name,
        state=endpoint_state(view),
        p50_s=view.p50_s,
        fetched_bytes=view.fetched_bytes,
        failed=view.failed,
        last_fault=view.ban_reason or view.last_fault,
    )


def shown_provenance(signed: Signed) -> ProvenanceShown:
    """A statement and what was signed."""
    said = signed.statement
    return ProvenanceShown(
        cid=said.cid,
        kind=said.kind,
        publisher=said.publisher,
        public_key=said.public_key,
        published_at=said.published_at,
        licence=said.licence,
        title=said.title,
        media_type=said.media_type,
        size_bytes=said.size_bytes,
        derived_from=[Source(relation=origin.relation, cid=origin.cid) for origin in said.derived_from],
        envelope=signed.envelope.decode(),
    )
