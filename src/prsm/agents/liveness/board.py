"""Everything that is seen of all instances, in one place: calls report here, and the choice of instances reads here.

One event loop writes and reads, so nothing is locked. Instances are bounded: those not used for longest
are forgotten.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice
from typing import Any

import structlog

from prsm.agents.call import Target
from prsm.agents.liveness import balance, ejection, sla
from prsm.agents.liveness.ejection import NEVER_OUT, EjectionPolicy, Seen, Standing
from prsm.agents.liveness.observed import NOMINAL_TOKENS, Ending, Observed, ending_of
from prsm.agents.liveness.sla import Event, Sla, SlaPolicy, Verdict, Windows
from prsm.agents.routers.question import MAX_CANDIDATES, Health
from prsm.agents.routers.roster import served_model

LEAST_PACE_TOKENS = 16
"""A shorter answer tells nothing of its model's pace."""
_MOST_INSTANCES = 4096
_TIMED_OUT_SHARE = 0.9
_SILENCE_CALLS = 20.0
_SILENCE_KEPT_S = 1.0
_JUDGED_EVERY_S = 10.0
_JUDGED_AT_ONCE = 20
_log: Any = structlog.get_logger("liveness")

Tell = Callable[[Target, float | None], None]
"""Who was called, and the seconds to the first piece (of an answer that is no stream, to its end); None: it failed."""


@dataclass(frozen=True, slots=True)
class LivenessPolicy:
    """The rules' numbers. ``timeout_s`` is the longest that a request may take: a call given up near that has timed
    out, and not been left by its caller.
    """

    timeout_s: float = 600.0
    ejection: EjectionPolicy = field(default_factory=EjectionPolicy)
    sla: SlaPolicy = field(default_factory=SlaPolicy)
    most_instances: int = _MOST_INSTANCES


class Instance:
    """What the board keeps of one instance; for this package and for those who show it."""

    __slots__ = ("_usual_at_s", "_usual_s", "group", "name", "observed", "provider", "standing")

    def __init__(self, target: Target, group: "Group", now_s: float) -> None:
        self.name = target.name
        self.provider = target.provider
        self.group = group
        self.observed = Observed(now_s)
        self.standing = NEVER_OUT
        self._usual_s: float | None = None
        self._usual_at_s = -math.inf

    def usual_silence_s(self, now_s: float) -> float | None:
        """Seconds within which 95 of 100 streams begin, at most a second old; None from too few streams."""
        if now_s - self._usual_at_s >= _SILENCE_KEPT_S:
            sketch = self.observed.first_pieces
            found = sketch.quantiles((0.95,)) if sketch.count(now_s) >= _SILENCE_CALLS else None
            self._usual_s, self._usual_at_s = found[0] if found else None, now_s
        return self._usual_s


class Group:
    """A model: its instances that were seen, and its events against its SLA."""

    __slots__ = ("instances", "judged_s", "model", "sla", "touched", "verdict", "windows")

    def __init__(self, model: str, agreed: Sla, now_s: float) -> None:
        self.model = model
        self.sla = agreed
        self.windows = Windows(now_s)
        self.instances: dict[str, Instance] = {}
        self.verdict: Verdict | None = None
        self.judged_s = -math.inf
        self.touched = False


class Call:
    """One call under way. Exactly one of ``answered``, ``failed`` and ``left`` ends it; later ones change nothing."""

    __slots__ = ("_board", "_first_s", "_instance", "_open", "_started_s", "_streamed", "_target")

    def __init__(
        self, board: "Liveness", target: Target, instance: Instance, started_s: float, *, streamed: bool
    ) -> None:
        self._board = board
        self._target = target
        self._instance = instance
        self._started_s = started_s
        self._first_s: float | None = None
        self._streamed = streamed
        self._open = True

    def first_piece(self) -> None:
        """The first piece of a stream, or a whole answer of a kind that has no tokens, is there."""
        now_s = self._first_s = self._board.clock()
        group, waited_s = self._instance.group, now_s - self._started_s
        if self._is_current:
            self._instance.observed.first_piece(waited_s, now_s)
        limit_s = group.sla.first_token_s
        if limit_s:
            group.windows.add(Event.PROMPT if waited_s <= limit_s else Event.LATE, now_s)

    def answered(self, tokens: int = 0, pieces: int = 1) -> None:
        """The answer is whole: of ``tokens``, as far as they were metered, in ``pieces``."""
        if not self._open:
            return
        now_s = self._end()
        observed, group = self._instance.observed, self._instance.group
        group.windows.add(Event.ANSWERED, now_s)
        self._board.tell(self._target, (self._first_s or now_s) - self._started_s)
        if not self._is_current:
            return
        observed.ended(Ending.OK, now_s)
        if self._first_s is None:
            took_s = now_s - self._started_s
            observed.waited(took_s * NOMINAL_TOKENS / max(tokens, NOMINAL_TOKENS), now_s)
        if tokens >= LEAST_PACE_TOKENS:
            self._pace(tokens, pieces, now_s)

    def failed(self, error: BaseException) -> None:
        """The call raised ``error``; a cancellation is as ``left``."""
        ending = ending_of(error)
        if ending is None:
            self.left()
        elif self._open:
            self._count(ending, self._end())

    def left(self) -> None:
        """The call was given up by this side: nobody waits for the rest."""
        if not self._open:
            return
        now_s = self._end()
        waited_s = now_s - self._started_s
        if waited_s >= _TIMED_OUT_SHARE * self._board.policy.timeout_s:
            self._count(Ending.TIMEOUT, now_s)
        elif self._first_s is not None:
            self._instance.group.windows.add(Event.ANSWERED, now_s)
            if self._is_current:
                self._instance.observed.ended(Ending.OK, now_s)
        elif self._streamed and self._is_current:
            self._instance.observed.still_waiting(waited_s, now_s)

    @property
    def _is_current(self) -> bool:
        """A call from before an instance's return from ejection says nothing of how it does after it."""
        return self._started_s >= self._instance.standing.until_s

    def _end(self) -> float:
        self._open = False
        self._instance.observed.in_flight -= 1
        self._instance.group.touched = True
        return self._board.clock()

    def _count(self, ending: Ending, now_s: float) -> None:
        observed = self._instance.observed
        if ending is not Ending.REFUSED:
            self._board.tell(self._target, None)
            self._instance.group.windows.add(Event.FAILED, now_s)
        if not self._is_current:
            return
        observed.ended(ending, now_s)
        if ending is not Ending.REFUSED and self._first_s is None:
            observed.still_waiting(now_s - self._started_s, now_s)

    def _pace(self, tokens: int, pieces: int, now_s: float) -> None:
        """Of a stream, what came after its first piece; of a whole answer all of it."""
        group, first_s = self._instance.group, self._first_s
        if first_s is None or pieces < 2:
            took_s = now_s - self._started_s
        else:
            took_s, tokens = now_s - first_s, tokens * (pieces - 1) // pieces
        self._instance.observed.pace(tokens, took_s, now_s)
        if group.sla.min_tokens_s:
            brisk = tokens >= group.sla.min_tokens_s * took_s
            group.windows.add(Event.BRISK if brisk else Event.SLOW, now_s)


class Liveness:
    """The board. ``sla_of`` says what a model is to keep; ``resting`` whether an instance's breaker refuses calls."""

    def __init__(
        self,
        policy: LivenessPolicy | None = None,
        *,
        sla_of: Callable[[str], Sla] = lambda _model: Sla(),
        resting: Callable[[str], bool] = lambda _name: False,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        tell: Tell = lambda _target, _waited_s: None,
    ) -> None:
        """``tell`` is told of each call that was answered or failed, but for those that the caller gave up."""
        self.policy = policy or LivenessPolicy()
        self.clock = clock
        self.tell = tell
        self.draining = False
        """The node stops: no further try of a request is to begin."""
        self.groups: dict[str, Group] = {}
        self._instances: dict[str, Instance] = {}
        self._sla_of = sla_of
        self._resting = resting
        self._draw = draw

    def began(self, target: Target, *, streamed: bool = False) -> Call:
        """A call at ``target`` begins; it is under way until the answer to this is ended."""
        now_s = self.clock()
        instance = self._instances.get(target.name) or self._met(target, now_s)
        instance.observed.in_flight += 1
        return Call(self, target, instance, now_s, streamed=streamed)

    def instance(self, name: str) -> Instance | None:
        """What is kept of an instance; None where it was not seen."""
        return self._instances.get(name)

    def instances(self) -> Iterable[Instance]:
        """All that were seen."""
        return self._instances.values()

    def latest(self, most: int) -> list[Instance]:
        """At most so many of them, those with the latest calls."""
        return nlargest(most, self._instances.values(), key=lambda instance: instance.observed.last_s)

    def health(self, name: str) -> Health:
        """An instance as the router reads it, in constant time: one that is ejected rests too."""
        resting = self._resting(name)
        instance = self._instances.get(name)
        if instance is None:
            return _RESTING if resting else _UNSEEN
        observed, now_s = instance.observed, self.clock()
        return Health(
            resting or instance.standing.out(now_s),
            observed.first_smooth_s * 1000,
            observed.pace_smooth,
            observed.success(now_s),
        )

    def silence(self, name: str) -> float | None:
        """Seconds within which 95 of 100 of an instance's streams begin; None from fewer than 20 lately."""
        instance = self._instances.get(name)
        return instance.usual_silence_s(self.clock()) if instance else None

    def order(self, instances: Sequence[Target]) -> list[Target]:
        """The instances of one model: the one to ask, then those to fall back on."""
        now_s = self.clock()
        placed = balance.order(
            len(instances), MAX_CANDIDATES, lambda number: self._load(instances[number].name, now_s), self._draw
        )
        return [instances[number] for number in placed]

    def verdict(self, model: str) -> Verdict | None:
        """The model against its SLA as of now; None where it was not asked yet."""
        group = self.groups.get(model)
        return self.judged(group) if group else None

    def judged(self, group: Group) -> Verdict:
        """A model that was asked against its SLA as of now."""
        return sla.judge(group.model, group.sla, group.windows, self.clock(), self.policy.sla)

    def verdicts(self) -> Mapping[str, Verdict]:
        """Every model that was asked against its SLA, as the last sweeps found it."""
        return {model: group.verdict for model, group in self.groups.items() if group.verdict}

    def sweep(self) -> None:
        """Eject, let return, and judge the models; to be done every second or so."""
        for _ in self.sweeping():
            pass

    def sweeping(self) -> Iterator[None]:
        """``sweep`` with a pause after each model that cost something, for others to have a turn in."""
        now_s = self.clock()
        for group in list(self.groups.values()):
            self._let_return(group, now_s)
            if len(group.instances) > 1 and group.touched:
                self._eject(group, now_s)
                yield
        for group in list(islice(self._due(now_s), _JUDGED_AT_ONCE)):
            self._judge(group, now_s)
            yield

    def probed(self, target: Target, error: Ending | None) -> None:
        """A probe was answered, or failed with ``error``: one that is out then stays out for the shortest ejection."""
        now_s = self.clock()
        instance = self._instances.get(target.name) or self._met(target, now_s)
        instance.observed.ended(Ending.OK if error is None else error, now_s)
        old = instance.standing
        if error is not None and old.out(now_s):
            until_s = max(old.until_s, now_s + self.policy.ejection.eject_s)
            instance.standing = Standing(until_s, old.ejections, old.reason)

    def follow(self, targets: Mapping[str, Target]) -> None:
        """Forget what is no longer in the catalogue or now belongs to another model, and take its SLAs anew."""
        for name in list(self._instances):
            target = targets.get(name)
            if target is None or served_model(target) != self._instances[name].group.model:
                self._forget(name)
        for group in self.groups.values():
            group.sla = self._sla_of(group.model)

    def drain(self) -> None:
        """The node stops: what is under way goes on."""
        self.draining = True

    def _load(self, name: str, now_s: float) -> balance.Load:
        out = self._resting(name)
        instance = self._instances.get(name)
        if instance is None:
            return balance.Load(out=out)
        observed, standing = instance.observed, instance.standing
        calls, failures = observed.recent(now_s)
        return balance.Load(
            observed.in_flight,
            observed.latency_s(now_s),
            standing.weight(now_s, self.policy.ejection),
            (calls - failures + 1) / (calls + 1),
            out or standing.out(now_s),
        )

    def _met(self, target: Target, now_s: float) -> Instance:
        if len(self._instances) >= self.policy.most_instances:
            self._forget_oldest()
        model = served_model(target)
        group = self.groups.get(model)
        if group is None:
            group = self.groups[model] = Group(model, self._sla_of(model), now_s)
        instance = self._instances[target.name] = group.instances[target.name] = Instance(target, group, now_s)
        return instance

    def _forget_oldest(self) -> None:
        """A quarter at once, so that each costs little; never one that has calls under way."""
        idle = [name for name, instance in self._instances.items() if not instance.observed.in_flight]
        idle.sort(key=lambda name: self._instances[name].observed.last_s)
        for name in idle[: max(self.policy.most_instances // 4, 1)]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        group = self._instances.pop(name).group
        del group.instances[name]
        if not group.instances:
            del self.groups[group.model]

    def _let_return(self, group: Group, now_s: float) -> None:
        """What was seen before an ejection does not count after it, or it would be ejected again at once."""
        for instance in group.instances.values():
            if instance.standing.reason and not instance.standing.out(now_s):
                instance.observed.forget()
                old = instance.standing
                instance.standing = Standing(old.until_s, old.ejections)
                _log.info("instance is back", instance=instance.name, ramp_s=self.policy.ejection.ramp_s)

    def _eject(self, group: Group, now_s: float) -> None:
        group.touched = False
        for view in (_recent, _seen):
            standings = {name: instance.standing for name, instance in group.instances.items()}
            seen = {name: view(instance.observed, now_s) for name, instance in group.instances.items()}
            self._put_out(group, ejection.judge(seen, standings, now_s, self.policy.ejection), now_s)

    def _put_out(self, group: Group, ejected: Mapping[str, Standing], now_s: float) -> None:
        for name, standing in ejected.items():
            group.instances[name].standing = standing
            _log.warning("instance ejected", instance=name, out_s=round(standing.until_s - now_s), why=standing.reason)

    def _due(self, now_s: float) -> Iterator[Group]:
        return (group for group in self.groups.values() if now_s - group.judged_s >= _JUDGED_EVERY_S)

    def _judge(self, group: Group, now_s: float) -> None:
        before = group.verdict is not None and group.verdict.breached
        group.verdict, group.judged_s = self.judged(group), now_s
        if group.verdict.breached and not before:
            _log.warning("SLA breached", model=group.model, why=group.verdict.sentence)


def _recent(observed: Observed, now_s: float) -> Seen:
    return Seen(*observed.recent(now_s))


def _seen(observed: Observed, now_s: float) -> Seen:
    counts = observed.counts(now_s)
    calls = sum(counts) - counts[Ending.REFUSED]
    first, pace = observed.first_pieces.quantiles((0.5,)), observed.paces.quantiles((0.5,))
    return Seen(
        calls,
        calls - counts[Ending.OK],
        first[0] if first else None,
        observed.first_pieces.count(now_s),
        pace[0] if pace else None,
        observed.paces.count(now_s),
    )


_UNSEEN, _RESTING = Health(), Health(resting=True)
