"""Asks instances that nobody asks, and those that are out: a few a minute, one at a time at each provider.

A probe lists the provider's models, which costs nothing and shows only that it is there: its success is no proof that
a model answers. Where the operator allows it a probe is a question with one token of answer, paid by the node; its
success counts as an answer. What fails counts as a failed call. Nothing of it touches the ledger or a model's SLA.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog

from prsm.agents.call import ChatCall, EmbedCall, Target
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.observed import ending_of
from prsm.agents.seams import Executor, UpstreamError
from prsm.core.cancellation import end_tasks
from prsm.core.clock import uuid7
from prsm.core.errors import Kind, PrsmError
from prsm.safety.circuit_breaker import BreakerBoard, State

_LOOKED_AT = 512
"""Instances of a large catalogue that one turn looks at; the next goes on behind them."""
_log: Any = structlog.get_logger("liveness")


@dataclass(frozen=True, slots=True)
class ProbePolicy:
    """At most ``per_minute`` probes; of those without calls for ``idle_s``, and every ``out_s`` of those that are out.

    ``chat``: ask for one token, which costs money, instead of listing models.
    """

    per_minute: int = 12
    idle_s: float = 300.0
    out_s: float = 15.0
    timeout_s: float = 10.0
    chat: bool = False


@dataclass(frozen=True, slots=True)
class Prospect:
    """An instance that may be probed: when it was last heard of by calls, when probed, and whether it is out."""

    target: Target
    called_s: float
    probed_s: float
    out: bool


def choose(prospects: Iterable[Prospect], busy: Collection[str], now_s: float, policy: ProbePolicy) -> Target | None:
    """Whom to probe now: of those that are out the one not probed for longest, else of the idle ones likewise."""
    due = [
        (not one.out, max(one.probed_s, one.called_s) if not one.out else one.probed_s, one.target.name, one.target)
        for one in prospects
        if one.target.provider not in busy and _is_due(one, now_s, policy)
    ]
    return min(due, key=lambda found: found[:3])[3] if due else None


def _is_due(one: Prospect, now_s: float, policy: ProbePolicy) -> bool:
    if one.out:
        return now_s - one.probed_s >= policy.out_s
    return now_s - max(one.called_s, one.probed_s) >= policy.idle_s


class Prober:
    """Probes until cancelled. ``executors`` are those that are not watched: a probe is no caller's call."""

    def __init__(
        self,
        board: Liveness,
        breakers: BreakerBoard,
        executors: Mapping[str, Executor],
        targets: Callable[[], Mapping[str, Target]],
        policy: ProbePolicy,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.made: Counter[str] = Counter(ok=0, failed=0)
        """Probes so far, by how they ended."""
        self._board = board
        self._breakers = breakers
        self._executors = executors
        self._targets = targets
        self._draw = draw
        self._met_s = board.clock()
        self._probed_s: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._place = 0

    async def run(self) -> None:
        """One probe after another, each after a drawn pause; ends those under way when cancelled."""
        try:
            while self.policy.per_minute:
                await asyncio.sleep(60 / self.policy.per_minute * (1 + self._draw() / 2))
                self.turn()
        finally:
            await end_tasks(list(self._running.values()))

    def turn(self) -> "asyncio.Task[None] | None":
        """Begin a probe if one is due and the node does not stop."""
        now_s = self._board.clock()
        target = None if self._board.draining else choose(self._prospects(), self._running, now_s, self.policy)
        if target is None:
            return None
        self._probed_s[self._key(target)] = now_s
        task = self._running[target.provider] = asyncio.create_task(self._probe(target))
        task.add_done_callback(lambda _: self._running.pop(target.provider))
        return task

    async def _probe(self, target: Target) -> None:
        admitted_s = self._board.clock()
        if not self._breakers.allow(target.name, now_s=admitted_s):
            return
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                await self._ask(target)
        except TimeoutError:
            self._failed(target, _late(self.policy.timeout_s), admitted_s)
        except PrsmError as error:
            self._failed(target, error, admitted_s)
        except BaseException:
            self._breakers.release(target.name, admitted_s=admitted_s)
            raise
        else:
            self._answered(target, admitted_s)

    async def _ask(self, target: Target) -> None:
        executor = self._executors[target.kind]
        if not self.policy.chat:
            await executor.list_models(target.base_url, target.api_key)
        elif "chat" in target.capabilities:
            messages = [{"role": "user", "content": "ping"}]
            await executor.chat(target, ChatCall(uuid7(), messages, target.upstream_name, max_output_tokens=1))
        else:
            await executor.embed(target, EmbedCall(uuid7(), ["ping"], target.upstream_name))

    def _answered(self, target: Target, admitted_s: float) -> None:
        self.made["ok"] += 1
        if self.policy.chat:
            self._breakers.record(target.name, ok=True, admitted_s=admitted_s)
            self._board.probed(target, None)
        else:
            self._breakers.release(target.name, admitted_s=admitted_s)

    def _failed(self, target: Target, error: PrsmError, admitted_s: float) -> None:
        ending = ending_of(error)
        if ending is None or not ending.blames_instance:
            self._breakers.release(target.name, admitted_s=admitted_s)
            return
        self.made["failed"] += 1
        self._breakers.record(target.name, ok=False, admitted_s=admitted_s)
        self._board.probed(target, ending)
        _log.warning("probe failed", instance=target.name, why=error.code)

    def _prospects(self) -> Iterator[Prospect]:
        """Those that are out, and the next few of all; built-in models are never away, so they are not among them."""
        targets = self._targets()
        heard_s = self._heard_s()
        if len(self._probed_s) > 2 * len(targets) + _LOOKED_AT:
            self._probed_s.clear()
        out = [name for name in self._out() if name in targets]
        some = list(islice(targets.values(), self._place, self._place + _LOOKED_AT))
        self._place = self._place + _LOOKED_AT if len(some) == _LOOKED_AT else 0
        for target, is_out in [*((targets[name], True) for name in out), *((target, False) for target in some)]:
            if target.base_url:
                key = self._key(target)
                yield Prospect(target, heard_s.get(key, self._met_s), self._probed_s.get(key, self._met_s), is_out)

    def _key(self, target: Target) -> str:
        """What a probe tells of: a list of models of the provider, a question of the instance."""
        return target.name if self.policy.chat else target.provider

    def _heard_s(self) -> dict[str, float]:
        """When calls last ended, by ``_key``."""
        found: dict[str, float] = {}
        for instance in self._board.instances():
            key = instance.name if self.policy.chat else instance.provider
            found[key] = max(found.get(key, self._met_s), instance.observed.last_s)
        return found

    def _out(self) -> list[str]:
        now_s = self._board.clock()
        ejected = [instance.name for instance in self._board.instances() if instance.standing.out(now_s)]
        # One that is open would refuse the probe; once its time is over, a probe spares a caller the try.
        resting = [name for name, view in self._breakers.snapshot().items() if view.state is State.HALF_OPEN]
        return list(dict.fromkeys([*ejected, *resting]))


def _late(timeout_s: float) -> UpstreamError:
    message = f"The probe was not answered within {timeout_s:g} seconds."
    return UpstreamError(message, retryable=True, kind=Kind.TIMEOUT, code="upstream_timeout")
