"""A request at the door, over RSGI: its id, its headers, its body within bounds, and how it is answered.

Nothing is read before the caller is known, and never more than the limit.
"""

import asyncio
from typing import Any
from uuid import UUID

from prsm.api.door import bearer
from prsm.api.wire.errors import http_status, openai_error, retry_after
from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest, Kind, PrsmError

Headers = list[tuple[str, str]]

JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")
_BODY_TIMEOUT_S = 30


class Incoming:
    """One HTTP request. ``extra`` are headers that the answer carries whatever it is."""

    __slots__ = ("extra", "id", "proto", "scope")

    def __init__(self, scope: Any, proto: Any) -> None:
        self.scope = scope
        self.proto = proto
        self.id: UUID = uuid7()
        self.extra: Headers = [("x-request-id", str(self.id))]

    def header(self, name: str) -> str | None:
        """A header's value by its lower-case name."""
        return self.scope.headers.get(name)

    def token(self) -> str:
        """The API key that came with the request; empty where there is none."""
        return bearer(self.header("authorization"), self.header("x-api-key"))

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises PrsmError (TOO_LARGE) beyond ``limit`` bytes, InvalidRequest when it stops coming."""
        length = self.header("content-length")
        if length is not None and (not length.isdigit() or int(length) > limit):
            raise _too_large(limit)
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                if length is not None:
                    return await self.proto()
                return await self._chunks(limit)
        except TimeoutError:
            raise InvalidRequest(
                f"The request's body did not arrive within {_BODY_TIMEOUT_S} seconds.", kind=Kind.TIMEOUT
            ) from None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        self.proto.response_bytes(status, [*headers, *self.extra], body)

    def refuse(self, error: PrsmError, body: bytes | None = None) -> None:
        """Send an error; ``body`` is its form in the caller's API, OpenAI's by default."""
        headers: Headers = [JSON]
        after = retry_after(error)
        if after is not None:
            headers.append(("retry-after", after))
        if error.kind is Kind.UNAUTHENTICATED:
            headers.append(("www-authenticate", "Bearer"))
        self.respond(http_status(error.kind), headers, body or openai_error(error))

    async def _chunks(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in self.proto:
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
        return b"".join(parts)


def _too_large(limit: int) -> PrsmError:
    return PrsmError(
        f"The request's body is larger than {limit} bytes.",
        kind=Kind.TOO_LARGE,
        code="body_too_large",
        remedy="Send less, or raise PRSM_BODY_LIMIT_BYTES.",
    )
