"""Objects over HTTP: adding a file as it comes, reading one or a part of it, and the read-only trustless gateway.

Bytes are never gathered: what comes goes to the disk by way of a thread, what goes out is read piece by piece. The
gateway needs no key, gives only what is here and only what its reader can verify (IPFS HTTP gateway specification).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs, quote

from prsm.api.body_pipe import BodyPipe
from prsm.api.byte_range import Span, Unsatisfiable, byte_range
from prsm.api.door import Door
from prsm.api.incoming import JSON, Headers, Incoming
from prsm.api.storage_schemas import added, owner_of
from prsm.api.trustless import CAR_TYPE, IMMUTABLE, PREFIX, RAW_TYPE, CarRequest, RawRequest, parse
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.identity import READ, STORAGE
from prsm.data_layer.cid import Cid
from prsm.data_layer.object_files import StoredFile
from prsm.node import Node

CONTENT = "/node/v1/storage/content"
STREAMED_ROUTES = {
    f"POST {CONTENT}": STORAGE,
    f"GET {CONTENT}/{{cid}}": READ,
    f"GET {PREFIX}{{cid}}": None,
}
"""What is served here, with the scope it needs; FastAPI never sees it."""

Serve = Callable[[Incoming], Coroutine[Any, Any, None]]

_PIECE_BYTES = 1024 * 1024
_MAX_GATEWAY_READERS = 64


class StorageContent:
    """The streamed routes over one node."""

    def __init__(self, node: Node, door: Door) -> None:
        self._node = node
        self._door = door
        self._gateway_readers = 0

    def handler(self, path: str) -> Serve | None:
        """Who serves a path, if it is one of these."""
        if path.startswith(PREFIX):
            return self._guarded(self._gateway)
        if path == CONTENT:
            return self._guarded(self._add)
        return self._guarded(self._read) if path.startswith(f"{CONTENT}/") else None

    def _guarded(self, serve: Serve) -> Serve:
        async def guarded(incoming: Incoming) -> None:
            try:
                await serve(incoming)
            except PrsmError as error:
                if incoming.exchange.started:
                    raise  # the connection is cut: the reader sees that it has not all
                _refuse(incoming, error)

        return guarded

    async def _add(self, incoming: Incoming) -> None:
        if incoming.exchange.method != "POST":
            incoming.refuse_method("POST")
            return
        caller = await self._door.admit(incoming.token(), STORAGE, incoming.extra)
        asked = _fields(incoming.exchange.query, {"profile"})
        size = int(incoming.header("content-length") or 0)
        storage, settings, owner = self._node.storage, self._node.settings, owner_of(caller)
        limit = settings.storage_object_limit_bytes
        if not caller.is_admin:
            await storage.check_quota(owner, size)
            limit = min(limit, await storage.quota_left(owner))
        pipe = BodyPipe(incoming.exchange, limit_bytes=limit, idle_s=settings.body_timeout_s)
        pumping = asyncio.create_task(pipe.pump())
        try:
            stored = await storage.add(pipe.read_into, owner, asked.get("profile", ""), size)
        finally:
            pumping.cancel()
            await asyncio.gather(pumping, return_exceptions=True)
        incoming.respond(201, [JSON], added(stored).model_dump_json().encode())

    async def _read(self, incoming: Incoming) -> None:
        exchange = incoming.exchange
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method("GET")
            return
        await self._door.admit(incoming.token(), READ, incoming.extra)
        first, _, below = exchange.path.removeprefix(f"{CONTENT}/").partition("/")
        cid = await self._node.storage.resolve(Cid.parse(first), below)
        file = await self._node.storage.open(cid)
        with file:
            headers: Headers = [
                ("content-type", "application/octet-stream"),
                ("accept-ranges", "bytes"),
                ("etag", f'"{cid}"'),
                ("content-disposition", _attachment(below.rstrip("/").rpartition("/")[2] or str(cid))),
                ("x-content-type-options", "nosniff"),
            ]
            if _unchanged(incoming, f'"{cid}"'):
                incoming.respond(304, headers, b"")
                return
            span = _span(incoming, f'"{cid}"', file.size_bytes)
            if span is None:
                span, status = Span(0, file.size_bytes), 200
            else:
                headers.append(("content-range", span.content_range(file.size_bytes)))
                status = 206
            await _send(incoming, status, headers, span.size_bytes, _pieces(file, span))

    async def _gateway(self, incoming: Incoming) -> None:
        exchange = incoming.exchange
        if not self._node.settings.storage_gateway_enabled:
            raise PrsmError("This node's gateway is switched off.", kind=Kind.NOT_FOUND, code="not_found")
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method("GET")
            return
        asked = parse(exchange.path, exchange.query, incoming.header("accept"))
        if self._gateway_readers >= _MAX_GATEWAY_READERS:
            raise PrsmError(
                f"The gateway serves {_MAX_GATEWAY_READERS} readers already.",
                kind=Kind.UNAVAILABLE,
                code="overloaded",
                retry_after_s=1,
            )
        self._gateway_readers += 1
        try:
            if isinstance(asked, RawRequest):
                await self._raw(incoming, asked)
            else:
                await self._car(incoming, asked)
        finally:
            self._gateway_readers -= 1

    async def _raw(self, incoming: Incoming, asked: RawRequest) -> None:
        etag = f'"{asked.cid}.raw"'
        headers: Headers = [
            ("content-type", RAW_TYPE),
            ("accept-ranges", "bytes"),
            ("content-disposition", _attachment(f"{asked.cid}.bin")),
            *_described(incoming.exchange.path, etag),
        ]
        if _unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        block = await self._node.storage.block(asked.cid)
        span = _span(incoming, etag, len(block))
        if span is None:
            incoming.respond(200, headers, block)
        else:
            headers.append(("content-range", span.content_range(len(block))))
            incoming.respond(206, headers, block[span.start : span.stop])

    async def _car(self, incoming: Incoming, asked: CarRequest) -> None:
        etag = f'W/"{asked.cid}.car.{asked.scope}.{quote(incoming.exchange.query, safe="")[:200]}"'
        headers: Headers = [
            ("content-type", f"{CAR_TYPE}; version=1; order=dfs; dups=n"),
            ("content-disposition", _attachment(f"{asked.cid}.car")),
            *_described(incoming.exchange.path, etag),
        ]
        if _unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        pieces = await self._node.storage.car(asked.cid, asked.path, asked.scope, asked.entity)
        await _send(incoming, 200, headers, None, pieces)


def _refuse(incoming: Incoming, error: PrsmError) -> None:
    if error.code == "not_acceptable":
        body = str(error).encode()
        incoming.respond(406, [("content-type", "text/plain; charset=utf-8")], body)
    elif error.code == "range_not_satisfiable":
        incoming.respond(416, [("content-range", f"bytes */{error.param}")], b"")
    else:
        incoming.refuse(error)


def _fields(query: str, known: set[str]) -> dict[str, str]:
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    for name in given.keys() - known:
        raise InvalidRequest(f"There is no field {name[:100]!r} here.", param=name[:100])
    return given


def _described(path: str, etag: str) -> Headers:
    return [
        ("etag", etag),
        ("cache-control", IMMUTABLE),
        ("x-ipfs-path", quote(path)),
        ("x-ipfs-roots", path.removeprefix(PREFIX).split("/", 1)[0]),
        ("x-content-type-options", "nosniff"),
    ]


def _unchanged(incoming: Incoming, etag: str) -> bool:
    """Whether the reader has it already (RFC 9110, 13.1.2: the weak comparison)."""
    known = {tag.strip().removeprefix("W/") for tag in (incoming.header("if-none-match") or "").split(",")}
    return etag.removeprefix("W/") in known or "*" in known


def _span(incoming: Incoming, etag: str, size_bytes: int) -> Span | None:
    condition = incoming.header("if-range")
    if condition is not None and condition.strip() != etag:
        return None
    try:
        return byte_range(incoming.header("range"), size_bytes)
    except Unsatisfiable:
        raise PrsmError(
            "The range begins behind the end.", kind=Kind.INVALID, code="range_not_satisfiable", param=str(size_bytes)
        ) from None


def _attachment(name: str) -> str:
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


async def _pieces(file: StoredFile, span: Span) -> AsyncIterator[bytes]:
    buffer = bytearray(min(_PIECE_BYTES, span.size_bytes))
    at = span.start
    while at < span.stop:
        view = memoryview(buffer)[: span.stop - at]
        count = await asyncio.to_thread(file.read_into, view, at)
        yield bytes(view[:count])
        at += count


async def _send(
    incoming: Incoming, status: int, headers: Headers, size_bytes: int | None, pieces: AsyncIterator[bytes]
) -> None:
    """Send as the reader keeps up, and stop when it has gone."""
    exchange = incoming.exchange
    exchange.start(status, [*headers, *incoming.extra], size_bytes)
    if exchange.method != "HEAD":
        async for piece in pieces:
            if exchange.carrier.client_left():
                break
            await exchange.send(piece)
    exchange.end()
