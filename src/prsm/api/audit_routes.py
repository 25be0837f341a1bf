"""The audit log over HTTP: checkpoints, tiles, entries, proofs, and its verification.

Checkpoints and consistency proofs are public, for whoever wants to be a witness; they say nothing of what is in the
log. Entries, and hashes from which short ones could be guessed, need the scope ``audit``, which no other right brings
along and which brings no other: who audits the admins need not be one.
"""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.user_routes import Limit
from prsm.core.identity import AUDIT, ApiKey
from prsm.core.merkle.notes import MAX_NOTE_BYTES
from prsm.node import Node

_BYTES = {"schema": {"type": "string", "format": "binary"}}
Size = Annotated[int, Query(ge=0, le=2**53)]
Position = Annotated[int, Path(ge=0, le=2**53)]


class ConsistencyShown(BaseModel):
    """That the log of ``second`` entries begins with that of ``first`` (RFC 9162); hashes as base64."""

    first: int
    second: int
    proof: list[str]


class EntryShown(BaseModel):
    """An entry of the log: who did what at which request; ``rows`` are what was changed."""

    position: int
    entry: dict[str, Any]


class ProofShown(BaseModel):
    """That an entry is in the log: its bytes, the signed checkpoint, and the path between them; bytes as base64."""

    position: int
    body: str
    checkpoint: str
    size: int
    proof: list[str]


class CheckpointShown(BaseModel):
    """A signed checkpoint of the log's past."""

    size: int
    note: str


class Verification(BaseModel):
    """What the log is to be verified against: checkpoints that were kept elsewhere, and who must have cosigned them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    witnessed: list[Annotated[str, Field(max_length=MAX_NOTE_BYTES)]] = Field(default=[], max_length=100)
    witness_key: str = Field(default="", max_length=400)


class VerdictShown(BaseModel):
    """What the replay found; ``findings`` are at most the first 100 of ``finding_count``."""

    ok: bool
    entries: int
    checkpoints: int
    witnessed: int
    ledger_positions: int
    tables: int
    pending: int
    finding_count: int
    findings: list[str]


def audit_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/audit", tags=["audit"])
    _public_routes(router, node)
    _entry_routes(router, node, door)
    _whole_routes(router, node, door)
    return router


def _public_routes(router: APIRouter, node: Node) -> None:
    book = node.audit.book

    @router.get("/checkpoint", summary="The newest signed checkpoint (C2SP).", response_class=PlainTextResponse)
    async def checkpoint() -> Response:
        _, note = await book.checkpoint()
        return PlainTextResponse(note, headers={"cache-control": "no-cache"})

    @router.get("/key", summary="The key that signs checkpoints, as NAME+ID+KEY.", response_class=PlainTextResponse)
    async def key() -> Response:
        return PlainTextResponse(f"{node.audit.key}\n")

    @router.get("/consistency", summary="That the log has only grown between two sizes.")
    async def consistency(first: Size, second: Size) -> ConsistencyShown:
        return ConsistencyShown(
            first=first, second=second, proof=list(map(_base64, await book.consistency(first, second)))
        )


def _entry_routes(router: APIRouter, node: Node, door: Door) -> None:
    book, audit = node.audit.book, door.of(AUDIT)

    @router.get("/entries", summary="Entries from a position on.", response_model=list[EntryShown])
    async def entries(_caller: Annotated[ApiKey, audit], first: Size = 0, limit: Limit = 100) -> Response:
        found = await book.entries(first, limit)
        shown = (b'{"position":%d,"entry":%b}' % (position, body) for position, body in found)
        return Response(b"[" + b",".join(shown) + b"]", media_type="application/json")

    @router.get("/entries/{position}", summary="One entry, byte for byte as it was hashed.")
    async def entry(position: Position, _caller: Annotated[ApiKey, audit]) -> Response:
        return Response(await book.entry(position), media_type="application/json")

    @router.get("/entries/{position}/proof", summary="That an entry is under a signed checkpoint.")
    async def proof(position: Position, _caller: Annotated[ApiKey, audit], size: Size | None = None) -> ProofShown:
        proven = await book.prove(position, size)
        return ProofShown(
            position=position,
            body=_base64(proven.body),
            checkpoint=proven.checkpoint,
            size=proven.size,
            proof=list(map(_base64, proven.proof)),
        )


def _whole_routes(router: APIRouter, node: Node, door: Door) -> None:
    book, audit = node.audit.book, door.of(AUDIT)

    @router.get("/checkpoints", summary="All checkpoints after a size, the smallest first.")
    async def checkpoints(
        _caller: Annotated[ApiKey, audit], after: Size = 0, limit: Limit = 1000
    ) -> list[CheckpointShown]:
        return [CheckpointShown(size=size, note=note) for size, note in await book.checkpoints(after, limit)]

    @router.get(
        "/tile/{path:path}",
        summary="A tile of hashes, or a bundle of entries (C2SP tlog-tiles).",
        responses={
            "200": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
        },
    )
    async def tile(path: str, _caller: Annotated[ApiKey, audit]) -> Response:
        return Response(await book.resource(path), media_type="application/octet-stream")

    @router.post("/verify", summary="Replay log, ledger and tables against what was signed.")
    async def verify(what: Verification, _caller: Annotated[ApiKey, audit]) -> VerdictShown:
        verdict = await node.audit.verify(what.witnessed, what.witness_key or None)
        shown = {name: getattr(verdict, name) for name in VerdictShown.model_fields if name not in ("ok", "findings")}
        return VerdictShown(ok=verdict.finding_count == 0, findings=list(verdict.findings), **shown)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
