"""One pass over one source: pages are kept as they come, and what a whole reading did not meet is retired at its end.

A pass that breaks off leaves what was kept before and what it has written; the next one begins anew and pays only for
what is new. Of all workers one reads a source at a time, by its claim. A source that fails is left alone for longer
each time, and never asked before it said that it may be.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import structlog

from prsm.core.cancellation import end_tasks
from prsm.core.clock import Clock, now
from prsm.core.errors import PrsmError
from prsm.federation.discovery.listings import Listings, Seen
from prsm.federation.discovery.seams import Ending, Reading, Source
from prsm.federation.discovery.source_book import LEASE_S, Claim, ClaimLost, SourceBook, SourceConfig

_FIRST_WAIT_S: Final = 30.0
_LONGEST_WAIT_S: Final = 6 * 3_600.0
_LONGEST_ASKED_S: Final = 86_400.0
"""A source that asks to be left alone for longer than a day is tried once a day."""
_LONGEST_PASS_S: Final = 6 * 3_600.0
_LEAST_WAIT_S: Final = 1.0

OpenSource = Callable[[SourceConfig], Source]
Chance = Callable[[], float]

_log: Any = structlog.get_logger("discovery")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass did: listings that it met, wrote and retired; ``error`` is the code of why it broke off."""

    source: str
    listed: int = 0
    written: int = 0
    retired: int = 0
    error: str = ""


def wait_after_failure_s(failures: int, retry_after_s: float | None, chance: float) -> float:
    """How long a source is left alone after it failed ``failures`` times before this one; ``chance`` is in [0, 1).

    Exponential back-off with full jitter; a wait that the source asked for is kept, with some jitter on top.
    """
    most_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(failures, 20))
    if retry_after_s is not None:
        asked_s = min(max(retry_after_s, 0.0), _LONGEST_ASKED_S)
        return asked_s + max(_LEAST_WAIT_S, chance * min(most_s, 0.1 * asked_s))
    return max(_LEAST_WAIT_S, chance * most_s)


def wait_after_success_s(every_s: int, chance: float) -> float:
    """The interval, a tenth more or less, so that sources added together are not read together for ever."""
    return every_s * (0.9 + 0.2 * chance)


class Sync:
    """Reads sources that are due, one for each call of ``read_due``; several calls may run at once."""

    def __init__(
        self,
        book: SourceBook,
        listings: Listings,
        open_source: OpenSource,
        *,
        clock: Clock = now,
        chance: Chance = random.random,
    ) -> None:
        self._book = book
        self._listings = listings
        self._open = open_source
        self._clock = clock
        self._chance = chance
        self.reading = 0
        """Sources being read now."""

    async def read_due(self) -> Outcome | None:
        """One pass over the source that is due for longest; None where none is. What goes wrong there is an outcome."""
        claim = await self._book.claim_due()
        if claim is None:
            return None
        self.reading += 1
        try:
            async with asyncio.timeout(_LONGEST_PASS_S):
                return await self._while_claimed(claim)
        except ClaimLost as error:
            _log.info("reading ended", source=claim.config.name, reason=error.code)
            return Outcome(claim.config.name, error=error.code)
        except PrsmError as error:
            return await self._failed(claim, error.code, str(error), error.retry_after_s)
        except asyncio.CancelledError:
            await self._book.let_go(claim)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a source's answer brings about, the others are read on
            return await self._failed(claim, "source_failed", type(error).__name__, None)
        finally:
            self.reading -= 1

    async def _while_claimed(self, claim: Claim) -> Outcome:
        work = asyncio.create_task(self._pass(claim))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=LEASE_S / 4)
                if not work.done():
                    await self._book.renew(claim)
            return await work
        finally:
            await end_tasks([work])

    async def _pass(self, claim: Claim) -> Outcome:
        # What is read is as old as the beginning of the pass: a page may have changed since it was read.
        begun_at = self._clock()
        source = self._open(claim.config)
        try:
            reading = await source.read(claim.mark)
            done, ending = await self._keep(claim, reading) if reading else (Outcome(claim.config.name), None)
        finally:
            await source.aclose()
        wait_s = wait_after_success_s(claim.config.every_s, self._chance())
        await self._book.read(claim, begun_at, ending, wait_s)
        if done.written or done.retired:
            _log.info("listings changed", source=done.source, written=done.written, retired=done.retired)
        return done

    async def _keep(self, claim: Claim, reading: Reading) -> tuple[Outcome, Ending]:
        seen, written = Seen(), 0
        async with aclosing(reading.pages) as pages:
            async for page in pages:
                names, changed = await self._listings.keep(claim, page)
                seen.add(names)
                written += changed
        ending = reading.ending()
        retired = await self._listings.retire(claim, seen) if ending.whole else 0
        return Outcome(claim.config.name, len(seen), written, retired), ending

    async def _failed(self, claim: Claim, code: str, reason: str, retry_after_s: float | None) -> Outcome:
        wait_s = wait_after_failure_s(claim.failures, retry_after_s, self._chance())
        said = reason.replace(claim.config.secret, "***") if claim.config.secret else reason
        await self._book.failed(claim, code, said, wait_s)
        if not claim.failures:
            _log.warning("source cannot be read", source=claim.config.name, code=code)
        return Outcome(claim.config.name, error=code)
