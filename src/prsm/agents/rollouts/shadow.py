"""Copies of answered requests for a candidate version: nobody sees its answers, and no caller pays for them.

A copy starts when the request has been answered, waits for nobody and is waited for by nobody. When too many are under
way the next ones are left out: a slow candidate costs the node nothing but what it is allowed to.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from prsm.agents.call import ChatCall, Target
from prsm.agents.rollouts.assignment import SHADOW, place
from prsm.agents.rollouts.trials import Trials
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.cancellation import end_tasks
from prsm.core.errors import PrsmError

_log: Any = structlog.get_logger("rollouts")


class Shadow:
    """Sends copies to candidates and reports to their trials; the node itself pays for them."""

    def __init__(self, executors: Mapping[str, Executor], trials: Trials, *, at_once: int, timeout_s: float) -> None:
        """``at_once`` copies are under way at most, each for ``timeout_s`` at most."""
        self._executors = executors
        self._trials = trials
        self._at_once = at_once
        self._timeout_s = timeout_s
        self._running: set[asyncio.Task[None]] = set()
        self.left_out = 0
        """Copies that were not made because too many were under way."""

    def copy(self, target: Target, call: ChatCall, shadow_bps: int) -> None:
        """Ask ``target`` the same, for ``shadow_bps`` of all requests; the choice falls by the request's id."""
        if place(target.version, str(call.request_id)) >= shadow_bps:
            return
        if len(self._running) >= self._at_once:
            self.left_out += 1
            return
        task = asyncio.create_task(self._ask(target, call), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End the copies that are under way."""
        await end_tasks(list(self._running))

    async def _ask(self, target: Target, call: ChatCall) -> None:
        started_s = time.monotonic()
        first_s: float | None = None
        ok = False
        try:
            async with asyncio.timeout(self._timeout_s):
                if call.stream:
                    async for _ in self._executors[target.kind].chat_stream(target, call):
                        first_s = first_s or time.monotonic()
                    ok = first_s is not None
                else:
                    await self._executors[target.kind].chat(target, call)
                    first_s, ok = time.monotonic(), True
        except (UpstreamError, TimeoutError):
            pass  # that is what is counted
        except PrsmError as error:
            _log.info("shadow left out", model=target.name, code=error.code)
            return  # it cannot honour the request's form, which says nothing of how well it answers
        waited_ms = (first_s - started_s) * 1000 if first_s else None
        self._trials.answered(target.model, SHADOW, ok=ok, first_token_ms=waited_ms)
