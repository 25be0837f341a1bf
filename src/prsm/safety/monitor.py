"""The whole of the detectors: texts go in, what was found comes out, or DetectorAway, never a guess.

Work is done in a few threads with a bounded queue and a time limit. Whatever fails here fails closed: a detector that
raises, lacks its files, takes too long or has too much to do lets nothing through. What a finding means is a policy's
business.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from prsm.core.encoder import TextEncoder
from prsm.core.errors import PrsmError
from prsm.safety.detectors.content import ContentDetector
from prsm.safety.detectors.personal import PersonalDetector
from prsm.safety.detectors.rules import RuleDetector, read_rules
from prsm.safety.detectors.secrets import SecretsDetector
from prsm.safety.detectors.windows import TextTooLong
from prsm.safety.seams import Assessment, Category, Detector, DetectorAway, Span

THREADS: Final = 1
MAX_WAITING: Final = 64
TIME_LIMIT_S: Final = 20.0
_REMEDY: Final = "Try again later; what could not be screened was not let through."

T = TypeVar("T")


class Absent:
    """Stands for a detector that could not be made: everything that is asked of it is refused."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = f"{name}-absent"
        self.categories = frozenset[Category]()
        self.reason = reason

    def assess(self, texts: Sequence[str], go_on: Callable[[], None] = lambda: None) -> list[Assessment]:
        raise DetectorAway(f"The detector {self.name} is away: {self.reason}", remedy=_REMEDY)


class Monitor:
    """Asks every detector. ``name`` names them all with their versions. Close it when done."""

    def __init__(
        self,
        content: ContentDetector | Absent,
        others: Sequence[Detector] = (),
        *,
        threads: int = THREADS,
        max_waiting: int = MAX_WAITING,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """At most ``max_waiting`` calls wait for one of ``threads``; each has ``time_limit_s``, waiting included."""
        if threads < 1 or max_waiting < 0 or time_limit_s <= 0:
            raise ValueError("a monitor needs a thread, no negative queue and a positive time limit")
        self._content = content
        self.content: Final = None if isinstance(content, Absent) else content
        """What reads content, which also encodes texts; None where it is away."""
        self._others = tuple(others)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="screen")
        self._room = threads + max_waiting
        self._out = 0
        self._time_limit_s = time_limit_s
        every: tuple[Detector, ...] = (content, *self._others)
        self.away: Final = tuple(each.reason for each in every if isinstance(each, Absent))
        """Why detectors that should be there are not; everything is refused then."""
        self.name: Final = "+".join(detector.name for detector in every)
        self.categories: Final = frozenset[Category]().union(*(detector.categories for detector in every))

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """What all detectors found in each text, together.

        Raises DetectorAway, and TextTooLong for a text that nobody would read whole. Where nobody waits any more, the
        thread stops at the next window of a text.
        """
        left = threading.Event()
        try:
            return await self._run(lambda: self._join(texts, left))
        finally:
            left.set()

    def close(self) -> None:
        """Takes no more; what waits is dropped, what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _join(self, texts: Sequence[str], left: threading.Event) -> list[Assessment]:
        def go_on() -> None:
            if left.is_set():
                raise DetectorAway("Nobody waits for this any more.", remedy=_REMEDY)

        found = [self._content.assess(texts, go_on)]
        for detector in self._others:
            go_on()
            found.append(detector.assess(texts))
        for detector, assessed in zip((self._content, *self._others), found, strict=True):
            if len(assessed) != len(texts):
                raise DetectorAway(f"The detector {detector.name} did not answer for every text.", remedy=_REMEDY)
        return [_together(each) for each in zip(*found, strict=True)]

    async def _run(self, work: Callable[[], T]) -> T:
        if self._out >= self._room:
            raise DetectorAway("Too many texts wait to be screened.", remedy=_REMEDY, retry_after_s=1.0)
        try:
            job = self._pool.submit(work)
        except RuntimeError as error:
            raise DetectorAway("The monitor is closed.", remedy=_REMEDY) from error
        self._out += 1
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: _tell(loop, self._ended))
        try:
            async with asyncio.timeout(self._time_limit_s):
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            limit = f"{self._time_limit_s:g} s"
            raise DetectorAway(f"Screening took longer than {limit}.", remedy=_REMEDY, retry_after_s=1.0) from error
        except (DetectorAway, TextTooLong):
            raise
        except Exception as error:  # whatever a detector raises means that it has not looked
            raise DetectorAway(f"Screening failed: {_said(error)}", remedy=_REMEDY) from error

    def _ended(self) -> None:
        # A job that ran out of time counts until its thread is free again: threads cannot be ended.
        self._out -= 1


def open_monitor(
    encoder: TextEncoder,
    banned: Path | None = None,
    *,
    threads: int = THREADS,
    time_limit_s: float = TIME_LIMIT_S,
) -> Monitor:
    """The node's monitor over the node's one encoder; ``banned`` is the operator's file of what must never pass.

    A part whose files are missing or damaged refuses everything.
    """
    content = _made("content", lambda: ContentDetector(encoder))
    rules = [] if banned is None else [_made("rules", lambda: RuleDetector(read_rules(banned)))]
    others = [*rules, PersonalDetector(), SecretsDetector()]
    return Monitor(content, others, threads=threads, time_limit_s=time_limit_s)


def _made(name: str, make: Callable[[], T]) -> T | Absent:
    try:
        return make()
    except PrsmError as error:
        return Absent(name, str(error))


def _together(found: Iterable[Assessment]) -> Assessment:
    scores: dict[Category, float] = {}
    spans: list[Span] = []
    rules: list[str] = []
    for each in found:
        for category, score in each.scores.items():
            scores[category] = max(score, scores.get(category, 0.0))
        spans.extend(each.spans)
        rules.extend(each.rules)
    spans.sort(key=lambda span: (span.start, span.end, span.category, span.kind))
    return Assessment(scores, tuple(spans), tuple(dict.fromkeys(rules)))


def _tell(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(then)
    except RuntimeError:  # the loop is closed: nobody counts any more
        return


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
