"""A request at the door, over RSGI: its id, its headers, its body within bounds, and how it is answered.

Nothing is read before the caller is known, and never more than the limit.
"""

import asyncio
from typing import Any
from uuid import UUID

from granian.rsgi import ProtocolClosed  # pyright: ignore[reportPrivateImportUsage]  (its public name)

from prsm.api.door import bearer
from prsm.api.wire.errors import error_body, http_status, retry_after
from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest, Kind, PrsmError

Headers = list[tuple[str, str]]

JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")


class Incoming:
    """One HTTP request. ``extra`` are headers that the answer carries whatever it is."""

    __slots__ = ("extra", "id", "proto", "scope")

    def __init__(self, scope: Any, proto: Any) -> None:
        self.scope = scope
        self.proto = proto
        self.id: UUID = uuid7()
        self.extra: Headers = [("x-request-id", str(self.id))]

    def header(self, name: str) -> str | None:
        """A header's value by its lower-case name. Raises InvalidRequest when it has one that is not ASCII.

        The server gives such a value as None: taken for absent, a spend cap would not bind.
        """
        value: str | None = self.scope.headers.get(name)
        if value is None and name in self.scope.headers:
            raise InvalidRequest(f"The header {name} must be printable ASCII.", param=name)
        return value

    def token(self) -> str:
        """The API key that came with the request; empty where there is none."""
        headers = self.scope.headers
        return bearer(headers.get("authorization"), headers.get("x-api-key"))

    async def body(self, limit: int, timeout_s: int) -> bytes:
        """The whole body. Raises PrsmError (TOO_LARGE) beyond ``limit`` bytes, InvalidRequest when it stops coming."""
        length = self.header("content-length")
        if length is not None and (not length.isdigit() or int(length) > limit):
            raise _too_large(limit)
        try:
            async with asyncio.timeout(timeout_s):
                if length is not None:
                    return await self.proto()
                return await self._chunks(limit)
        except TimeoutError:
            raise InvalidRequest(
                f"The request's body did not arrive within {timeout_s} seconds.", code="body_timeout"
            ) from None
        except ProtocolClosed:
            raise InvalidRequest(
                "The connection ended before the request's body was complete.", code="body_incomplete"
            ) from None

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        self.proto.response_bytes(status, [*headers, *self.extra], body)

    def refuse(self, error: PrsmError, body: bytes | None = None) -> None:
        """Send an error; ``body`` is its form in the caller's API, by default that of the path."""
        headers: Headers = [JSON]
        after = retry_after(error)
        if after is not None:
            headers.append(("retry-after", after))
        if error.kind is Kind.UNAUTHENTICATED:
            headers.append(("www-authenticate", "Bearer"))
        self.respond(http_status(error.kind), headers, body or self._error_body(error))

    def refuse_method(self, allowed: str) -> None:
        """Say which method this path has."""
        error = PrsmError(
            f"{self.scope.path} has the method {allowed} only.", kind=Kind.INVALID, code="method_not_allowed"
        )
        self.respond(405, [JSON, ("allow", allowed)], self._error_body(error))

    def _error_body(self, error: PrsmError) -> bytes:
        return error_body(error, self.scope.path, self.scope.headers.get("anthropic-version"), str(self.id))

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
