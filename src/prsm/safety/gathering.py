"""Texts of many requests are looked at together: what comes while some are looked at waits and goes as the next batch.

One pass over many short texts costs a processor far less than a pass for each. Whoever waits too long, or comes when
too much waits, is refused: nothing goes unseen.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from prsm.core.errors import PrsmError
from prsm.safety.seams import Assessment, DetectorAway

Assess = Callable[[Sequence[str]], Awaitable[list[Assessment]]]

BATCH_TEXTS: Final = 64
BATCH_CHARS: Final = 24_000
"""A batch is closed when it has so many: who comes next shall not wait for long."""
MAX_WAITING_CHARS: Final = 16 * 1024 * 1024
_REMEDY: Final = "Try again shortly; what could not be screened was not let through."


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    texts: Sequence[str]
    chars: int
    found: "asyncio.Future[list[Assessment]]"


class Gathering:
    """Gathers for ``assess``, of which at most ``at_once`` calls are under way; each request waits ``time_limit_s``."""

    def __init__(
        self,
        assess: Assess,
        *,
        at_once: int = 1,
        time_limit_s: float = 20.0,
        max_waiting_chars: int = MAX_WAITING_CHARS,
    ) -> None:
        self._assess = assess
        self._at_once = at_once
        self._time_limit_s = time_limit_s
        self._max_waiting_chars = max_waiting_chars
        self._waiting: deque[_Waiting] = deque()
        self._chars = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether something is looked at now."""
        return bool(self._tasks)

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """One assessment a text. Raises what ``assess`` raises of these texts, DetectorAway where it takes too long.

        Many texts go in slices, one after the other, so that others come between and who leaves is looked at no more.
        """
        found: list[Assessment] = []
        try:
            async with asyncio.timeout(self._time_limit_s):
                for some in _slices(texts):
                    found += await self._queued(some)
        except TimeoutError as error:
            limit = f"{self._time_limit_s:g} s"
            raise DetectorAway(f"Screening took longer than {limit}.", remedy=_REMEDY, retry_after_s=1.0) from error
        return found

    async def _queued(self, texts: Sequence[str]) -> list[Assessment]:
        chars = sum(map(len, texts))
        if self._waiting and self._chars + chars > self._max_waiting_chars:
            raise DetectorAway("Too many texts wait to be screened.", remedy=_REMEDY, retry_after_s=1.0)
        one = _Waiting(texts, chars, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._chars += chars
        if len(self._tasks) < self._at_once:
            self._tasks.add(asyncio.create_task(self._drain()))
        return await one.found

    async def _drain(self) -> None:
        try:
            while batch := self._next():
                if not await self._together(batch) and len(batch) > 1:
                    for one in batch:  # whose text it was that failed, only each alone can say
                        if not one.found.done():
                            await self._together([one])
        finally:  # at once, not when the loop comes to it: who is queued in between would find nobody
            self._tasks.remove(cast("asyncio.Task[None]", asyncio.current_task()))

    def _next(self) -> list[_Waiting]:
        """Who goes together now; those who have left are passed over."""
        batch: list[_Waiting] = []
        texts = chars = 0
        while self._waiting:
            one = self._waiting[0]
            if batch and _is_full(texts + len(one.texts), chars + one.chars):
                break
            self._waiting.popleft()
            self._chars -= one.chars
            if not one.found.done():
                batch.append(one)
                texts, chars = texts + len(one.texts), chars + one.chars
        return batch

    async def _together(self, batch: Sequence[_Waiting]) -> bool:
        """Look at all texts of a batch; whether that went well. The failure of one alone is its answer."""
        looking = asyncio.ensure_future(self._assess([text for one in batch for text in one.texts]))

        def stop_where_nobody_waits(_: object) -> None:
            if all(one.found.done() for one in batch):
                looking.cancel()

        for one in batch:
            one.found.add_done_callback(stop_where_nobody_waits)
        await asyncio.wait({looking})
        error = DetectorAway("Screening was stopped.", remedy=_REMEDY) if looking.cancelled() else looking.exception()
        if error:  # whoever waits must hear of it, whatever it is
            if len(batch) == 1 and not batch[0].found.done():
                known = isinstance(error, PrsmError)
                batch[0].found.set_exception(error if known else DetectorAway(f"Screening failed: {error}."))
            return False
        found = looking.result()
        at = 0
        for one in batch:
            if not one.found.done():
                one.found.set_result(found[at : at + len(one.texts)])
            at += len(one.texts)
        return True


def _is_full(texts: int, chars: int) -> bool:
    return texts > BATCH_TEXTS or chars > BATCH_CHARS


def _slices(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """``texts`` in order, in parts that are no more than a batch, or one text."""
    begun = chars = 0
    for at, text in enumerate(texts):
        if at > begun and _is_full(at + 1 - begun, chars + len(text)):
            yield texts[begun:at]
            begun, chars = at, 0
        chars += len(text)
    if texts:
        yield texts[begun:]
