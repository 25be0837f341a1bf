"""A source of models that lists what a test says, and fails where it says so."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any

from prsm.federation.discovery.seams import Ending, ListedPrice, Listing, Reading

PRICED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def priced(input_nano: int | None, output_nano: int | None, currency: Any = "USD") -> ListedPrice:
    return ListedPrice("tests", PRICED_AT, currency, input_nano, output_nano)


def listing(name: str, description: str = "", **more: Any) -> Listing:
    return Listing(name=name, description=description, **({"capabilities": frozenset({"chat"})} | more))


class ListedSource:
    """Answers with pages; ``error`` is raised after the last, and ``gate``, once set up, is waited for before each."""

    def __init__(self, name: str = "hub", *pages: Sequence[Listing], whole: bool = True) -> None:
        self._name = name
        self.pages = [tuple(page) for page in pages]
        self.whole = whole
        self.error: Exception | None = None
        self.gate: asyncio.Semaphore | None = None
        self.marks: list[str] = []
        self.opened = 0
        self.closed = 0
        self.pages_closed = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def mark(self) -> str:
        return hashlib.sha256(repr(self.pages).encode()).hexdigest()

    async def read(self, mark: str) -> Reading | None:
        self.marks.append(mark)
        if mark == self.mark and self.error is None:
            return None
        return Reading(self._pages(), lambda: Ending(self.whole, self.mark, left_out=1))

    async def aclose(self) -> None:
        self.closed += 1

    async def _pages(self) -> AsyncGenerator[tuple[Listing, ...], None]:
        try:
            for page in self.pages:
                if self.gate is not None:
                    await self.gate.acquire()
                yield page
            if self.error is not None:
                raise self.error
        finally:
            self.pages_closed += 1
