"""Objects over HTTP: adding a file as it comes, and reading one or a part of it, from here or while it is fetched.

Bytes are never gathered: what comes goes to the disk by way of a thread, what goes out is read piece by piece. Who may
only read gets what is here; a key that may have objects fetched is served by the same request.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast
from urllib.parse import parse_qs

from prsm.api.body_pipe import BodyPipe
from prsm.api.bounded_work import Turns
from prsm.api.byte_range import Span
from prsm.api.door import Door
from prsm.api.http_exchange import Headers
from prsm.api.incoming import JSON, Incoming
from prsm.api.storage_gateway import StorageGateway
from prsm.api.storage_keeping import is_limited, owner_of, room_bytes, too_large
from prsm.api.storage_schemas import added
from prsm.api.streamed import (
    Serve,
    attachment,
    guarded,
    not_cached,
    only_if_cached,
    part_of,
    send,
    unchanged,
)
from prsm.api.trustless import PREFIX
from prsm.core.errors import InvalidRequest
from prsm.core.identity import READ, STORAGE
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.transfer.reading import Reader
from prsm.node import Node

CONTENT = "/node/v1/storage/content"
STREAMED_ROUTES = {
    f"POST {CONTENT}": STORAGE,
    f"GET {CONTENT}/{{cid}}": READ,
    f"GET {PREFIX}{{cid}}": None,
}
"""What is served here, with the scope it needs; FastAPI never sees it."""

# Each takes a thread of the storage for as long as its sender likes; the rest of them is for everybody else.
_MAX_ADDING = 12
_MAX_ADDING_OF_ONE = 4


class StorageContent:
    """The streamed routes over one node."""

    def __init__(self, node: Node, door: Door) -> None:
        self._node = node
        self._door = door
        self._gateway = StorageGateway(node)
        self._adding = Turns(_MAX_ADDING, _MAX_ADDING_OF_ONE, "objects are being added")

    def handler(self, path: str) -> Serve | None:
        """Who serves a path, if it is one of these."""
        if path.startswith(PREFIX):
            return guarded(self._gateway.serve)
        if path == CONTENT:
            return guarded(self._add)
        return guarded(self._read) if path.startswith(f"{CONTENT}/") else None

    async def _add(self, incoming: Incoming) -> None:
        if incoming.exchange.method != "POST":
            incoming.refuse_method("POST")
            return
        caller = await self._door.admit(incoming.token(), STORAGE, incoming.extra)
        profile = _profile(incoming.exchange.query)
        length = incoming.header("content-length")
        size = int(length or 0)
        storage, owner = self._node.storage, owner_of(caller)
        limit = await room_bytes(storage, caller, size if length else None)
        if size > limit:
            raise too_large(storage, limit)
        with self._adding.one_more(owner):
            async with self._body(incoming, limit) as body:
                made = await storage.add(body.read_into, owner, profile, size, limited=is_limited(caller))
        self._node.metrics.storage_moved("added", made.size_bytes)
        incoming.respond(201, [JSON], added(made).model_dump_json().encode())

    def _body(self, incoming: Incoming, limit_bytes: int) -> BodyPipe:
        return BodyPipe(
            incoming.exchange,
            limit_bytes=limit_bytes,
            too_large=too_large(self._node.storage, limit_bytes),
            idle_s=self._node.settings.body_timeout_s,
        )

    async def _read(self, incoming: Incoming) -> None:
        exchange = incoming.exchange
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method("GET, HEAD")
            return
        caller = await self._door.admit(incoming.token(), READ, incoming.extra)
        try:
            if exchange.method == "GET" and STORAGE in caller.scopes and self._may_fetch(incoming):
                # Who leaves while nothing comes is noticed, and what is fetched for nobody else ends.
                exchange.watch(cast("asyncio.Task[Any]", asyncio.current_task()).cancel)
                await self._read_or_fetch(incoming)
            else:
                await self._read_here(incoming)
        except NotStored as error:
            raise not_cached(error) if only_if_cached(incoming) else error from None
        finally:
            exchange.watch(None)

    def _may_fetch(self, incoming: Incoming) -> bool:
        """Whether there is anybody to ask, and the request leaves it open (``*`` asks whether it is here)."""
        asks_presence = "*" in (incoming.header("if-none-match") or "")
        return bool(self._node.storage.endpoints.names) and not asks_presence and not only_if_cached(incoming)

    async def _read_here(self, incoming: Incoming) -> None:
        root, below = _asked(incoming)
        cid = await self._node.storage.resolve(root, below)
        async with self._node.storage.read(cid) as reader:
            if not _answered_unchanged(incoming, cid, below):
                await self._give(incoming, cid, below, reader)

    async def _read_or_fetch(self, incoming: Incoming) -> None:
        root, below = _asked(incoming)
        cid = await self._node.storage.resolve(root, below, fetch=True)
        if _answered_unchanged(incoming, cid, below):  # its bytes never change, be they here or not
            return
        async with self._node.storage.open_or_fetch(cid) as reader:
            await self._give(incoming, cid, below, reader)

    async def _give(self, incoming: Incoming, cid: Cid, below: str, reader: Reader) -> None:
        headers = _described(cid, below)
        status, span = part_of(incoming, f'"{cid}"', reader.size_bytes, headers)
        await send(incoming, status, headers, span.size_bytes, _pieces(reader, span), self._served)

    def _served(self, size_bytes: int) -> None:
        self._node.metrics.storage_moved("served", size_bytes)


def _asked(incoming: Incoming) -> tuple[Cid, str]:
    first, _, below = incoming.exchange.path.removeprefix(f"{CONTENT}/").partition("/")
    return Cid.parse(first), below


def _profile(query: str) -> str:
    """The one field that the query may have; a name that there is not is refused further in."""
    given = parse_qs(query, keep_blank_values=True)
    for name in given.keys() - {"profile"}:
        raise InvalidRequest(f"There is no field {name[:100]!r} here.", param="query")
    return given.get("profile", [""])[-1]


def _described(cid: Cid, below: str) -> Headers:
    return [
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("etag", f'"{cid}"'),
        ("content-disposition", attachment(below.rstrip("/").rpartition("/")[2] or str(cid))),
        ("x-content-type-options", "nosniff"),
    ]


def _answered_unchanged(incoming: Incoming, cid: Cid, below: str) -> bool:
    if not unchanged(incoming, f'"{cid}"'):
        return False
    incoming.respond(304, _described(cid, below), b"")
    return True


async def _pieces(reader: Reader, span: Span) -> AsyncGenerator[bytes]:
    at = span.start
    while at < span.stop:
        size = min(reader.piece_bytes, span.stop - at)
        piece = await reader.read(at, size, span.stop - at - size)
        yield piece
        at += len(piece)
