"""Two choices against random and round robin: seeded arrivals at instances of different speed, in simulated time.

Instances serve several calls at once, each slower the more there are; all policies see the same arrivals and sizes.
"""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import pytest
from tests.support.asks import target

from prsm.agents.call import Target
from prsm.agents.liveness.board import Liveness
from prsm.agents.seams import UpstreamError

SEEDS = (1, 2)
TARGETS = [target(f"p{number}/m") for number in range(8)]
UNEVEN = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.5)
"""Six as they should be, one of half their speed, one of double."""
EVEN = (1.0,) * 8
Pick = Callable[[list[Target]], Target]


@dataclass
class Server:
    """Serves ``slots`` calls at once and lets the others wait in line; ``factor`` times a call's size is its time."""

    factor: float = 1.0
    slots: int = 8
    failing: Callable[[float], bool] = lambda _now_s: False
    busy: int = 0
    line: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])


@dataclass
class Outcome:
    latencies_s: list[float] = field(default_factory=list[float])
    failed: int = 0
    asked: Counter[str] = field(default_factory=Counter[str])
    most: float = 0.0
    """Calls at one instance, at most, as a multiple of what its slots take."""
    asked_out: int = 0

    @property
    def p99_s(self) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[int(len(ordered) * 0.99)]


class World:
    """One run. Events are (time, order, what), and nothing happens between them."""

    def __init__(self, seed: int, servers: dict[str, Server], *, rate_s: float) -> None:
        self.now_s = 1000.0
        self.random = random.Random(seed)
        draws = random.Random(seed + 1)
        self.board = Liveness(clock=lambda: self.now_s, draw=draws.random)
        self.servers = servers
        self.rate_s = rate_s
        self.outcome = Outcome()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def run(self, pick: Pick, seconds: float) -> Outcome:
        end_s = self.now_s + seconds
        self._at(0.0, lambda: self._arrive(pick, end_s))
        self._at(1.0, lambda: self._sweep(end_s))
        while self._events:
            self.now_s, _, happen = heapq.heappop(self._events)
            happen()
        return self.outcome

    def _at(self, later_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + later_s, next(self._order), happen))

    def _sweep(self, end_s: float) -> None:
        self.board.sweep()
        if self.now_s < end_s:
            self._at(1.0, lambda: self._sweep(end_s))

    def _arrive(self, pick: Pick, end_s: float) -> None:
        size_s, pause_s = self.random.expovariate(1 / 0.2), self.random.expovariate(self.rate_s)
        chosen = pick(TARGETS[: len(self.servers)])
        if self.now_s < end_s:
            self._at(pause_s, lambda: self._arrive(pick, end_s))
        self._serve(chosen, size_s)

    def _serve(self, chosen: Target, size_s: float) -> None:
        server, begun_s = self.servers[chosen.name], self.now_s
        call = self.board.began(chosen, streamed=True)
        self.outcome.asked[chosen.name] += 1
        instance = self.board.instance(chosen.name)
        self.outcome.asked_out += instance is not None and instance.standing.out(self.now_s)

        def done() -> None:
            server.busy -= 1
            if server.line:
                start(server.line.pop(0))
            call.first_piece()
            call.answered()
            self.outcome.latencies_s.append(self.now_s - begun_s)

        def start(waiting: tuple[float, float]) -> None:
            server.busy += 1
            self._at(waiting[0], self._starts.pop(waiting))

        def fail() -> None:
            call.failed(UpstreamError("It failed.", retryable=False, code="upstream_failed"))
            self.outcome.failed += 1

        if server.failing(self.now_s):
            self._at(0.002, fail)
            return
        job = (size_s * server.factor, float(next(self._order)))
        self._starts[job] = done
        if server.busy < server.slots:
            start(job)
        else:
            server.line.append(job)
        self.outcome.most = max(self.outcome.most, (server.busy + len(server.line)) / server.slots)

    @property
    def _starts(self) -> dict[tuple[float, float], Callable[[], None]]:
        return self.__dict__.setdefault("starts", {})


@cache
def compared(seed: int, factors: tuple[float, ...], rate_s: float, seconds: float = 90.0) -> dict[str, Outcome]:
    """The same arrivals under each policy, at instances whose calls take ``factors`` times their size."""
    draws = random.Random(seed + 2)
    rounds = itertools.count()
    found: dict[str, Outcome] = {}
    for name in ("two choices", "random", "round robin"):
        world = World(seed, servers(factors), rate_s=rate_s)
        picks: dict[str, Pick] = {
            "two choices": lambda targets, board=world.board: board.order(targets)[0],
            "random": lambda targets: draws.choice(targets),
            "round robin": lambda targets: targets[next(rounds) % len(targets)],
        }
        outcome = found[name] = world.run(picks[name], seconds)
        print(f"seed {seed}, {name}: p99 {outcome.p99_s:.2f} s, longest queue {outcome.most:.1f}x, {outcome.asked}")
    return found


def servers(factors: tuple[float, ...]) -> dict[str, Server]:
    return {each.name: Server(factor) for each, factor in zip(TARGETS, factors, strict=True)}


@pytest.mark.parametrize("seed", SEEDS)
def test_where_speeds_differ_the_tail_is_shorter_and_the_longest_queue_far_shorter(seed: int) -> None:
    # 340 calls a second could be served; an eighth of 140 is just what the slowest can do.
    found = compared(seed, UNEVEN, 140.0)
    ours = found["two choices"]
    for other in ("random", "round robin"):
        assert ours.p99_s < found[other].p99_s * 0.9
        assert ours.most < found[other].most / 1.5


@pytest.mark.parametrize("seed", SEEDS)
def test_where_all_are_alike_the_tail_and_the_longest_queue_are_no_worse(seed: int) -> None:
    found = compared(seed, EVEN, 280.0)
    ours = found["two choices"]
    for other in ("random", "round robin"):
        assert ours.p99_s <= found[other].p99_s
        assert ours.most <= found[other].most


@pytest.mark.parametrize("seed", SEEDS)
def test_load_follows_capacity_and_nobody_starves(seed: int) -> None:
    asked = compared(seed, UNEVEN, 140.0)["two choices"].asked
    usual = [asked[each.name] for each in TARGETS[:6]]
    slow, fast = asked["p6/m"], asked["p7/m"]
    assert 0 < slow < min(usual) / 2
    assert fast > 1.3 * max(usual)
    assert max(usual) < 1.3 * min(usual)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_instance_that_fails_at_once_attracts_nobody_is_ejected_and_comes_back(seed: int) -> None:
    all_alike = servers(EVEN)
    all_alike["p0/m"].failing = lambda now_s: 1020 <= now_s < 1050
    world = World(seed, all_alike, rate_s=200.0)
    shares: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}

    def pick(targets: list[Target]) -> Target:
        chosen = world.board.order(targets)[0]
        shares[world.now_s > 1150][chosen.name] += 1
        return chosen

    outcome = world.run(pick, 220.0)
    print(f"seed {seed}: {outcome.failed} failed of {sum(outcome.asked.values())}")
    # Within a second or two of its first failures it is out, and nobody asks it while others live.
    assert 0 < outcome.failed < 150
    assert outcome.asked_out == 0
    back = shares[True]
    assert back["p0/m"] > 0.7 * sum(back.values()) / len(TARGETS)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_two_the_slow_one_is_still_tried(seed: int) -> None:
    world = World(seed, {"p0/m": Server(0.5), "p1/m": Server(5.0)}, rate_s=2.0)
    asked = world.run(lambda targets: world.board.order(targets)[0], 600.0).asked
    assert asked["p1/m"] >= 5
    assert asked["p0/m"] > 5 * asked["p1/m"]
