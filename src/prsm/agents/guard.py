"""Screening on the answer path: what came in before a model reads it, what a model says before its caller does.

Nothing passes unscreened: an answer is looked at whole; of a stream, at most as much as the policies allow is shown
before it was looked at, and its end is not given before all of it was.
"""

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from prsm.agents.call import Choice, Delta, Target
from prsm.agents.plan import Plan
from prsm.agents.routers.roster import served_model
from prsm.agents.texts import Cuts, called, choices_without, read_texts, said_texts, tools_offered, unescaped, without
from prsm.safety.policy import (
    CLEAR,
    Action,
    Direction,
    Policy,
    Verdict,
    beyond,
    joined,
    judge,
    redacts,
    stream_lag_chars,
)
from prsm.safety.policy_book import InForce, PolicyBook
from prsm.safety.screening import Screening, Subject
from prsm.safety.seams import Span

LOOK_BACK_CHARS = 256
"""What was said before belongs to what is looked at in a stream: a sentence may turn at its end."""
_ESCAPED_CHARS = 6
"""Of what tools are asked, which is JSON, a character may take so many."""
_ASKED = "asked"
_Place = tuple[int, str]
"""Of which choice, and which field of it."""


class Guard:
    """Screens the requests and answers of one node."""

    def __init__(self, screening: Screening, book: PolicyBook) -> None:
        self._screening = screening
        self.book = book

    @property
    def name(self) -> str:
        """Which detectors look, for receipts."""
        return self._screening.name

    def in_force(self, plan: Plan, target: Target) -> InForce:
        """The policies for what ``target`` reads and says of this request."""
        return self.book.in_force(plan.ask.caller.api_key_id, target.name, served_model(target))

    async def request(self, plan: Plan) -> Plan:
        """The plan as it may be carried out: without candidates whose policies block it, and redacted.

        Raises Blocked where nobody is left, DetectorAway.
        """
        ask = plan.ask
        texts = read_texts(ask.call)
        assessments = await self._screening.assess(texts)
        asked = plan.candidates if self.book.is_by_model else plan.candidates[:1]
        held = {one.target.name: self.in_force(plan, one.target) for one in asked}
        verdicts = {one.digest: judge(one.policies, assessments, Direction.INPUT) for one in held.values()}
        judged = [(one, verdicts[held[one.target.name].digest]) for one in asked]
        able = [one for one in judged if not one[1].blocked]
        call = without(ask.call, _together([verdict.cuts for _, verdict in able], len(texts))) if able else ask.call
        if call is None:  # what is to be cut out stands where nothing can be
            judged, able = [(one, _blocking(verdict)) for one, verdict in able], []
        strictest, verdict = max(able or judged[:1], key=lambda one: one[1].action)
        subject = Subject(ask.call.request_id, ask.caller.account, strictest.target.name)
        policies = held[strictest.target.name].policies
        await self._screening.enforce(verdict, policies, assessments, texts, Direction.INPUT, subject)
        left = plan.candidates if len(able) == len(asked) else [one for one, _ in able]
        return replace(plan, ask=replace(ask, call=call or ask.call), candidates=left, read=verdict)

    async def answer(self, plan: Plan, target: Target, choices: list[Choice]) -> tuple[list[Choice], Verdict]:
        """An answer as it may be shown, and what was found. Raises Blocked, DetectorAway."""
        offered = tools_offered(plan.ask.call)
        texts = said_texts(choices, offered)
        policies = self.in_force(plan, target).policies
        verdict = await self._screening.check(texts, policies, Direction.OUTPUT, _subject(plan, target))
        return (choices_without(choices, verdict.cuts, offered) if verdict.cuts else choices), verdict

    def is_ruled_alike(self, plan: Plan, one: Target, other: Target) -> bool:
        """Whether the same policies are in force for both."""
        return self.in_force(plan, one).digest == self.in_force(plan, other).digest

    def holds_back(self, plan: Plan, target: Target) -> bool:
        """Whether a stream of ``target`` is not shown before it is whole: its policies may cut something out of it."""
        return redacts(self.in_force(plan, target).policies, Direction.OUTPUT)

    def stream(self, plan: Plan, target: Target) -> "StreamGuard":
        """What screens one stream of ``target``."""
        policies = self.in_force(plan, target).policies
        return StreamGuard(self._screening, policies, _subject(plan, target), tools_offered(plan.ask.call))


class StreamGuard:
    """Looks at one stream as it goes by. Raises Blocked where it turns, DetectorAway where nobody can look."""

    __slots__ = ("_lag_chars", "_offered", "_policies", "_recent", "_screening", "_subject", "_unseen", "verdict")

    def __init__(
        self, screening: Screening, policies: Sequence[Policy], subject: Subject, offered: Collection[str] = ()
    ) -> None:
        """``offered`` are names of tools that were screened with the request."""
        self._screening = screening
        self._offered = offered
        self._policies = policies
        self._subject = subject
        self._lag_chars = stream_lag_chars(policies)
        self._recent: dict[_Place, str] = {}
        self._unseen: dict[_Place, int] = {}
        self.verdict = CLEAR

    async def look(self, deltas: Sequence[Delta]) -> None:
        """Take the next pieces before they are shown; they wait while too much has not been looked at."""
        for delta in deltas:
            for at, text in _said(delta, self._offered):
                self._recent[at] = self._recent.get(at, "") + text
                self._unseen[at] = self._unseen.get(at, 0) + len(text)
        if sum(self._unseen.values()) > self._lag_chars:
            await self.settle()

    async def settle(self) -> None:
        """Look at what has not been looked at; what was found before is not told of again."""
        if not self._unseen:
            return
        texts = [_read(at, self._recent[at][-(_look_back_chars(at) + new) :]) for at, new in self._unseen.items()]
        assessments = await self._screening.assess(texts)
        verdict = judge(self._policies, assessments, Direction.OUTPUT)
        for at in self._unseen:
            self._recent[at] = self._recent[at][-_look_back_chars(at) :]
        self._unseen = {}
        new = beyond(self.verdict, verdict)
        self.verdict = joined(self.verdict, verdict)
        if new is not CLEAR or verdict is CLEAR:
            await self._screening.enforce(new, self._policies, assessments, texts, Direction.OUTPUT, self._subject)


def _subject(plan: Plan, target: Target) -> Subject:
    return Subject(plan.ask.call.request_id, plan.ask.caller.account, target.name)


def _said(delta: Delta, offered: Collection[str]) -> list[tuple[_Place, str]]:
    said = [("content", delta.content), ("reasoning", delta.reasoning), ("refusal", delta.refusal)]
    for fragment in delta.tool_calls or ():
        place = fragment.get("index", 0)
        name, asked = called(fragment, offered)
        said += [(f"tool {place}", name), (f"{_ASKED} {place}", asked)]
    return [((delta.index, field), text) for field, text in said if text]


def _read(at: _Place, text: str) -> str:
    return unescaped(text) if at[1].startswith(_ASKED) else text


def _look_back_chars(at: _Place) -> int:
    return LOOK_BACK_CHARS * (_ESCAPED_CHARS if at[1].startswith(_ASKED) else 1)


def _together(cuts: Sequence[Cuts], texts: int) -> list[tuple[Span, ...]]:
    """The union of what several verdicts cut out of each text."""
    return [tuple({span for cut in cuts if cut for span in cut[index]}) for index in range(texts)]


def _blocking(verdict: Verdict) -> Verdict:
    found = [
        replace(one, action=max(one.action, Action.BLOCK)) for one in verdict.findings if one.action is Action.REDACT
    ]
    return replace(verdict, action=Action.BLOCK, findings=tuple(found), cuts=())
