"""All parts of learning in one place, as a node has them: what the router reads, what is observed, what is said."""

import contextlib
from dataclasses import dataclass, field

from prsm.agents.learning.board import Board
from prsm.agents.learning.feedback import FeedbackBook
from prsm.agents.learning.learner import BATCH, Learner
from prsm.agents.learning.observation import Observe, Observer, unobserved
from prsm.agents.learning.prompts import PromptReader
from prsm.core.database import UNREACHABLE

_MAX_PASSES = 10


@dataclass(slots=True)
class Learning:
    """``version`` is that of the fitted state on the board; without ``enabled`` nothing is learnt, only stored."""

    prompts: PromptReader
    board: Board
    observer: Observer
    feedback: FeedbackBook
    learner: Learner
    enabled: bool = True
    version: int = field(default=0, init=False)

    @property
    def observe(self) -> Observe:
        """What the answer path tells of its answers."""
        return self.observer.answered if self.enabled else unobserved

    async def refresh(self) -> None:
        """Put the newest fitted state on the board, whichever worker has learnt it."""
        await self._take(self.version)

    async def age(self) -> None:
        """Put it there again as it is worth now: evidence fades also while nothing is learnt."""
        await self._take(-1)

    async def learn(self) -> int:
        """Write what was observed and learn from it; answers how many outcomes. 0 when another worker is at it."""
        if not self.enabled:
            return 0
        await self.observer.write()
        learnt = 0
        for _ in range(_MAX_PASSES):
            found = await self.learner.learn()
            learnt += found
            if found < BATCH // 2:  # what is left can wait for the next time
                break
        if learnt:
            await self.refresh()
        return learnt

    async def close(self) -> None:
        """Write what was observed last, where the database is there, and read no more."""
        with contextlib.suppress(*UNREACHABLE):
            await self.observer.write()
        self.prompts.close()

    async def _take(self, after: int) -> None:
        found = await self.learner.latest(after)
        if found:
            self.version = found.number
            self.board.take(found.fitted)
