"""The read-only trustless gateway, for everybody: blocks and CARs of what is here, which their reader can verify.

It needs no key and fetches nothing. Each block is hashed as it is read, and given if it is what its CID names, however
damaged the object around it is. Any page in a browser may read it (CORS); nothing else of the node's API may be.
(IPFS Trustless Gateway and Path Gateway specifications.)
"""

import hashlib
from collections.abc import AsyncGenerator
from urllib.parse import quote

from prsm.api.http_exchange import Headers
from prsm.api.incoming import Incoming
from prsm.api.streamed import attachment, not_cached, only_if_cached, overloaded, part_of, send, unchanged
from prsm.api.trustless import (
    CAR_TYPE,
    CORS,
    IMMUTABLE,
    METHODS,
    PREFIX,
    PREFLIGHT,
    RAW_TYPE,
    CarRequest,
    RawRequest,
    parse,
)
from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.store.object_files import NotStored
from prsm.node import Node

_MAX_READERS = 256


class StorageGateway:
    """The gateway of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._readers = 0

    async def serve(self, incoming: Incoming) -> None:
        """Answer a request below ``PREFIX``. Raises PrsmError."""
        exchange = incoming.exchange
        if not self._node.settings.storage_gateway_enabled:
            raise PrsmError("This node's gateway is switched off.", kind=Kind.NOT_FOUND, code="not_found")
        incoming.extra += CORS  # on refusals too: a page that may read blocks may read why there is none
        if exchange.method == "OPTIONS":
            incoming.respond(204, PREFLIGHT, b"")
            return
        if exchange.method not in ("GET", "HEAD"):
            incoming.refuse_method(METHODS)
            return
        asked = parse(exchange.path, exchange.query, incoming.header("accept"))
        if self._readers >= _MAX_READERS:
            raise overloaded(f"The gateway serves {_MAX_READERS} readers already.")
        self._readers += 1
        try:
            await (self._raw(incoming, asked) if isinstance(asked, RawRequest) else self._car(incoming, asked))
        except NotStored as error:
            raise not_cached(error) if only_if_cached(incoming) else error from None
        finally:
            self._readers -= 1

    async def _raw(self, incoming: Incoming, asked: RawRequest) -> None:
        etag = f'"{asked.cid}.raw"'
        block = await self._node.storage.block(asked.cid)
        headers: Headers = [
            ("content-type", RAW_TYPE),
            ("accept-ranges", "bytes"),
            ("content-disposition", attachment(f"{asked.cid}.bin")),
            *_described(incoming.exchange.path, etag),
        ]
        if unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        status, span = part_of(incoming, etag, len(block), headers)
        await send(incoming, status, headers, span.size_bytes, _once(block[span.start : span.stop]), self._served)

    async def _car(self, incoming: Incoming, asked: CarRequest) -> None:
        # Bytes after the first blocks may differ with the order in which they are had: a weak tag.
        exact = f"{asked.path} {asked.scope} {asked.entity}"
        etag = f'W/"{asked.cid}.car.{hashlib.sha256(exact.encode()).hexdigest()[:16]}"'
        headers: Headers = [
            ("content-type", f"{CAR_TYPE}; version=1; order=dfs; dups=n"),
            ("content-disposition", attachment(f"{asked.cid}.car")),
            *_described(incoming.exchange.path, etag),
        ]
        pieces = await self._node.storage.car(asked.cid, asked.path, asked.scope, asked.entity)
        if unchanged(incoming, etag):
            incoming.respond(304, headers, b"")
            return
        await send(incoming, 200, headers, None, pieces, self._served)

    def _served(self, size_bytes: int) -> None:
        self._node.metrics.storage_moved("served", size_bytes)


def _described(path: str, etag: str) -> Headers:
    return [
        ("etag", etag),
        ("cache-control", IMMUTABLE),
        ("vary", "Accept"),
        ("x-ipfs-path", quote(path)),
        ("x-ipfs-roots", path.removeprefix(PREFIX).split("/", 1)[0]),
        ("x-content-type-options", "nosniff"),
    ]


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data
