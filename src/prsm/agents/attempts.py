"""Trying models until one answers: each candidate in turn, each again as the retry policy allows, through its breaker.

Only what happens before the first byte is tried again, at other instances of the same model before other models.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import structlog

from prsm.agents.call import Target
from prsm.agents.executors.retry import RetryBudget, RetryPolicy, retry_delay_s
from prsm.agents.hedging import Hedge, Hedger
from prsm.agents.learning.observation import Observe, unobserved
from prsm.agents.learning.outcomes import Ended
from prsm.agents.plan import Plan
from prsm.agents.resuming import same_model_first
from prsm.agents.routers.model_router import Candidate
from prsm.agents.seams import UpstreamError
from prsm.core.cancellation import SharedTimeout, end_tasks
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard

T = TypeVar("T")

_RESTING = "model_resting"
_log: Any = structlog.get_logger("answer")


class Attempts:
    """Runs one attempt after another and reports each to breakers and metrics."""

    def __init__(
        self,
        breakers: BreakerBoard,
        metrics: Metrics,
        policy: RetryPolicy,
        *,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        hedger: Hedger | None = None,
        observe: Observe = unobserved,
        draining: Callable[[], bool] = lambda: False,
        providers: BreakerBoard | None = None,
        tripped: Callable[[str], None] = lambda account: None,
    ) -> None:
        """``timeout_s`` bounds all attempts of a request together; ``clock`` is that of ``breakers``.

        Without a ``hedger`` one model is asked at a time. While ``draining``, since the node stops, a request has the
        attempt that it is in, or its first, and no other. ``providers`` are the breakers of all that a provider has;
        ``tripped`` is told of the account whose request opened a breaker.
        """
        self._timeout_s = timeout_s
        self._timeout = SharedTimeout(timeout_s)
        self._clock = clock
        self._breakers = breakers
        self._providers = providers
        self._metrics = metrics
        self._policy = policy
        self._budget = RetryBudget()
        self._hedger = hedger
        self._draining = draining
        self._observe_outcome = observe
        self._tripped = tripped
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until the attempts that lost a race have ended."""
        await asyncio.gather(*self._ending)

    async def first_answer(
        self,
        plan: Plan,
        run: Callable[[Target], Awaitable[T]],
        discard: Callable[[T], Awaitable[None]] | None = None,
    ) -> tuple[Candidate, T]:
        """The first candidate that answers, with its answer. Raises PrsmError when none does in time.

        With ``discard``, which ends an answer that is not wanted, two may be asked at once where hedging is on.
        """
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            with self._timeout:
                return await self._each(plan, run, discard, deadline_s)
        except TimeoutError:
            raise UpstreamError(
                f"No model answered within {self._timeout_s} seconds.",
                retryable=False,
                kind=Kind.TIMEOUT,
                code="upstream_timeout",
            ) from None

    def failed_midway(self, target: Target) -> None:
        """A model's stream broke off after its first piece."""
        self._breakers.record(target.name, ok=False)
        self._metrics.upstream_failed(target.name, "cut_off")

    async def _each(
        self,
        plan: Plan,
        run: Callable[[Target], Awaitable[T]],
        discard: Callable[[T], Awaitable[None]] | None,
        deadline_s: float,
    ) -> tuple[Candidate, T]:
        self._budget.note_call()
        failed: PrsmError | None = None
        untried = plan.candidates
        if self._hedger and discard and (hedge := self._hedger.hedge_for(plan, self._breakers.resting)):
            race = await self._race(plan, hedge, run, discard, deadline_s)
            if not isinstance(race, _Lost):
                return race
            failed, untried = race
        while untried and not (failed and self._draining()):
            candidate = untried[0]
            try:
                return candidate, await self._timed(candidate.target, run, deadline_s)
            except (InvalidRequest, UpstreamError) as error:
                failed = self._passed_over(plan, candidate, error)
            untried = same_model_first(candidate.target, untried[1:])
        raise failed or UpstreamError("No model could be tried.", retryable=True)

    async def _race(
        self,
        plan: Plan,
        hedge: Hedge,
        run: Callable[[Target], Awaitable[T]],
        discard: Callable[[T], Awaitable[None]],
        deadline_s: float,
    ) -> "tuple[Candidate, T] | _Lost":
        """Ask the first candidate, and ``hedge``'s too when that is silent for too long; whoever answers first."""
        running: dict[asyncio.Task[T], Candidate] = {}
        failed: PrsmError | None = None

        def ask(candidate: Candidate) -> None:
            running[asyncio.create_task(self._timed(candidate.target, run, deadline_s))] = candidate

        ask(plan.candidates[0])
        try:
            done, _ = await asyncio.wait(running, timeout=hedge.after_s)
            if not done and self._hedger and not self._draining() and self._hedger.take():
                ask(hedge.candidate)
            tried = list(running.values())
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task in done]:
                    candidate = running.pop(task)
                    try:
                        answer = task.result()
                    except (InvalidRequest, UpstreamError) as error:
                        failed = self._passed_over(plan, candidate, error)
                        continue
                    if len(tried) > 1:
                        self._metrics.hedged(hedge.candidate.target.name, won=candidate is hedge.candidate)
                    return candidate, answer
        finally:
            self._end_later(running, discard)
        untried = [candidate for candidate in plan.candidates if candidate not in tried]
        return _Lost(failed, same_model_first(plan.candidates[0].target, untried))

    def _passed_over(self, plan: Plan, candidate: Candidate, error: InvalidRequest | UpstreamError) -> PrsmError:
        """``error`` where another model may be asked: it failed, or cannot honour the request's form. Or raises it."""
        if not isinstance(error, UpstreamError):
            return error
        if error.blames_caller:
            raise error
        _log.warning(
            "model failed", request_id=str(plan.ask.call.request_id), model=candidate.target.name, code=error.code,
            status=error.upstream_status,
        )  # fmt: skip
        if error.code != _RESTING:
            self._observe_outcome(plan.ask, candidate.target, Ended.ERROR)
            if self._breakers.resting(candidate.target.name):
                self._tripped(plan.ask.caller.account)
        return error

    def _end_later(self, losers: Iterable["asyncio.Task[T]"], discard: Callable[[T], Awaitable[None]]) -> None:
        """End attempts that are not waited for any more; one that has answered meanwhile is told to stop."""

        async def end(tasks: list[asyncio.Task[T]]) -> None:
            await end_tasks(tasks)
            for task in tasks:
                if not task.cancelled() and task.exception() is None:
                    await discard(task.result())

        if tasks := list(losers):
            ending = asyncio.create_task(end(tasks))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _timed(self, target: Target, run: Callable[[Target], Awaitable[T]], deadline_s: float) -> T:
        started_s = self._clock()
        answer = await self._try(target, run, deadline_s)
        self._metrics.first_answer(target.name, self._clock() - started_s)
        return answer

    async def _try(self, target: Target, run: Callable[[Target], Awaitable[T]], deadline_s: float) -> T:
        started_s = self._clock()
        attempts = 0
        while True:
            admitted_s = self._clock()
            if self._providers and not self._providers.allow(target.provider, now_s=admitted_s):
                raise _resting(target.provider)
            if not self._breakers.allow(target.name, now_s=admitted_s):
                if self._providers:
                    self._providers.release(target.provider, admitted_s=admitted_s)
                raise _resting(target.name)
            attempts += 1
            try:
                answer = await run(target)
            except UpstreamError as caught:
                error = caught
            except BaseException:
                if asyncio.get_running_loop().time() >= deadline_s:  # it was the model that took all the time
                    self._failed(target, "upstream_timeout", admitted_s)
                else:
                    self._breakers.release(target.name, admitted_s=admitted_s)
                    if self._providers:
                        self._providers.release(target.provider, admitted_s=admitted_s)
                raise
            else:
                self._record(target, ok=True, admitted_s=admitted_s)
                return answer
            self._failed(target, error.code, admitted_s, ok=error.blames_caller)
            delay_s = retry_delay_s(
                self._policy,
                self._budget,
                error,
                attempts=attempts,
                elapsed_s=self._clock() - started_s,
                random=random.random(),  # noqa: S311 - jitter, not a secret
            )
            if delay_s is None or self._draining():
                raise error
            await asyncio.sleep(delay_s)

    def _failed(self, target: Target, code: str, admitted_s: float, *, ok: bool = False) -> None:
        """Report an attempt without answer; ``ok`` where the model itself is well and refused the request."""
        self._record(target, ok=ok, admitted_s=admitted_s)
        self._metrics.upstream_failed(target.name, code)

    def _record(self, target: Target, *, ok: bool, admitted_s: float) -> None:
        self._breakers.record(target.name, ok=ok, admitted_s=admitted_s)
        if self._providers:
            self._providers.record(target.provider, ok=ok, admitted_s=admitted_s)


class _Lost(NamedTuple):
    """Nobody in a race answered: why, and who is left."""

    failed: PrsmError | None
    untried: list[Candidate]


def _resting(name: str) -> UpstreamError:
    return UpstreamError(
        f"{name} failed too often and rests for a while.",
        retryable=False,
        kind=Kind.UNAVAILABLE,
        code=_RESTING,
        retry_after_s=5,
    )
