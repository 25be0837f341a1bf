"""What the streamed routes share: conditions and ranges as HTTP words them, sending piece by piece, and refusing.

What fails before the first byte gets a status; what fails later cuts the connection, so that no reader takes a part
for the whole.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import quote

import structlog

from prsm.api.byte_range import Span, Unsatisfiable, byte_range
from prsm.api.http_exchange import Headers
from prsm.api.incoming import Incoming
from prsm.core.database import unreachable
from prsm.core.errors import Kind, PrsmError

Serve = Callable[[Incoming], Coroutine[Any, Any, None]]

_TEXT = ("content-type", "text/plain; charset=utf-8")
_log: Any = structlog.get_logger("edge")


def guarded(serve: Serve) -> Serve:
    """The same, with what it raises as a response."""

    async def answered(incoming: Incoming) -> None:
        try:
            await serve(incoming)
        except Exception as error:
            if not _answered(incoming, error):
                raise  # the server answers and logs it

    return answered


async def send(
    incoming: Incoming,
    status: int,
    headers: Headers,
    size_bytes: int | None,
    pieces: AsyncIterator[bytes],
    sent: Callable[[int], object],
) -> None:
    """Send as the reader keeps up, and stop when it has gone; ``sent`` is told how many bytes of each piece.

    Nothing goes out before the first piece is there, and for HEAD nothing is read.
    """
    exchange = incoming.exchange
    piece = b"" if exchange.method == "HEAD" else await anext(pieces, b"")
    exchange.start(status, [*headers, *incoming.extra], size_bytes)
    while piece:
        if exchange.carrier.client_left():
            return  # without ``end``: the connection is cut
        await exchange.send(piece)
        sent(len(piece))
        piece = await anext(pieces, b"")
    exchange.end()


def unchanged(incoming: Incoming, etag: str) -> bool:
    """Whether the reader has it already (RFC 9110, 13.1.2: the weak comparison)."""
    known = {tag.strip().removeprefix("W/") for tag in (incoming.header("if-none-match") or "").split(",")}
    return etag.removeprefix("W/") in known or "*" in known


def part_of(incoming: Incoming, etag: str, size_bytes: int, headers: Headers) -> tuple[int, Span]:
    """The status, and the bytes that are asked for (RFC 9110, 14.2: of a GET only); a part adds to ``headers``.

    Raises PrsmError, which is answered with 416.
    """
    whole = 200, Span(0, size_bytes)
    condition = incoming.header("if-range")
    if incoming.exchange.method != "GET" or (condition is not None and condition.strip() != etag):
        return whole
    try:
        span = byte_range(incoming.header("range"), size_bytes)
    except Unsatisfiable:
        raise PrsmError(
            "The range begins behind the end.", kind=Kind.INVALID, code="range_not_satisfiable", param=str(size_bytes)
        ) from None
    if span is None:
        return whole
    headers.append(("content-range", span.content_range(size_bytes)))
    return 206, span


def only_if_cached(incoming: Incoming) -> bool:
    """Whether nothing may be fetched for this request.

    What is not here is answered with 412 then, as the gateway specification has it, and not with the 504 of RFC 9111
    (5.2.1.7): no cache before us speaks here but the origin itself, and nothing has failed.
    """
    return "only-if-cached" in (incoming.header("cache-control") or "").lower()


def not_cached(missing: PrsmError) -> PrsmError:
    """The answer where ``only_if_cached`` meets what is not here."""
    return PrsmError(missing.message, kind=missing.kind, code="precondition_failed")


def attachment(name: str) -> str:
    """The value of ``Content-Disposition``."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def overloaded(message: str) -> PrsmError:
    """The refusal of one more than a bound allows."""
    return PrsmError(message, kind=Kind.UNAVAILABLE, code="overloaded", remedy="Try again shortly.", retry_after_s=1)


def _answered(incoming: Incoming, error: Exception) -> bool:
    # Here, and not where it is caught: a variable there would keep the error, and all that it holds, in a circle.
    refusal = error if isinstance(error, PrsmError) else unreachable(error)
    if refusal is None:
        return False
    if incoming.exchange.started:
        # The connection is cut without ``end``: the reader sees that it has not all.
        _log.warning("sending broke off", request_id=str(incoming.id), reason=str(refusal))
    else:
        _refuse(incoming, refusal)
    return True


def _refuse(incoming: Incoming, error: PrsmError) -> None:
    if error.code == "not_acceptable":
        incoming.respond(406, [_TEXT], str(error).encode())
    elif error.code == "range_not_satisfiable":
        incoming.respond(416, [("content-range", f"bytes */{error.param}")], b"")
    elif error.code == "precondition_failed":
        incoming.respond(412, [_TEXT], str(error).encode())
    else:
        incoming.refuse(error)
