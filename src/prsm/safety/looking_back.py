"""When a stream is looked at, and how much of it: the rule behind ``Watcher``.

Pure: no detector, no clock. Everything said is in some look, with what stood before it; the characters of all looks
together are at most ``1 + look_back_chars / every_chars`` times those of the stream, and one look more.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pace:
    """A look is due when ``first_chars``, then each time ``every_chars``, are new; ``look_back_chars`` go with it."""

    first_chars: int = 160
    every_chars: int = 480
    look_back_chars: int = 640

    def __post_init__(self) -> None:
        if self.first_chars < 1 or self.every_chars < 1 or self.look_back_chars < 0:
            raise ValueError("a pace has positive steps and no negative look back")


@dataclass(frozen=True, slots=True)
class Look:
    """A stretch of the stream to be assessed, from its character ``start``."""

    text: str
    start: int


@dataclass(slots=True)
class Schedule:
    """What of one stream was said, and up to where it was looked at."""

    pace: Pace = field(default_factory=Pace)
    said: int = 0
    """Characters so far."""
    seen: int = 0
    """Characters that some look has held."""
    _tail: str = ""
    """The last characters of the stream: what is new, and the look back before it."""

    def add(self, piece: str) -> Look | None:
        """Takes the next piece; the look that is due now, if one is."""
        self._tail += piece
        self.said += len(piece)
        due = self.pace.every_chars if self.seen else self.pace.first_chars
        return self._look() if self.said - self.seen >= due else None

    def end(self) -> Look | None:
        """The last look: at what no look has held yet."""
        return self._look() if self.said > self.seen else None

    def _look(self) -> Look:
        new = self.said - self.seen
        wanted = min(len(self._tail), new + self.pace.look_back_chars)
        text = self._tail[len(self._tail) - wanted :]
        self._tail = self._tail[max(0, len(self._tail) - self.pace.look_back_chars) :]
        self.seen = self.said
        return Look(text, self.said - wanted)
