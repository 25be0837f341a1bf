"""Objects over HTTP: adding a file as it comes, reading one or a part of it, and the read-only trustless gateway.

Bytes are never gathered: what comes goes to the disk by way of a thread, what goes out is read piece by piece. The
gateway needs no key, gives only what is here and only what its reader can verify (IPFS HTTP gateway specification).
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, quote

import structlog

from prsm.api.body_pipe import BodyPipe
from prsm.api.byte_range import Span, Unsatisfiable, byte_range
from prsm.api.door import Door
from prsm.api.incoming import JSON, Headers, Incoming
from prsm.api.storage_keeping import Keeping, owner_of
from prsm.api.storage_schemas import added
from prsm.api.trustless import CAR_TYPE, IMMUTABLE, PREFIX, RAW_TYPE, CarRequest, RawRequest, parse
from prsm.core.database import unreachable
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.identity import READ, STORAGE
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.catalog import State
from prsm.data_layer.store.object_files import NotStored, StoredFile
from prsm.node import Node

CONTENT = "/node/v1/storage/content"
STREAMED_ROUTES = {
    f"POST {CONTENT}": STORAGE,
    f"GET {CONTENT}/{{cid}}": READ,
    f"GET {PREFIX}{{cid}}": None,
}
"""What is served here, with the scope it needs; FastAPI never sees it."""
_log: Any = structlog.get_logger("edge")

Serve = Callable[[Incoming], Coroutine[Any, Any, None]]

_PIECE_BYTES = 1024 * 1024
_MAX_GATEWAY_READERS = 256
# Each takes a thread of the storage for as long as its sender likes; the rest of them is for everybody else.
_MAX_ADDING = 12
_MAX_ADDING_OF_ONE = 4


class StorageContent:
    """The streamed routes over one node."""

    def __init__(self, node: Node, door: Door, keeping: Keeping) -> None:
        self._node = node
        self._door = door
        self._keeping = keeping
        self._adding: Counter[str] = Counter()
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
            except Exception as error:
                refusal = error if isinstance(error, PrsmError) else unreachable(error)
                if refusal is None:
                    raise  # the server answers and logs it
                if incoming.exchange.started:
                    # The connection is cut without ``end``: the reader sees that it has not all.
                    _log.warning("sending broke off", request_id=str(incoming.id), reason=str(refusal))
                    return
                _refuse(incoming, refusal)

        return guarded

    async def _add(self, incoming: Incoming) -> None:
        if incoming.exchange.method != "POST":
            incoming.refuse_method("POST")
            return
        caller = await self._door.admit(incoming.token(), STORAGE, incoming.extra)
        profile = _profile(incoming.exchange.query)
        size = int(incoming.header("content-length") or 0)
        limit = await self._keeping.room_bytes(caller)
        if size > limit:
            raise self._keeping.too_large(limit)
        with self._one_more(owner_of(caller)):
            async with self._body(incoming, limit) as body:
                # Kept by this request until it is kept by the caller, so that no collector comes between.
                mine = f"adding:{incoming.id}"
                stored = await self._node.storage.add(body.read_into, mine, profile, size)
        try:
            kept = await self._keeping.keep(caller, stored.cid)
        finally:
            await self._node.storage.catalog.unpin(stored.cid, mine)
        self._node.metrics.storage_moved("added", stored.size_bytes)
        incoming.respond(201, [JSON], added(stored, kept=kept).model_dump_json().encode())

    def _body(self, incoming: Incoming, limit_bytes: int) -> BodyPipe:
        return BodyPipe(
            incoming.exchange,
            limit_bytes=limit_bytes,
            too_large=self._keeping.too_large(limit_bytes),
            idle_s=self._node.settings.body_timeout_s,
        )

    @contextmanager
    def _one_more(self, owner: str) -> Generator[None]:
        if self._adding.total() >= _MAX_ADDING or self._adding[owner] >= _MAX_ADDING_OF_ONE:
            raise _overloaded(f"{self._adding.total()} objects are being added already, {self._adding[owner]} by you.")
        self._adding[owner] += 1
        try:
            yield
        finally:
            self._adding[owner] -= 1
            self._adding += Counter()  # drops who adds nothing now

    async def _read(self, incoming: Incoming) -> None:
        exchange = incoming.exchange
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method("GET, HEAD")
            return
        await self._door.admit(incoming.token(), READ, incoming.extra)
        first, _, below = exchange.path.removeprefix(f"{CONTENT}/").partition("/")
        cid = await self._node.storage.resolve(Cid.parse(first), below)
        await self._refuse_damaged(cid)
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
            await self._send(incoming, status, headers, span.size_bytes, _pieces(file, span))

    async def _refuse_damaged(self, cid: Cid) -> None:
        """What is known to be damaged is not given out; what is not known yet is found by ``verify``."""
        known = await self._node.storage.catalog.get(cid)
        if known is not None and known.state is State.DAMAGED:
            raise PrsmError(
                f"{cid} is damaged on this node's disk.",
                kind=Kind.CONFLICT,
                code="object_damaged",
                remedy=f"Mend it: prsm storage repair {cid}",
            )

    async def _gateway(self, incoming: Incoming) -> None:
        exchange = incoming.exchange
        if not self._node.settings.storage_gateway_enabled:
            raise PrsmError("This node's gateway is switched off.", kind=Kind.NOT_FOUND, code="not_found")
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method("GET, HEAD")
            return
        asked = parse(exchange.path, exchange.query, incoming.header("accept"))
        if self._gateway_readers >= _MAX_GATEWAY_READERS:
            raise _overloaded(f"The gateway serves {_MAX_GATEWAY_READERS} readers already.")
        self._gateway_readers += 1
        try:
            if isinstance(asked, RawRequest):
                await self._raw(incoming, asked)
            else:
                await self._car(incoming, asked)
        except NotStored as error:
            if "only-if-cached" in (incoming.header("cache-control") or "").lower():
                raise PrsmError(error.message, kind=error.kind, code="precondition_failed") from None
            raise
        finally:
            self._gateway_readers -= 1

    async def _raw(self, incoming: Incoming, asked: RawRequest) -> None:
        etag = f'"{asked.cid}.raw"'
        block = await self._node.storage.block(asked.cid)
        headers: Headers = [
            ("content-type", RAW_TYPE),
            ("accept-ranges", "bytes"),
            ("content-disposition", _attachment(f"{asked.cid}.bin")),
            *_described(incoming.exchange.path, etag),
        ]
        if _unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        span, status = _span(incoming, etag, len(block)), 206
        if span is None:
            span, status = Span(0, len(block)), 200
        else:
            headers.append(("content-range", span.content_range(len(block))))
        await self._send(incoming, status, headers, span.size_bytes, _once(block[span.start : span.stop]))

    async def _car(self, incoming: Incoming, asked: CarRequest) -> None:
        # Bytes after the first blocks may differ with the order in which they are had: a weak tag.
        exact = f"{asked.path} {asked.scope} {asked.entity}"
        etag = f'W/"{asked.cid}.car.{hashlib.sha256(exact.encode()).hexdigest()[:16]}"'
        headers: Headers = [
            ("content-type", f"{CAR_TYPE}; version=1; order=dfs; dups=n"),
            ("content-disposition", _attachment(f"{asked.cid}.car")),
            *_described(incoming.exchange.path, etag),
        ]
        pieces = await self._node.storage.car(asked.cid, asked.path, asked.scope, asked.entity)
        if _unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        await self._send(incoming, 200, headers, None, pieces)

    async def _send(
        self, incoming: Incoming, status: int, headers: Headers, size_bytes: int | None, pieces: AsyncIterator[bytes]
    ) -> None:
        """Send as the reader keeps up, and stop when it has gone."""
        exchange = incoming.exchange
        exchange.start(status, [*headers, *incoming.extra], size_bytes)
        if exchange.method != "HEAD":
            async for piece in pieces:
                if exchange.carrier.client_left():
                    return  # without ``end``: the connection is cut
                await exchange.send(piece)
                self._node.metrics.storage_moved("served", len(piece))
        exchange.end()


def _refuse(incoming: Incoming, error: PrsmError) -> None:
    if error.code == "not_acceptable":
        body = str(error).encode()
        incoming.respond(406, [("content-type", "text/plain; charset=utf-8")], body)
    elif error.code == "range_not_satisfiable":
        incoming.respond(416, [("content-range", f"bytes */{error.param}")], b"")
    elif error.code == "precondition_failed":
        incoming.respond(412, [("content-type", "text/plain; charset=utf-8")], str(error).encode())
    else:
        incoming.refuse(error)


def _profile(query: str) -> str:
    """The one field that the query may have; a name that there is not is refused further in."""
    given = parse_qs(query, keep_blank_values=True)
    for name in given.keys() - {"profile"}:
        raise InvalidRequest(f"There is no field {name[:100]!r} here.", param="query")
    return given.get("profile", [""])[-1]


def _described(path: str, etag: str) -> Headers:
    return [
        ("etag", etag),
        ("cache-control", IMMUTABLE),
        ("vary", "Accept"),
        ("x-ipfs-path", quote(path)),
        ("x-ipfs-roots", path.removeprefix(PREFIX).split("/", 1)[0]),
        ("x-content-type-options", "nosniff"),
    ]


def _unchanged(incoming: Incoming, etag: str) -> bool:
    """Whether the reader has it already (RFC 9110, 13.1.2: the weak comparison)."""
    known = {tag.strip().removeprefix("W/") for tag in (incoming.header("if-none-match") or "").split(",")}
    return etag.removeprefix("W/") in known or "*" in known


def _span(incoming: Incoming, etag: str, size_bytes: int) -> Span | None:
    """The part that is asked for (RFC 9110, 14.2: of a GET only); None: all of it."""
    if incoming.exchange.method != "GET":
        return None
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


async def _pieces(file: StoredFile, span: Span) -> AsyncGenerator[bytes]:
    buffer = bytearray(min(_PIECE_BYTES, span.size_bytes))
    at = span.start
    while at < span.stop:
        view = memoryview(buffer)[: span.stop - at]
        count = await asyncio.to_thread(file.read_into, view, at)
        if not count:
            raise PrsmError(f"The file of {file.cid} is shorter than it was.", code="object_damaged")
        yield bytes(view[:count])
        at += count


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


def _overloaded(message: str) -> PrsmError:
    return PrsmError(message, kind=Kind.UNAVAILABLE, code="overloaded", remedy="Try again shortly.", retry_after_s=1)
