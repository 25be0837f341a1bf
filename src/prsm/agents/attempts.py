"""Trying models until one answers: each candidate in turn, each again as the retry policy allows, through its breaker.

Only what happens before the first byte is tried again. Keeps what was seen of each model for the router.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from prsm.agents.call import Target
from prsm.agents.executors.retry import RetryBudget, RetryPolicy, retry_delay_s
from prsm.agents.plan import Plan
from prsm.agents.routers.model_router import Candidate, Health
from prsm.agents.seams import UpstreamError
from prsm.core.cancellation import SharedTimeout
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard

T = TypeVar("T")

_SMOOTHING = 0.2
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
    ) -> None:
        """``timeout_s`` bounds all attempts of a request together; ``clock`` is that of ``breakers``."""
        self._timeout_s = timeout_s
        self._timeout = SharedTimeout(timeout_s)
        self._clock = clock
        self._breakers = breakers
        self._metrics = metrics
        self._policy = policy
        self._budget = RetryBudget()
        self._first_answer_ms: dict[str, float] = {}

    def health(self, name: str) -> Health:
        """What was seen of a model lately."""
        return Health(self._breakers.resting(name), self._first_answer_ms.get(name, 0.0))

    async def first_answer(self, plan: Plan, run: Callable[[Target], Awaitable[T]]) -> tuple[Candidate, T]:
        """The first candidate that answers, with its answer. Raises PrsmError when none does in time."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            with self._timeout:
                return await self._each(plan, run, deadline_s)
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

    async def _each(self, plan: Plan, run: Callable[[Target], Awaitable[T]], deadline_s: float) -> tuple[Candidate, T]:
        self._budget.note_call()
        failed: PrsmError | None = None
        for candidate in plan.candidates:
            name = candidate.target.name
            started_s = self._clock()
            try:
                answer = await self._try(candidate.target, run, deadline_s)
            except InvalidRequest as error:
                # This model cannot honour the request's form; another may.
                failed = error
            except UpstreamError as error:
                if error.blames_caller:
                    raise
                failed = error
                _log.warning(
                    "model failed", request_id=str(plan.ask.call.request_id), model=name, code=error.code,
                    status=error.upstream_status,
                )  # fmt: skip
            else:
                self._observe(name, self._clock() - started_s)
                return candidate, answer
        raise failed or UpstreamError("No model could be tried.", retryable=True)

    async def _try(self, target: Target, run: Callable[[Target], Awaitable[T]], deadline_s: float) -> T:
        started_s = self._clock()
        attempts = 0
        while True:
            admitted_s = self._clock()
            if not self._breakers.allow(target.name, now_s=admitted_s):
                raise _resting(target)
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
                raise
            else:
                self._breakers.record(target.name, ok=True, admitted_s=admitted_s)
                return answer
            self._failed(target, error.code, admitted_s, ok=error.blames_caller)
            delay_s = retry_delay_s(
                self._policy,
                self._budget,
                error,
                attempts=attempts,
                elapsed_s=self._clock() - started_s,
                first_byte_sent=False,
                random=random.random(),  # noqa: S311 - jitter, not a secret
            )
            if delay_s is None:
                raise error
            await asyncio.sleep(delay_s)

    def _failed(self, target: Target, code: str, admitted_s: float, *, ok: bool = False) -> None:
        """Report an attempt without answer; ``ok`` where the model itself is well and refused the request."""
        self._breakers.record(target.name, ok=ok, admitted_s=admitted_s)
        self._metrics.upstream_failed(target.name, code)

    def _observe(self, name: str, seconds: float) -> None:
        self._metrics.first_answer(name, seconds)
        before_ms = self._first_answer_ms.get(name, seconds * 1000)
        self._first_answer_ms[name] = before_ms + _SMOOTHING * (seconds * 1000 - before_ms)


def _resting(target: Target) -> UpstreamError:
    return UpstreamError(
        f"{target.name} failed too often and rests for a while.",
        retryable=False,
        kind=Kind.UNAVAILABLE,
        code="model_resting",
        retry_after_s=5,
    )
