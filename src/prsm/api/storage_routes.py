"""Storage over the node API: what is here, who keeps it, where it came from. Bytes go by ``storage_content.py``.

A caller lists and keeps objects under its own name; an object stays as long as anybody keeps it. Reading one by its CID
is open to every key with the scope: content has no owner, and who knows its CID may have it.
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from prsm.api.bounded_work import Turns, while_there
from prsm.api.door import Door
from prsm.api.schemas import Refusal
from prsm.api.storage_keeping import is_limited, owner_of
from prsm.api.storage_schemas import (
    Added,
    CollectedShown,
    DamagedObject,
    EntryShown,
    NewDirectory,
    NewProvenance,
    ObjectShown,
    ProvenanceShown,
    RepairReport,
    StorageStatus,
    Unpinned,
    Unpinning,
    UploadShown,
    VerifyReport,
    added,
    shown_endpoint,
    shown_object,
    shown_provenance,
    shown_upload,
)
from prsm.api.user_routes import Limit
from prsm.api.wire.errors import openai_error_object
from prsm.core.errors import Kind, PrsmError, Unavailable
from prsm.core.identity import ADMIN, READ, STORAGE, ApiKey
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS
from prsm.data_layer.provenance.signed_statement import Origin
from prsm.data_layer.provenance.statement_store import Claims
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.transfer.progress import Progress
from prsm.node import Node
from prsm.tokenomics.enrolment import account_of

_NDJSON = "application/x-ndjson"
_MAX_NAMED_LEAVES = 1000
# Each takes a thread of those that also probe endpoints, open models and verify by themselves.
_MAX_VERIFYING = 2


def storage_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/storage", tags=["storage"])
    _object_routes(router, node, door)
    _keeping_routes(router, node, door)
    _fetch_route(router, node, door)
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

    @router.get("/objects/{cid}/entries", summary="The entries of a directory, by name; page by the last name seen.")
    async def entries(
        cid: str,
        _caller: Annotated[ApiKey, read],
        limit: Limit = 1000,
        after: Annotated[str, Query(max_length=4096)] = "",
    ) -> list[EntryShown]:
        return [
            EntryShown(
                name=entry.name,
                cid=str(entry.cid),
                kind=entry.stored.kind if entry.stored else None,
                size_bytes=entry.stored.size_bytes if entry.stored else None,
            )
            for entry in await storage.entries(Cid.parse(cid), after=after, limit=limit)
        ]

    @router.post("/directories", status_code=201, summary="A directory of objects that are here.")
    async def add_directory(new: NewDirectory, request: Request, caller: Annotated[ApiKey, door.of(STORAGE)]) -> Added:
        entries = [(entry.path, Cid.parse(entry.cid)) for entry in new.entries]
        making = storage.add_directory(entries, owner_of(caller), new.profile, limited=is_limited(caller))
        return added(await while_there(request, making))


def _keeping_routes(router: APIRouter, node: Node, door: Door) -> None:
    storage, keeper = node.storage, door.of(STORAGE)

    @router.put("/objects/{cid}/pin", status_code=204, summary="Keep an object that is here.")
    async def pin(cid: str, caller: Annotated[ApiKey, keeper]) -> None:
        await storage.pin(Cid.parse(cid), owner_of(caller), limited=is_limited(caller))

    @router.delete("/objects/{cid}/pin", status_code=204, summary="Keep an object no more.")
    async def unpin(cid: str, caller: Annotated[ApiKey, keeper]) -> None:
        await storage.unpin(Cid.parse(cid), owner_of(caller))

    @router.post("/unpin", summary="Keep many objects no more; those that the caller did not pin are passed over.")
    async def unpin_all(these: Unpinning, caller: Annotated[ApiKey, keeper]) -> Unpinned:
        cids = [Cid.parse(cid) for cid in these.cids]
        return Unpinned(unpinned=await storage.unpin_all(cids, owner_of(caller)))

    @router.post("/objects/{cid}/publish", summary="Upload an object to the node's own IPFS nodes, when they answer.")
    async def publish(cid: str, caller: Annotated[ApiKey, keeper]) -> list[UploadShown]:
        try:
            queued = await storage.publish(Cid.parse(cid), owner_of(caller), limited=is_limited(caller))
            return [shown_upload(each) for each in queued]
        except Unavailable as error:
            if error.code != "no_own_node":
                raise
            # How the node is set up, which waiting does not change.
            raise PrsmError(error.message, kind=Kind.CONFLICT, code=error.code, remedy=error.remedy) from error


def _fetch_route(router: APIRouter, node: Node, door: Door) -> None:
    @router.post(
        "/objects/{cid}/fetch",
        summary="Have the node fetch an object; says how far it is, one JSON a line, the object itself last.",
        response_class=StreamingResponse,
        responses={"200": {"content": {_NDJSON: {}}}, "502": {"model": Refusal, "description": "No endpoint gave it."}},
    )
    async def fetch(cid: str, _caller: Annotated[ApiKey, door.of(STORAGE)]) -> Response:
        wanted = Cid.parse(cid)
        updates = node.storage.fetch_telling(wanted)
        # What fails within the first moments is refused with a status; the second update comes after a quarter second.
        first = [progress async for progress in _at_most(2, updates)]
        return StreamingResponse(_told(node, wanted, first, updates), media_type=_NDJSON)


def _care_routes(router: APIRouter, node: Node, door: Door) -> None:
    storage, admin = node.storage, door.of(ADMIN)
    verifying = Turns(_MAX_VERIFYING, 1, "objects are being verified")

    @router.get("/status", summary="What is stored, what moves, and how each endpoint does.")
    async def status(_caller: Annotated[ApiKey, door.of(READ)]) -> StorageStatus:
        usage = await storage.catalog.usage()
        endpoints = [shown_endpoint(view) for view in storage.endpoints.snapshot()]
        offline = node.storage_watch.offline()
        return StorageStatus(
            objects=usage.objects,
            stored_bytes=usage.stored_bytes,
            limit_bytes=storage.policy.limit_bytes,
            free_bytes=await storage.free_bytes(),
            pinned=usage.pinned,
            leased=usage.leased,
            damaged=usage.damaged,
            missing=usage.missing,
            uploads_waiting=usage.uploads_waiting,
            uploads_failed=usage.uploads_failed,
            transfers=len(storage.transfers) + storage.uploads.running,
            offline=bool(offline),
            offline_reason=offline,
            endpoints=endpoints,
        )

    @router.post("/objects/{cid}/verify", summary="Read an object whole and check every block.")
    async def verify(cid: str, request: Request, caller: Annotated[ApiKey, door.of(STORAGE)]) -> VerifyReport:
        root = Cid.parse(cid)
        with verifying.one_more(owner_of(caller)):
            return await while_there(request, verified(storage, root))

    @router.post("/objects/{cid}/repair", summary="Verify an object; fetch anew what is damaged.")
    async def repair(cid: str, _caller: Annotated[ApiKey, admin]) -> RepairReport:
        return await repaired(storage, Cid.parse(cid))

    @router.post("/gc", summary="Delete every object that nobody keeps.")
    async def collect(_caller: Annotated[ApiKey, admin]) -> CollectedShown:
        done = await storage.collect()
        return CollectedShown(
            objects=done.objects, freed_bytes=done.freed_bytes, busy=done.busy, elsewhere=done.elsewhere
        )


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


async def verified(storage: EnhancedIPFS, root: Cid) -> VerifyReport:
    """Verify an object and, where it is a directory, all that stands in it. Raises NotStored for the root alone."""
    report = VerifyReport(cid=str(root), whole=True, objects=0, blocks=0, size_bytes=0, damaged=[])
    seen, left = {root}, [root]
    while left:
        cid = left.pop()
        try:
            found = await storage.verify(cid)
        except NotStored:
            if cid == root:
                raise
            report.damaged.append(DamagedObject(cid=str(cid), blocks=["all of it: it is not here"]))
            continue
        report.objects += 1
        report.size_bytes += found.read_bytes
        if found.index:
            report.blocks += len(found.index.blocks) + sum(1 for _ in found.index.leaves())
            below = {child for _, child in found.index.children()} - seen
            seen |= below
            left += below
        if not found.whole:
            bad = [f"{leaf.cid} (byte {leaf.offset})" for leaf in found.leaves[:_MAX_NAMED_LEAVES]]
            report.damaged.append(DamagedObject(cid=str(cid), blocks=bad or ["its index of blocks"]))
    report.whole = not report.damaged
    return report


async def repaired(storage: EnhancedIPFS, root: Cid) -> RepairReport:
    """Verify as ``verified`` does, then mend what is damaged and fetch what is missing. Raises StorageFault."""
    found = await verified(storage, root)
    report = RepairReport(cid=found.cid, repaired=[], fetched_bytes=0)
    for each in found.damaged:
        cid = Cid.parse(each.cid)
        known = await storage.catalog.get(cid)
        if known is None or known.state is State.MISSING:
            report.fetched_bytes += (await storage.fetch(cid)).size_bytes
        else:
            report.fetched_bytes += (await storage.repair(cid)).moved_bytes
        report.repaired.append(each.cid)
    return report


async def _at_most(count: int, updates: AsyncGenerator[Progress]) -> AsyncGenerator[Progress]:
    for _ in range(count):
        update = await anext(updates, None)
        if update is None:
            return
        yield update


async def _told(
    node: Node, cid: Cid, first: list[Progress], updates: AsyncGenerator[Progress]
) -> AsyncGenerator[bytes]:
    """The lines of a fetch; one that fails in the midst ends with the error as a line."""
    try:
        for progress in first:
            yield _line(_progress(progress))
        async for progress in updates:
            yield _line(_progress(progress))
        yield shown_object(await node.storage.object(cid)).model_dump_json().encode() + b"\n"
    except PrsmError as error:
        yield _line({"error": openai_error_object(error)})
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
