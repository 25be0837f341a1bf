"""A text before a policy: assessed by the detectors, judged by the policies in force, and what was met recorded.

Fails closed: where a detector is away nothing passes. What was assessed lately is remembered by a keyed digest, so
that a conversation's history is not looked at anew with each turn.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

from msgspec import Struct

from prsm.core.errors import InvalidRequest
from prsm.safety.gathering import Assess
from prsm.safety.policy import Action, Direction, Policy, Verdict, judge, refusal
from prsm.safety.seams import Assessment, Category
from prsm.safety.threat import Event

Record = Callable[[UUID, str, str, Direction, Verdict, Sequence[str]], Awaitable[None]]
Note = Callable[[str, Event], None]
Count = Callable[[Direction, str, int], None]
"""Hears of texts that were screened: how many, and the action they met."""

MAX_NEW_CHARS: Final = 400_000
"""Characters of one call that were not looked at lately: of English some 90,000 tokens, which take a core 14 s.

A conversation grows beyond it, since what came before is remembered.
"""
_NEAR: Final = 0.6
"""A probability above this share of a threshold is near it."""


class Subject(Struct, frozen=True):
    """Whose text it is: the request, the account that pays, and the model it goes to or comes from."""

    request_id: UUID
    account: str
    model: str


class Screening:
    """Checks texts. ``name`` stands in receipts and says which detectors, of which version, looked.

    What was found in the last ``remember`` texts is remembered.
    """

    def __init__(
        self, name: str, assess: Assess, record: Record, note: Note, count: Count, remember: int = 20_000
    ) -> None:
        self.name = name
        self._assess = assess
        self._record = record
        self._note = note
        self._count = count
        self._remember = remember
        self._key = os.urandom(32)
        self._remembered: OrderedDict[bytes, Assessment] = OrderedDict()

    async def assess(self, texts: Sequence[str]) -> list[Assessment]:
        """One assessment a text.

        Raises DetectorAway where one cannot be had, InvalidRequest for more than ``MAX_NEW_CHARS`` to look at.
        """
        keys = [self._digest(text) for text in texts]
        # Copied before waiting: what others ask meanwhile may push it out.
        found = {key: self._remembered[key] for key in keys if key in self._remembered}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        _refuse_too_much(new.values())
        found.update(zip(new, await self._assess(list(new.values())) if new else (), strict=True))
        for key, assessment in found.items():
            self._remembered[key] = assessment
            self._remembered.move_to_end(key)
        while len(self._remembered) > self._remember:
            self._remembered.popitem(last=False)
        return [found[key] for key in keys]

    async def enforce(
        self,
        verdict: Verdict,
        policies: Sequence[Policy],
        assessments: Sequence[Assessment],
        texts: Sequence[str],
        direction: Direction,
        subject: Subject,
    ) -> Verdict:
        """Do what a verdict asks beside the text itself: count, record, suspect. Raises Blocked where it blocks."""
        self._count(direction, verdict.action.name.lower(), len(texts))
        if verdict.action >= Action.REVIEW:
            await self._record(subject.request_id, subject.account, subject.model, direction, verdict, texts)
        if direction is Direction.INPUT:  # what a model says is not its caller's doing
            self._suspect(verdict, policies, assessments, subject.account)
        if verdict.blocked:
            raise refusal(verdict, direction)
        return verdict

    async def check(
        self, texts: Sequence[str], policies: Sequence[Policy], direction: Direction, subject: Subject
    ) -> Verdict:
        """Assess, judge and enforce. Raises Blocked, DetectorAway."""
        assessments = await self.assess(texts)
        verdict = judge(policies, assessments, direction)
        return await self.enforce(verdict, policies, assessments, texts, direction, subject)

    def _suspect(
        self, verdict: Verdict, policies: Sequence[Policy], assessments: Sequence[Assessment], account: str
    ) -> None:
        if verdict.action is Action.ESCALATE:
            self._note(account, Event.ESCALATED)
        elif verdict.action is Action.BLOCK:
            self._note(account, Event.BLOCKED)
        elif _is_near(policies, assessments):
            self._note(account, Event.NEAR)

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=16).digest()


def _refuse_too_much(texts: Iterable[str]) -> None:
    chars = sum(map(len, texts))
    if chars > MAX_NEW_CHARS:
        raise InvalidRequest(
            f"These texts have {chars:,} characters that were not screened lately; the limit is {MAX_NEW_CHARS:,}.",
            code="too_much_to_screen",
            remedy="Send them in several requests: what this node has screened lately does not count.",
        )


def _is_near(policies: Sequence[Policy], assessments: Sequence[Assessment]) -> bool:
    """Whether some text comes near what would be blocked; what is only noted, reviewed or cut out is no probing."""
    lowest: dict[Category, float] = {}
    for policy in policies:
        for rule in policy.rules:
            if rule.action in ("block", "escalate") and rule.direction != "output":
                lowest[rule.category] = min(lowest.get(rule.category, 1.0), rule.threshold)
    return any(
        assessment.scores.get(category, 0.0) >= _NEAR * threshold
        for assessment in assessments
        for category, threshold in lowest.items()
    )
