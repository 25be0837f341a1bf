"""A request at the door: its id, its headers, its body within bounds, and how it is answered.

Nothing is read before the caller is known, and never more than the limit.
"""

import asyncio
from uuid import UUID

from prsm.api.door import bearer
from prsm.api.http_exchange import BodyBroken, Exchange, Headers
from prsm.api.wire.errors import error_body, http_status, retry_after
from prsm.core.clock import uuid7
from prsm.core.errors import InvalidRequest, Kind, PrsmError

JSON = ("content-type", "application/json")
EVENT_STREAM = ("content-type", "text/event-stream; charset=utf-8")


class Incoming:
    """One HTTP request. ``extra`` are headers that the answer carries whatever it is."""

    __slots__ = ("exchange", "extra", "id")

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.id: UUID = uuid7()
        self.extra: Headers = [("x-request-id", str(self.id))]

    def header(self, name: str) -> str | None:
        """A header's value by its lower-case name. Raises InvalidRequest when it has one that is not ASCII."""
        value = self.exchange.header(name.encode())
        if value is None:
            return None
        if not value.isascii():
            raise InvalidRequest(f"The header {name} must be printable ASCII.", param=name)
        return value.decode()

    def token(self) -> str:
        """The API key that came with the request; empty where there is none."""
        return bearer(self._text("authorization"), self._text("x-api-key"))

    async def body(self, limit: int, timeout_s: int) -> bytes:
        """The whole body. Raises PrsmError (TOO_LARGE) beyond ``limit`` bytes, InvalidRequest when it stops coming."""
        length = self.header("content-length")
        if length is not None and int(length) > limit:
            raise _too_large(limit)
        if not self.exchange.complete:
            await self._gather(limit, timeout_s)
        if self.exchange.buffered > limit:
            raise _too_large(limit)
        return self.exchange.take()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole response."""
        self.exchange.respond(status, [*headers, *self.extra], body)

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
            f"{self.exchange.path} has the method {allowed} only.", kind=Kind.INVALID, code="method_not_allowed"
        )
        self.respond(405, [JSON, ("allow", allowed)], self._error_body(error))

    def _error_body(self, error: PrsmError) -> bytes:
        return error_body(error, self.exchange.path, self._text("anthropic-version"), str(self.id))

    def _text(self, name: str) -> str | None:
        value = self.exchange.header(name.encode())
        return None if value is None else value.decode("latin-1")

    async def _gather(self, limit: int, timeout_s: int) -> None:
        """Wait for the body, or for more of it than may come."""
        exchange = self.exchange
        try:
            async with asyncio.timeout(timeout_s):
                while not exchange.complete and exchange.buffered <= limit:
                    await exchange.more()
        except TimeoutError:
            raise InvalidRequest(
                f"The request's body did not arrive within {timeout_s} seconds.", code="body_timeout"
            ) from None
        except BodyBroken as error:
            raise InvalidRequest(str(error), code="body_incomplete" if error.cut else "body_malformed") from None


def _too_large(limit: int) -> PrsmError:
    return PrsmError(
        f"The request's body is larger than {limit} bytes.",
        kind=Kind.TOO_LARGE,
        code="body_too_large",
        remedy="Send less, or raise PRSM_BODY_LIMIT_BYTES.",
    )
