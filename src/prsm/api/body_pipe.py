"""A request's body on its way from the event loop to a thread that reads it, a few MiB at a time.

The sender is held back while the reader is behind; a sender that stops is an error for the reader, and a reader that
stops ends the pumping. Nothing of the body is kept once it was read.
"""

import asyncio
import threading
from collections import deque
from typing import Self

from prsm.api.http_exchange import BodyBroken, Exchange
from prsm.core.errors import InvalidRequest, PrsmError

HIGH_WATER_BYTES = 4 * 1024 * 1024


class BodyPipe:
    """One body, carried over while the ``async with`` block runs; ``read_into`` is for one thread."""

    def __init__(self, exchange: Exchange, *, limit_bytes: int, too_large: PrsmError, idle_s: float) -> None:
        """At most ``limit_bytes`` in all, else ``too_large``; at most ``idle_s`` seconds between two pieces."""
        self._exchange = exchange
        self._limit_bytes = limit_bytes
        self._too_large = too_large
        self._idle_s = idle_s
        self._pieces: deque[memoryview] = deque()
        self.held_bytes = 0
        self._error: PrsmError | None = None
        self._ended = False
        self._told = threading.Condition()
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pumping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._pumping = asyncio.create_task(self._pump())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._pumping is not None
        self._pumping.cancel()
        await asyncio.gather(self._pumping, return_exceptions=True)
        # A pump that was cancelled before its first step has told the reader nothing.
        self._end(InvalidRequest("The request was ended.", code="body_incomplete"))

    def read_into(self, into: memoryview) -> int:
        """Fill a part of ``into``; answers how many bytes, 0 at the end. Blocks. Raises PrsmError."""
        with self._told:
            self._told.wait_for(lambda: self._pieces or self._ended)
            if self._error is not None:
                raise self._error
            count = self._take(into)
        if self.held_bytes < HIGH_WATER_BYTES:
            self._loop.call_soon_threadsafe(self._room.set)
        return count

    async def _pump(self) -> None:
        try:
            await self._carry()
        except PrsmError as error:
            self._end(error)
        else:
            self._end(None)

    async def _carry(self) -> None:
        taken = 0
        while True:
            data = self._exchange.take()
            taken += len(data)
            if taken > self._limit_bytes:
                raise self._too_large
            if data:
                await self._hand_over(data)
            elif self._exchange.complete:
                return
            else:
                await self._wait_for_more()

    async def _hand_over(self, data: bytes) -> None:
        with self._told:
            self._pieces.append(memoryview(data))
            self.held_bytes += len(data)
            self._told.notify()
        while self.held_bytes >= HIGH_WATER_BYTES:
            self._room.clear()
            if self.held_bytes >= HIGH_WATER_BYTES:  # else it was read between the two
                await self._room.wait()

    async def _wait_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._exchange.more()
        except TimeoutError:
            raise InvalidRequest(
                f"No more of the body came for {self._idle_s:g} seconds.", code="body_timeout"
            ) from None
        except BodyBroken as error:
            raise InvalidRequest(str(error), code="body_incomplete" if error.cut else "body_malformed") from None

    def _take(self, into: memoryview) -> int:
        filled = 0
        while self._pieces and filled < len(into):
            piece = self._pieces[0]
            count = min(len(piece), len(into) - filled)
            into[filled : filled + count] = piece[:count]
            filled += count
            if count == len(piece):
                self._pieces.popleft()
            else:
                self._pieces[0] = piece[count:]
        self.held_bytes -= filled
        return filled

    def _end(self, error: PrsmError | None) -> None:
        """The first end counts; what came before an error is of no use to anybody."""
        with self._told:
            if self._ended:
                return
            self._error, self._ended = error, True
            if error is not None:
                self._pieces.clear()
            self._told.notify()
