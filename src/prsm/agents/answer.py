"""The answer path: rank, quote, hold, screen, execute, screen, capture and split, receipt. A plain chain in that order.

The caller has been authenticated at the edge. Whatever ends a request early lets its hold go; a client that leaves
mid-stream pays for what it got, and one whose model breaks off, where no other instance can go on, for what was
delivered without the input. Nothing here knows a wire format.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import structlog
from msgspec.structs import replace

from prsm.agents.answer_digest import AnswerAssembler, output_digest, vectors_digest
from prsm.agents.answer_stream import WHOLE, AnswerStream, Ending, Render, Stream, too_long
from prsm.agents.attempts import Attempts
from prsm.agents.billing import Bill, Biller, Metered
from prsm.agents.call import ChatCall, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.guard import Guard, StreamGuard
from prsm.agents.learning.observation import Observe, unobserved
from prsm.agents.learning.outcomes import Ended
from prsm.agents.plan import Ask, PathLimits, Plan, estimated_usage, make_plan, question_of
from prsm.agents.response_cache import Found, ResponseCache, replay
from prsm.agents.resuming import continued, heirs, said_tokens
from prsm.agents.routers.model_router import Candidate, Question, Roster, Router
from prsm.agents.routers.refusals import UNKNOWN
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.errors import PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.safety.policy import Blocked, Verdict
from prsm.safety.seams import DetectorAway
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.receipts import Screened

Answer = TypeVar("Answer")
Answered = Callable[[Ask, Target, Completion], None]
"""Hears of an answer that was given and charged; never waits, never raises."""

_log: Any = structlog.get_logger("answer")


class AnswerPath:
    """Carries requests from the hold to the receipt. Its parts are made in ``node/``; ``models`` may be replaced."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        executors: Mapping[str, Executor],
        attempts: Attempts,
        biller: Biller,
        router: Router,
        metrics: Metrics,
        limits: PathLimits,
        guard: Guard | None = None,
        observe: Observe = unobserved,
        answered: Answered | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        """Without a ``guard`` nothing is screened, and receipts say so; without a ``cache``, every answer is a model's.

        ``answered`` is told of whole answers by one model.
        """
        self._ledger = ledger
        self._executors = executors
        self._attempts = attempts
        self._biller = biller
        self.router = router
        self._metrics = metrics
        self._guard = guard
        self._observe = observe
        self._answered = answered
        self._cache = cache
        self._settling: set[asyncio.Task[Any]] = set()
        self.limits = limits
        self.look_again: Callable[[], Awaitable[object]] | None = None
        """Reads the models anew: somebody asks for one that is not among them, and another worker may have added it."""

    @property
    def models(self) -> Roster:
        """What may be asked."""
        return self.router.models

    @models.setter
    def models(self, models: Roster) -> None:
        self.router.models = models

    async def close(self) -> None:
        """Wait for the captures of streams whose clients have left."""
        await self._attempts.close()
        await asyncio.gather(*self._settling, return_exceptions=True)
        if self._cache:
            await self._cache.close()

    async def sweep(self) -> int:
        """Forget what is kept of answers that may not be given again any more; answers how many."""
        return await self._cache.sweep() if self._cache else 0

    async def candidates(self, asked: str, question: Question) -> list[Candidate]:
        """Who would answer such a question now, best first. Raises PrsmError when nobody can."""
        try:
            return self.router.named(asked, question) or await self.router.rank(asked, question)
        except PrsmError as error:
            if error.code != UNKNOWN or self.look_again is None:
                raise
        await self.look_again()
        return self.router.named(asked, question) or await self.router.rank(asked, question)

    async def chat(self, ask: Ask, render: Render) -> tuple[bytes, Bill]:
        """Answer whole: the rendered response and its bill. Raises PrsmError; nothing is charged then."""

        async def run(target: Target) -> Completion:
            return await self._executors[target.kind].chat(target, plan.fitted(target))

        plan = await self._begin(ask)
        try:
            if self._cache and (again := await self._cache.find(plan)):
                return await self._finish(plan, again.candidate, again.completion, render, Ending(again=again))
            candidate, completion = await self._attempts.first_answer(plan, run)
            return await self._finish(plan, candidate, completion, render)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise

    async def chat_stream(self, ask: Ask) -> AnswerStream:
        """Answer as it comes: returns once the first piece is there, so that until then another model can step in."""

        async def run(target: Target) -> tuple[Stream, list[Delta]]:
            return await self._open(target, plan.fitted(target))

        plan = await self._begin(ask)
        deadline_s = time.monotonic() + self.limits.request_timeout_s
        try:
            if self._cache and (again := await self._cache.find(plan)):
                return await self._replayed(plan, again.candidate, again.completion, deadline_s, again)
            candidate, (stream, first) = await self._attempts.first_answer(plan, run, _close)
            if self._guard and self._guard.holds_back(plan, candidate.target):
                whole = await self._gather(stream, first, deadline_s)
                return await self._replayed(plan, candidate, whole, deadline_s)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        guard = self._guard and self._guard.stream(plan, candidate.target)
        return AnswerStream(self, plan, candidate, stream, first, deadline_s, guard=guard)

    async def go_on(
        self, plan: Plan, broken: Sequence[Target], said: str, deadline_s: float
    ) -> tuple[Target, Stream, list[Delta]] | None:
        """Have another instance go on with ``said``, which the last of ``broken`` broke off; None where none does."""
        spent = said_tokens(said)
        first = plan.fitted(broken[0])
        able = {
            heir: call
            for heir in heirs(plan, broken)
            if (not self._guard or self._guard.is_ruled_alike(plan, broken[0], heir.target))
            and (call := continued(first, heir.target, said, spent))
        }
        calls = {heir.target.name: call for heir, call in able.items()}

        async def run(target: Target) -> tuple[Stream, list[Delta]]:
            return await self._open(target, calls[target.name])

        if not able:
            return None
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                heir, (stream, deltas) = await self._attempts.first_answer(replace(plan, candidates=list(able)), run)
        except (PrsmError, TimeoutError):
            return None
        return heir.target, stream, deltas

    async def embed(self, ask: Ask, render: Callable[[Embeddings, Bill], bytes]) -> tuple[bytes, Bill]:
        """Embed texts over the same path."""

        async def run(target: Target) -> Embeddings:
            return await self._executors[target.kind].embed(target, cast("EmbedCall", plan.ask.call))

        plan = await self._begin(ask)
        try:
            candidate, embeddings = await self._attempts.first_answer(plan, run)
            metered = Metered(embeddings.usage, "upstream", vectors_digest(embeddings.vectors))
            if self._guard:
                policy = self._guard.in_force(plan, candidate.target).digest
                metered = replace(metered, screened=_screened(policy, plan.read, None))
            bill = self._biller.bill(plan, candidate, metered)
            body = render(embeddings, bill)
            await self._capture(ask, bill, body)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        return body, bill

    async def finish_stream(
        self,
        plan: Plan,
        candidate: Candidate,
        completion: Completion,
        render: Render,
        ending: Ending,
        guard: StreamGuard | None,
    ) -> tuple[bytes, Bill]:
        """Look at what was not looked at, and capture what was delivered, even while its task is being cancelled."""

        async def settle() -> tuple[bytes, Bill]:
            nonlocal ending
            try:
                if guard:
                    try:
                        await guard.settle()
                    except Blocked:  # it was shown, within what the policies allow
                        pass
                    except DetectorAway:
                        self._metrics.unscreened()
                    ending = replace(ending, said=guard.verdict)
                return await self._finish(plan, candidate, completion, render, ending)
            except BaseException:
                self._ledger.release_later(plan.ask.call.request_id)
                raise

        task = asyncio.create_task(settle())
        self._settling.add(task)
        task.add_done_callback(self._settled)
        return await asyncio.shield(task)

    def let_go(self, plan: Plan) -> None:
        """A stream ended with nothing to charge for."""
        self._ledger.release_later(plan.ask.call.request_id)

    def left(self, ask: Ask, target: Target) -> None:
        """A client did not wait for the end of what ``target`` said."""
        self._observe(ask, target, Ended.LEFT)

    def broke_off(self, ask: Ask, target: Target) -> None:
        """A model broke its stream off."""
        self._attempts.failed_midway(target)
        self._observe(ask, target, Ended.CUT_OFF)

    def was_broken_off(self, target: Target, *, resumed: bool) -> None:
        """What became of the stream that ``target`` broke off."""
        self._metrics.broken_off(target.name, resumed=resumed)

    async def _begin(self, ask: Ask) -> Plan:
        """Rank the models, quote for the dearest that may run, hold, and screen what came in."""
        question = question_of(ask)
        candidates = await self.candidates(ask.call.model, question)
        plan = make_plan(ask, candidates, self.limits)
        account_id = await self._ledger.account_id(ask.caller.account)
        await self._ledger.hold(HoldOrder(ask.call.request_id, account_id, ask.caller.api_key_id, plan.held_micro))
        try:
            if ask.claim:  # after the hold, so that a quote taken is free again by the hold's ending alone
                await ask.claim()
            if self._guard:
                plan = await self._guard.request(plan)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        return plan

    async def _replayed(
        self, plan: Plan, candidate: Candidate, whole: Completion, deadline_s: float, again: Found | None = None
    ) -> AnswerStream:
        """A whole answer as a stream, screened before any of it is shown."""
        said = None
        if self._guard:
            choices, said = await self._guard.answer(plan, candidate.target, whole.choices)
            whole = Completion(choices, whole.usage)
        stream = replay(whole)
        return AnswerStream(self, plan, candidate, stream, await anext(stream), deadline_s, again, said=said)

    async def _gather(self, stream: Stream, first: list[Delta], deadline_s: float) -> Completion:
        assembler = AnswerAssembler(self.limits.answer_bytes)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                assembler.add(first)
                async for deltas in stream:
                    assembler.add(deltas)
        except TimeoutError:
            raise too_long(self.limits) from None
        finally:
            await stream.aclose()
        return assembler.completion()

    async def _open(self, target: Target, call: ChatCall) -> tuple[Stream, list[Delta]]:
        """A stream and its first piece."""
        stream = cast("Stream", self._executors[target.kind].chat_stream(target, call))
        try:
            first = await anext(stream, None)
            if first is None:
                raise UpstreamError("The model's stream was empty.", retryable=True, code="empty_stream")
        except BaseException:
            await stream.aclose()
            raise
        return stream, first

    async def _finish(
        self, plan: Plan, candidate: Candidate, completion: Completion, render: Render, ending: Ending = WHOLE
    ) -> tuple[bytes, Bill]:
        said, screened = ending.said, None
        if self._guard:
            if said is None:
                choices, said = await self._guard.answer(plan, candidate.target, completion.choices)
                completion = Completion(choices, completion.usage)
            screened = _screened(self._guard.in_force(plan, candidate.target).digest, plan.read, said)
        if ending.charged:
            completion = Completion(completion.choices, ending.charged)
        usage = completion.usage
        metered = Metered(
            usage or estimated_usage(plan.ask, completion.choices),
            _metered_by(usage, ending),
            output_digest(completion.choices),
            ending.completed,
            ending.segments,
            ending.again.request_id if ending.again else None,
            screened,
        )
        bill = self._biller.bill(plan, candidate, metered)
        body = render(Completion(completion.choices, bill.usage), bill)
        await self._capture(plan.ask, bill, body, completion if ending.completed else None)
        if ending.completed and not (ending.segments or ending.again):
            self._observe(plan.ask, candidate.target, Ended.WHOLE)
            if self._answered:
                self._answered(plan.ask, candidate.target, completion)
            if self._cache:
                self._cache.keep_later(plan.ask, candidate.target, completion, bill)
        return body, bill

    async def _capture(self, ask: Ask, bill: Bill, body: bytes, whole: Completion | None = None) -> None:
        answer = ask.keep(body) if ask.keep else None
        along = ask.remember(whole) if ask.remember and whole else None
        await self._ledger.capture(bill.request_id, bill.legs, receipt=bill.receipt, answer=answer, along=along)
        self._metrics.charged(
            bill.model, bill.usage.input_tokens, bill.usage.output_tokens, bill.captured_micro, bill.metered_micro
        )

    def _settled(self, task: "asyncio.Task[tuple[bytes, Bill]]") -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("capture failed", error=str(error))


async def _close(answer: tuple[Stream, list[Delta]]) -> None:
    """End a stream that nobody wants any more."""
    await answer[0].aclose()


def _metered_by(usage: Usage | None, ending: Ending) -> str:
    """Who counted the tokens: the node where it charges for a part or nobody else did, else who gave the answer."""
    if ending.charged:
        return "node"
    if ending.again:
        return ending.again.metered_by
    return "upstream" if usage else "node"


def _screened(policy: str, read: Verdict | None, said: Verdict | None) -> Screened:
    """What a receipt says of the screening of both sides."""
    found = {name for verdict in (read, said) if verdict for name in verdict.categories}
    actions = ["" if verdict is None else verdict.action.name.lower() for verdict in (read, said)]
    return Screened(policy, actions[0], actions[1], tuple(sorted(found)))
