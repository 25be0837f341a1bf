"""An answer while it streams: looked at as it goes by, taken over where a model breaks off, charged however it ends."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from prsm.agents.answer_digest import AnswerAssembler
from prsm.agents.billing import Bill
from prsm.agents.call import Completion, Delta, Target, Usage
from prsm.agents.guard import StreamGuard
from prsm.agents.plan import Ask, PathLimits, Plan, estimated_usage
from prsm.agents.response_cache import Found
from prsm.agents.resuming import Chain, delivered_usage, is_of_use_in_part, joined_usage, may_be_resumed
from prsm.agents.routers.model_router import Candidate
from prsm.agents.seams import UpstreamError
from prsm.core.errors import Kind, PrsmError
from prsm.safety.policy import Blocked, Verdict
from prsm.safety.seams import DetectorAway
from prsm.tokenomics.receipts import Segment

Stream = AsyncGenerator[list[Delta], None]
Render = Callable[[Completion, Bill], bytes]
"""Makes the response's bytes; called once, before the capture that may keep them."""


class Ending(Struct, frozen=True):
    """How an answer ended; ``charged`` stands instead of what an upstream metered, ``segments`` as in Metered.

    ``again`` is the earlier answer that was given again. ``said`` is what its screening found, None where that is
    still to be done.
    """

    completed: bool = True
    charged: Usage | None = None
    segments: tuple[Segment, ...] = ()
    again: Found | None = None
    said: Verdict | None = None


WHOLE: Final = Ending()


class StreamPath(Protocol):
    """What a stream asks of the path that opened it."""

    limits: PathLimits

    async def go_on(
        self, plan: Plan, broken: Sequence[Target], said: str, deadline_s: float
    ) -> tuple[Target, Stream, list[Delta]] | None:
        """Another instance that goes on with ``said``, and its first piece; None where none does."""
        ...

    async def finish_stream(
        self,
        plan: Plan,
        candidate: Candidate,
        completion: Completion,
        render: Render,
        ending: Ending,
        guard: StreamGuard | None,
    ) -> tuple[bytes, Bill]:
        """Look at what was not looked at, and capture what was delivered."""
        ...

    def let_go(self, plan: Plan) -> None:
        """It ended with nothing to charge for."""
        ...

    def left(self, ask: Ask, target: Target) -> None:
        """The client did not wait for the end of what ``target`` said."""
        ...

    def broke_off(self, ask: Ask, target: Target) -> None:
        """``target`` broke it off."""
        ...

    def was_broken_off(self, target: Target, *, resumed: bool) -> None:
        """What became of the stream that ``target`` broke off."""
        ...


class AnswerStream:
    """A stream being answered: ``next`` until it gives None, then ``finish``; or ``leave`` when it ends before.

    ``candidate`` is who began, and whose prices are charged whoever goes on.
    """

    __slots__ = (
        "_again", "_assembler", "_broken", "_chain", "_deadline_s", "_elsewhere_s", "_ended", "_first", "_given_s",
        "_guard", "_path", "_plan", "_said", "_stream", "candidate",
    )  # fmt: skip

    def __init__(
        self,
        path: StreamPath,
        plan: Plan,
        candidate: Candidate,
        stream: Stream,
        first: list[Delta],
        deadline_s: float,
        again: Found | None = None,
        *,
        guard: StreamGuard | None = None,
        said: Verdict | None = None,
    ) -> None:
        """``guard`` looks at it while it goes by; ``said`` is what was found where all of it was looked at before."""
        self._guard = guard
        self._said = said
        self._path = path
        self._plan = plan
        self._stream = stream
        self._first: list[Delta] | None = first
        self._assembler = AnswerAssembler(path.limits.answer_bytes)
        self._ended = False
        self._broken = False
        self._chain: Chain | None = None
        self._deadline_s = deadline_s
        self._given_s = self._elsewhere_s = 0.0
        self._again = again
        self.candidate = candidate

    async def next(self) -> list[Delta] | None:
        """The pieces that came together, or None at the end; where a model breaks off, another may go on unseen.

        Where none does, what the model failed with is raised: ``leave`` then charges for what was delivered. So is
        ClientTooSlow, after which ``leave`` charges the input too. Any other error is raised, and lets the hold go.
        """
        try:
            while True:  # not in a coroutine of its own: streams rest here by the thousand
                try:
                    if self._first is not None:
                        deltas, self._first = self._first, None
                    else:
                        self._elsewhere_s += time.monotonic() - self._given_s
                        deltas = await anext(self._stream, None)
                    if deltas is not None and self._chain is not None:
                        deltas = self._chain.seam.join(deltas)
                    self._given_s = time.monotonic()
                    if self._given_s > self._deadline_s:
                        raise too_long(self._path.limits)
                except UpstreamError:
                    if not self._assembler.has_ended(self._plan.ask.choices):
                        if self._was_read_too_slowly():
                            raise ClientTooSlow(self._path.limits) from None
                        if not await self._go_on():
                            raise
                        continue
                    deltas = None  # what broke came after the end
                if deltas is None:
                    if self._guard:
                        await self._guard.settle()
                    return None
                if self._guard:
                    await self._guard.look(deltas)
                self._assembler.add(deltas)
                return deltas
        except (Blocked, DetectorAway):
            self._broken = True  # what was shown is charged; the model has not failed
            raise
        except ClientTooSlow:
            raise
        except Exception:
            if not self._broken:
                self._path.broke_off(self._plan.ask, self._at())
                await self._end()
            raise

    async def finish(self, render: Render) -> tuple[bytes, Bill]:
        """Screen what was said, capture and sign; answers the closing bytes that ``render`` makes."""
        self._ended = True
        completion = self._assembler.completion()
        charged = None
        if self._chain:
            charged = joined_usage(self._plan.ask, completion.choices, completion.usage, self._chain.said)
        ending = self._ending(completion, charged, completed=True)
        return await self._path.finish_stream(self._plan, self.candidate, completion, render, ending, self._guard)

    async def leave(self, render: Render, *, broken: bool = False) -> bytes | None:
        """The client has gone: charge for what was delivered and end the upstream call. Does nothing after the end.

        Where the model broke off, or what it sent is ``broken``, only the output is charged, and only if a part of it
        is of use. ``render`` makes the end, which says that the answer is not whole; it is answered, or None where
        nothing is charged.
        """
        if self._ended:
            return None
        completion, ask = self._assembler.completion(), self._plan.ask
        if self._broken or broken:
            worth = is_of_use_in_part(ask, completion.choices)
            charged = delivered_usage(ask, completion.choices)
        else:
            worth = any(c.content or c.tool_calls or c.reasoning or c.refusal for c in completion.choices)
            charged = self._estimated(completion) if self._chain or self._again else None
            if worth:
                self._path.left(ask, self.candidate.target)
        if not worth:
            await self._end()
            return None
        self._ended = True
        ending = self._ending(completion, charged, completed=False)
        try:
            body, _ = await self._path.finish_stream(
                self._plan, self.candidate, completion, render, ending, self._guard
            )
        finally:
            await self._stream.aclose()
        return body

    def _estimated(self, completion: Completion) -> Usage:
        """What was delivered, by the node's estimate; of an answer given again never more than all of it comes to."""
        usage = estimated_usage(self._plan.ask, completion.choices)
        whole = self._again and self._again.completion.usage
        return replace(whole, output_tokens=min(whole.output_tokens, usage.output_tokens)) if whole else usage

    def _was_read_too_slowly(self) -> bool:
        """Whether the time is over, and would not be had the model been asked for each piece at once."""
        now_s = time.monotonic()
        return now_s - self._elsewhere_s <= self._deadline_s < now_s

    async def _go_on(self) -> bool:
        """Whether another instance has taken over from the one that broke off."""
        self._broken = True
        at, choices = self._at(), self._assembler.choices()
        self._path.broke_off(self._plan.ask, at)
        await self._stream.aclose()
        resumed = False
        if may_be_resumed(self._plan.ask, choices):
            said = choices[0].content or ""
            chain = self._chain or Chain(at)
            heir = await self._path.go_on(self._plan, chain.targets, said, self._deadline_s)
            if heir is not None:
                target, self._stream, self._first = heir
                chain.pass_on(said, target)
                self._chain, self._broken, resumed = chain, False, True
        self._path.was_broken_off(at, resumed=resumed)
        return resumed

    def _at(self) -> Target:
        """Who is at it now."""
        return self._chain.targets[-1] if self._chain else self.candidate.target

    def _ending(self, completion: Completion, charged: Usage | None, *, completed: bool) -> Ending:
        segments = self._chain.segments(charged.output_tokens) if self._chain and charged else ()
        return Ending(completed, charged, segments, self._again, self._said)

    async def _end(self) -> None:
        self._ended = True
        self._path.let_go(self._plan)
        await self._stream.aclose()


class ClientTooSlow(PrsmError):
    """The time of a request is over, and it was not the model that took it."""

    kind = Kind.CONFLICT
    code = "client_too_slow"

    def __init__(self, limits: PathLimits) -> None:
        super().__init__(
            f"The answer was not read to its end within {limits.request_timeout_s} seconds.",
            remedy="Read faster than that, or ask for a shorter answer.",
        )


def too_long(limits: PathLimits) -> UpstreamError:
    """An answer has taken more time than a request may."""
    return UpstreamError(
        f"The answer took longer than {limits.request_timeout_s} seconds.",
        retryable=False,
        kind=Kind.TIMEOUT,
        code="upstream_timeout",
    )
