"""The answer path: rank, quote, hold, screen, execute, screen, capture and split, receipt. A plain chain in that order.

The caller has been authenticated at the edge. Whatever ends a request early lets its hold go; a client that leaves
mid-stream pays for what it got. Nothing here knows a wire format.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import structlog

from prsm.agents.answer_digest import AnswerAssembler, output_digest, vectors_digest
from prsm.agents.attempts import Attempts
from prsm.agents.billing import Bill, Biller, Metered
from prsm.agents.call import Completion, Delta, EmbedCall, Embeddings, Target
from prsm.agents.plan import Ask, PathLimits, Plan, estimated_usage, make_plan, question_of, read_texts, said_texts
from prsm.agents.routers.model_router import Candidate, Domains, Roster, rank
from prsm.agents.seams import Executor, Screen, UpstreamError
from prsm.core.errors import Kind
from prsm.monitoring.metrics import Metrics
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.orders import HoldOrder

Answer = TypeVar("Answer")
Stream = AsyncGenerator[list[Delta], None]
Render = Callable[[Completion, Bill], bytes]
"""Makes the response's bytes; called once, before the capture that may keep them."""

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
        domains: Domains,
        metrics: Metrics,
        limits: PathLimits,
        screens: Sequence[Screen] = (),
    ) -> None:
        self._ledger = ledger
        self._executors = executors
        self._attempts = attempts
        self._biller = biller
        self._domains = domains
        self._metrics = metrics
        self._screens = screens
        self._settling: set[asyncio.Task[Any]] = set()
        self.limits = limits
        self.models = Roster(MappingProxyType({}), MappingProxyType({}))

    async def close(self) -> None:
        """Wait for the captures of streams whose clients have left."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def chat(self, ask: Ask, render: Render) -> tuple[bytes, Bill]:
        """Answer whole: the rendered response and its bill. Raises PrsmError; nothing is charged then."""

        async def run(target: Target) -> Completion:
            return await self._executors[target.kind].chat(target, plan.fitted(target))

        plan = await self._begin(ask)
        try:
            candidate, completion = await self._attempts.first_answer(plan, run)
            return await self._finish(plan, candidate, completion, render, completed=True)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise

    async def chat_stream(self, ask: Ask) -> "AnswerStream":
        """Answer as it comes: returns once the first piece is there, so that until then another model can step in."""

        async def run(target: Target) -> tuple[Stream, list[Delta]]:
            stream = cast("Stream", self._executors[target.kind].chat_stream(target, plan.fitted(target)))
            try:
                first = await anext(stream, None)
                if first is None:
                    raise UpstreamError("The model's stream was empty.", retryable=True, code="empty_stream")
            except BaseException:
                await stream.aclose()
                raise
            return stream, first

        plan = await self._begin(ask)
        deadline_s = time.monotonic() + self.limits.request_timeout_s
        try:
            candidate, (stream, first) = await self._attempts.first_answer(plan, run)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        return AnswerStream(self, plan, candidate, stream, first, deadline_s)

    async def embed(self, ask: Ask, render: Callable[[Embeddings, Bill], bytes]) -> tuple[bytes, Bill]:
        """Embed texts over the same path."""
        call = cast("EmbedCall", ask.call)

        async def run(target: Target) -> Embeddings:
            return await self._executors[target.kind].embed(target, call)

        plan = await self._begin(ask)
        try:
            candidate, embeddings = await self._attempts.first_answer(plan, run)
            metered = Metered(embeddings.usage, "upstream", vectors_digest(embeddings.vectors))
            bill = self._biller.bill(plan, candidate, metered)
            body = render(embeddings, bill)
            await self._capture(ask, bill, body)
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        return body, bill

    async def finish_stream(
        self, plan: Plan, candidate: Candidate, completion: Completion, render: Render, *, completed: bool
    ) -> tuple[bytes, Bill]:
        """Capture what a stream delivered, even while the task that served it is being cancelled."""

        async def settle() -> tuple[bytes, Bill]:
            try:
                return await self._finish(plan, candidate, completion, render, completed=completed)
            except BaseException:
                self._ledger.release_later(plan.ask.call.request_id)
                raise

        task = asyncio.create_task(settle())
        self._settling.add(task)
        task.add_done_callback(self._settled)
        return await asyncio.shield(task)

    def let_go(self, plan: Plan, target: Target, *, failed: bool) -> None:
        """A stream ended with nothing to charge for; ``failed`` when the model broke it off."""
        if failed:
            self._attempts.failed_midway(target)
        self._ledger.release_later(plan.ask.call.request_id)

    async def _begin(self, ask: Ask) -> Plan:
        """Rank the models, quote for the dearest that may run, hold, and screen what came in."""
        question = question_of(ask)
        candidates = rank(ask.call.model, question, self.models, self._domains, self._attempts.health)
        plan = make_plan(ask, candidates, self.limits)
        account_id = await self._ledger.account_id(ask.caller.account)
        await self._ledger.hold(HoldOrder(ask.call.request_id, account_id, ask.caller.api_key_id, plan.held_micro))
        try:
            if self._screens:
                await self._screen(read_texts(ask.call))
        except BaseException:
            self._ledger.release_later(ask.call.request_id)
            raise
        return plan

    async def _screen(self, texts: Sequence[str]) -> None:
        for screen in self._screens:
            await screen(texts)

    async def _finish(
        self, plan: Plan, candidate: Candidate, completion: Completion, render: Render, *, completed: bool
    ) -> tuple[bytes, Bill]:
        if self._screens:
            await self._screen(said_texts(completion.choices))
        usage = completion.usage
        metered = Metered(
            usage or estimated_usage(plan.ask, completion.choices),
            "upstream" if usage else "node",
            output_digest(completion.choices),
            completed,
        )
        bill = self._biller.bill(plan, candidate, metered)
        body = render(completion, bill)
        await self._capture(plan.ask, bill, body, completion if completed else None)
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


class AnswerStream:
    """A stream being answered: ``next`` until it gives None, then ``finish``; or ``leave`` when the client has gone."""

    __slots__ = ("_assembler", "_deadline_s", "_ended", "_first", "_path", "_plan", "_stream", "candidate")

    def __init__(
        self,
        path: AnswerPath,
        plan: Plan,
        candidate: Candidate,
        stream: Stream,
        first: list[Delta],
        deadline_s: float,
    ) -> None:
        self._path = path
        self._plan = plan
        self._stream = stream
        self._first: list[Delta] | None = first
        self._assembler = AnswerAssembler(path.limits.answer_bytes)
        self._ended = False
        self._deadline_s = deadline_s
        self.candidate = candidate

    async def next(self) -> list[Delta] | None:
        """The pieces that came together, or None at the end. Whatever the model fails with is raised: no charge."""
        try:
            if self._first is not None:
                deltas, self._first = self._first, None
            else:
                deltas = await anext(self._stream, None)
            if deltas is not None:
                self._assembler.add(deltas)
                if time.monotonic() > self._deadline_s:
                    raise _too_long(self._path.limits)
        except Exception:
            await self._end(failed=True)
            raise
        return deltas

    async def finish(self, render: Render) -> tuple[bytes, Bill]:
        """Screen what was said, capture and sign; answers the closing bytes that ``render`` makes."""
        self._ended = True
        return await self._path.finish_stream(
            self._plan, self.candidate, self._assembler.completion(), render, completed=True
        )

    async def leave(self, render: Render) -> None:
        """The client has gone: charge for what was delivered and end the upstream call. Does nothing after the end.

        ``render`` makes the end that a replay of the request shows: the answer is not whole.
        """
        if self._ended:
            return
        completion = self._assembler.completion()
        if not any(c.content or c.tool_calls or c.reasoning or c.refusal for c in completion.choices):
            await self._end(failed=False)
            return
        self._ended = True
        try:
            await self._path.finish_stream(self._plan, self.candidate, completion, render, completed=False)
        finally:
            await self._stream.aclose()

    async def _end(self, *, failed: bool) -> None:
        self._ended = True
        self._path.let_go(self._plan, self.candidate.target, failed=failed)
        await self._stream.aclose()


def _too_long(limits: PathLimits) -> UpstreamError:
    return UpstreamError(
        f"The answer took longer than {limits.request_timeout_s} seconds.",
        retryable=False,
        kind=Kind.TIMEOUT,
        code="upstream_timeout",
    )
