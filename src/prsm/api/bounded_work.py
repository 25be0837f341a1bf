"""Long work for a request: so much of it at once and no more, and none for a client that has gone."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request

from prsm.api.streamed import overloaded
from prsm.core.errors import InvalidRequest

Answer = TypeVar("Answer")


class Turns:
    """How many may do one thing at once, together and each; ``doing`` says what, as "objects are being added"."""

    def __init__(self, most: int, most_of_one: int, doing: str) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._doing = doing
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one_more(self, owner: str) -> Generator[None]:
        """A turn for the time of the context. Raises PrsmError (``overloaded``) at once when there is none."""
        if self._taken.total() >= self._most or self._taken[owner] >= self._most_of_one:
            raise overloaded(f"{self._taken.total()} {self._doing} already, {self._taken[owner]} by you.")
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            self._taken += Counter()  # drops who does nothing now


async def while_there(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of ``work``, which is cancelled when the client leaves. Raises what it raises."""
    working, leaving = asyncio.ensure_future(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise InvalidRequest("The client has gone before the answer.", code="client_left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # a body that the route did not ask for
