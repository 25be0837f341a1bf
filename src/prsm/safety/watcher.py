"""Watches an answer while it is streamed: each piece goes in, and now and then what was said is assessed.

A text that turns is found where it turns, not at its end. What to do with what was not looked at yet, the caller says.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from prsm.safety.looking_back import Look, Pace, Schedule
from prsm.safety.seams import Assessment

Assess = Callable[[Sequence[str]], Awaitable[list[Assessment]]]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look found; spans are characters of the whole stream, of which ``seen`` are now looked at."""

    assessment: Assessment
    seen: int


class Watcher:
    """One stream's; ``assess`` is ``Monitor.assess``. Pieces come one at a time."""

    def __init__(self, assess: Assess, pace: Pace | None = None) -> None:
        self._assess = assess
        self._schedule = Schedule(pace or Pace())

    @property
    def unseen(self) -> int:
        """Characters that were said and not looked at yet."""
        return self._schedule.said - self._schedule.seen

    async def add(self, piece: str) -> Sighting | None:
        """Takes the next piece; what a look found, if one was due. Raises what ``assess`` raises."""
        look = self._schedule.add(piece)
        return await self._sighting(look) if look else None

    async def end(self) -> Sighting | None:
        """Looks at what is left; None when nothing is."""
        look = self._schedule.end()
        return await self._sighting(look) if look else None

    async def _sighting(self, look: Look) -> Sighting:
        (found,) = await self._assess([look.text])
        spans = tuple(replace(s, start=s.start + look.start, end=s.end + look.start) for s in found.spans)
        return Sighting(replace(found, spans=spans), self._schedule.seen)
