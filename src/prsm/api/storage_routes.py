"""Storage over the node API: what is here, who keeps it, where it came from. Bytes go by ``storage_content.py``.

A caller lists and keeps objects under its own name; an object stays as long as anybody keeps it. Reading one by its CID
is open to every key with the scope: content has no owner, and who knows its CID may have it.
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from prsm.api.door import Door
from prsm.api.storage_schemas import (
    Added,
    CollectedShown,
    EntryShown,
    NewDirectory,
    NewProvenance,
    ObjectShown,
    ProvenanceShown,
    RepairReport,
    StorageStatus,
    UploadShown,
    VerifyReport,
    added,
    owner_of,
    shown_endpoint,
    shown_object,
    shown_provenance,
    shown_upload,
)
from prsm.api.user_routes import Limit
from prsm.core.errors import PrsmError
from prsm.core.identity import ADMIN, READ, STORAGE, ApiKey
from prsm.data_layer.cid import Cid
from prsm.data_layer.progress import Progress
from prsm.data_layer.provenance import Origin
from prsm.data_layer.statements import Claims
from prsm.node import Node
from prsm.tokenomics.enrolment import account_of

_NDJSON = "application/x-ndjson"
_MAX_NAMED_LEAVES = 1000


def storage_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/storage", tags=["storage"])
    _object_routes(router, node, door)
    _keeping_routes(router, node, door)
    _care_routes(router, node, door)
    _provenance_routes(router, node, door)
    return router


def _object_routes(router: APIRouter, node: Node, door: Door) -> None:
    storage, read = node.storage, door.of(READ)

    @router.get("/objects", summary="The objects that the caller keeps (all objects, for an admin), by CID.")
    async def list_objects(caller: Annotated[ApiKey, read], limit: Limit = 100, after: str = "") -> list[ObjectShown]:
        start = Cid.parse(after) if after else None
        pin = None if caller.is_admin else owner_of(caller)
        return [shown_object(each) for each in await storage.catalog.list_objects(after=start, limit=limit, pin=pin)]

    @router.get("/objects/{cid}", summary="One object.")
    async def get_object(cid: str, _caller: Annotated[ApiKey, read]) -> ObjectShown:
        return shown_object(await storage.object(Cid.parse(cid)))

    @router.get("/objects/{cid}/entries", summary="The entries of a directory.")
    async def entries(cid: str, _caller: Annotated[ApiKey, read]) -> list[EntryShown]:
        return [
            EntryShown(
                name=entry.name,
                cid=str(entry.cid),
                kind=entry.stored.kind if entry.stored else None,
                size_bytes=entry.stored.size_bytes if entry.stored else None,
            )
            for entry in await storage.entries(Cid.parse(cid))
        ]

    @router.post("/directories", status_code=201, summary="A directory of objects that are here.")
    async def add_directory(new: NewDirectory, caller: Annotated[ApiKey, door.of(STORAGE)]) -> Added:
        entries = [(entry.path, Cid.parse(entry.cid)) for entry in new.entries]
        return added(await storage.add_directory(entries, owner_of(caller), new.profile))


def _keeping_routes(router: APIRouter, node: Node, door: Door) -> None:
    storage, keeper = node.storage, door.of(STORAGE)

    @router.post(
        "/objects/{cid}/fetch",
        summary="Have the node fetch an object; says how far it is, one JSON a line, the object itself last.",
        response_class=StreamingResponse,
        responses={"200": {"content": {_NDJSON: {}}}},
    )
    async def fetch(cid: str, _caller: Annotated[ApiKey, keeper]) -> Response:
        wanted = Cid.parse(cid)
        updates = storage.fetch_telling(wanted)
        # What is refused at once is refused with a status.
        first = await anext(updates, None)
        return StreamingResponse(_told(node, wanted, first, updates), media_type=_NDJSON)

    @router.put("/objects/{cid}/pin", status_code=204, summary="Keep an object that is here.")
    async def pin(cid: str, caller: Annotated[ApiKey, keeper]) -> None:
        kept = await storage.object(Cid.parse(cid))
        if not caller.is_admin:
            await storage.check_quota(owner_of(caller), kept.dag_bytes)
        await storage.pin(kept.cid, owner_of(caller))

    @router.delete("/objects/{cid}/pin", status_code=204, summary="Keep an object no more.")
    async def unpin(cid: str, caller: Annotated[ApiKey, keeper]) -> None:
        await storage.unpin(Cid.parse(cid), owner_of(caller))

    @router.post("/objects/{cid}/publish", summary="Upload an object to the node's own IPFS nodes, when they answer.")
    async def publish(cid: str, _caller: Annotated[ApiKey, keeper]) -> list[UploadShown]:
        return [shown_upload(each) for each in await storage.publish(Cid.parse(cid))]


def _care_routes(router: APIRouter, node: Node, door: Door) -> None:
    storage, admin = node.storage, door.of(ADMIN)

    @router.get("/status", summary="What is stored, what moves, and how each endpoint does.")
    async def status(_caller: Annotated[ApiKey, door.of(READ)]) -> StorageStatus:
        usage = await storage.catalog.usage()
        endpoints = [shown_endpoint(view) for view in storage.endpoints.snapshot()]
        return StorageStatus(
            objects=usage.objects,
            stored_bytes=usage.stored_bytes,
            limit_bytes=storage.policy.limit_bytes,
            free_bytes=storage.files.free_bytes(),
            pinned=usage.pinned,
            leased=usage.leased,
            damaged=usage.damaged,
            missing=usage.missing,
            uploads_waiting=usage.uploads_waiting,
            uploads_failed=usage.uploads_failed,
            transfers=len(storage.transfers) + storage.uploads.running,
            offline=not any(each.state == "live" for each in endpoints),
            endpoints=endpoints,
        )

    @router.post("/objects/{cid}/verify", summary="Read an object whole and check every block.")
    async def verify(cid: str, _caller: Annotated[ApiKey, door.of(STORAGE)]) -> VerifyReport:
        found = await storage.verify(Cid.parse(cid))
        damaged = [f"{leaf.cid} (byte {leaf.offset})" for leaf in found.leaves[:_MAX_NAMED_LEAVES]]
        blocks = len(found.index.blocks) + sum(1 for _ in found.index.leaves()) if found.index else 0
        return VerifyReport(
            cid=cid,
            whole=found.whole,
            blocks=blocks,
            size_bytes=found.read_bytes,
            damaged=["its index of blocks"] * found.outboard_damaged + damaged,
        )

    @router.post("/objects/{cid}/repair", summary="Fetch the damaged blocks of an object anew.")
    async def repair(cid: str, _caller: Annotated[ApiKey, admin]) -> RepairReport:
        done = await storage.repair(Cid.parse(cid))
        return RepairReport(cid=cid, fetched_bytes=done.moved_bytes)

    @router.post("/gc", summary="Delete every object that nobody keeps.")
    async def collect(_caller: Annotated[ApiKey, admin]) -> CollectedShown:
        done = await storage.collect()
        return CollectedShown(objects=done.objects, freed_bytes=done.freed_bytes, busy=done.busy)


def _provenance_routes(router: APIRouter, node: Node, door: Door) -> None:
    @router.get("/objects/{cid}/provenance", summary="Who published an object, under which licence, made from what.")
    async def statements(cid: str, _caller: Annotated[ApiKey, door.of(READ)]) -> list[ProvenanceShown]:
        return [shown_provenance(each) for each in await node.statements.about(Cid.parse(cid))]

    @router.post("/objects/{cid}/provenance", status_code=201, summary="State it, signed by this node.")
    async def state(cid: str, new: NewProvenance, caller: Annotated[ApiKey, door.of(STORAGE)]) -> ProvenanceShown:
        about = await node.storage.object(Cid.parse(cid))
        origins = tuple(Origin(str(Cid.parse(source.cid)), source.relation) for source in new.derived_from)
        claims = Claims(new.kind, new.licence, new.title, new.media_type, origins)
        publisher = account_of(caller.principal_id)
        return shown_provenance(await node.statements.state(about.cid, about.size_bytes, publisher, claims))


async def _told(
    node: Node, cid: Cid, first: Progress | None, updates: AsyncGenerator[Progress]
) -> AsyncGenerator[bytes]:
    """The lines of a fetch; one that fails in the midst ends with the error as a line."""
    try:
        if first is not None:
            yield _line(_progress(first))
        async for progress in updates:
            yield _line(_progress(progress))
        yield shown_object(await node.storage.object(cid)).model_dump_json().encode() + b"\n"
    except PrsmError as error:
        yield _line({"error": {"message": str(error), "code": error.code}})
    finally:
        await updates.aclose()


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "moved_bytes": progress.moved_bytes,
        "files_done": progress.files_done,
        "files": progress.files,
        "rate_bytes_s": int(progress.rate_bytes_s),
    }


def _line(data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(data) + b"\n"
