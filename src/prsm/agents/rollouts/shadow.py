"""Copies of answered requests for a candidate version: no caller sees its answers, and none pays for them.

A copy starts when the request has been answered, waits for nobody and is waited for by nobody. When too many are under
way the next ones are left out: a slow candidate costs the node nothing but what it is allowed to.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from prsm.agents.answer_digest import AnswerAssembler
from prsm.agents.call import ChatCall, Completion, Target
from prsm.agents.rollouts.assignment import SHADOW, place
from prsm.agents.rollouts.judge import Judge
from prsm.agents.rollouts.trials import Trials
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.cancellation import end_tasks
from prsm.core.errors import PrsmError

_log: Any = structlog.get_logger("rollouts")


class Shadow:
    """Sends copies to candidates and reports to their trials; the node itself pays for them."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        trials: Trials,
        judge: Judge | None = None,
        *,
        at_once: int,
        timeout_s: float,
        answer_bytes: int,
    ) -> None:
        """``at_once`` copies are under way at most, each for ``timeout_s`` and ``answer_bytes`` at most.

        A ``judge`` compares each answer with the one that the caller got.
        """
        self._executors = executors
        self._trials = trials
        self._judge = judge
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._answer_bytes = answer_bytes
        self._running: set[asyncio.Task[None]] = set()
        self.left_out = 0
        """Copies that were not made because too many were under way."""

    def copy(self, target: Target, call: ChatCall, given: Completion, shadow_bps: int) -> None:
        """Ask ``target`` what was answered with ``given``, for ``shadow_bps`` of all requests.

        The choice falls by the request's id.
        """
        if place(target.version, str(call.request_id)) >= shadow_bps:
            return
        if len(self._running) >= self._at_once:
            self.left_out += 1
            return
        task = asyncio.create_task(self._ask(target, call, given), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End the copies that are under way."""
        await end_tasks(list(self._running))

    async def _ask(self, target: Target, call: ChatCall, given: Completion) -> None:
        started_s = time.monotonic()
        first_s: float | None = None
        answer: Completion | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                if call.stream:
                    pieces = AnswerAssembler(self._answer_bytes)
                    async for deltas in self._executors[target.kind].chat_stream(target, call):
                        first_s = first_s or time.monotonic()
                        pieces.add(deltas)
                    answer = pieces.completion() if first_s else None
                else:
                    answer = await self._executors[target.kind].chat(target, call)
                    first_s = time.monotonic()
        except TimeoutError:
            pass  # that is what is counted
        except PrsmError as error:
            if not isinstance(error, UpstreamError) or error.blames_caller:
                _log.info("shadow left out", model=target.name, code=error.code)
                return  # it cannot honour the request's form, which says nothing of how well it answers
        waited_ms = (first_s - started_s) * 1000 if first_s else None
        self._trials.answered(target.model, SHADOW, ok=answer is not None, first_token_ms=waited_ms)
        if self._judge and answer:
            preference = await self._judge.prefers(call, given, answer, target.model)
            if preference is not None:
                self._trials.compared(target.model, target.version, preference)
