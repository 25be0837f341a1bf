"""Time to first token with one slow provider of ten, with and without hedging, over real HTTP on loopback.

Two kinds of slow: ``always`` (each of its answers begins late) and ``at times`` (one answer in five does, which no
choice by the past avoids). Two ways to choose: ``even`` (each provider as often) and ``balanced`` (by the node's own
board). The same requests meet the same delays with and without hedging; share and budget are those of the node.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from uuid import UUID

from prsm.agents.attempts import Attempts
from prsm.agents.call import ChatCall, Delta, Target
from prsm.agents.executors.http_client import HttpClient
from prsm.agents.executors.http_connection import Limits
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.agents.executors.retry import RetryPolicy
from prsm.agents.hedging import HedgePolicy, Hedger
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.watching import WatchedExecutor
from prsm.agents.plan import Ask, Caller, PathLimits, make_plan
from prsm.agents.routers.model_router import Candidate
from prsm.monitoring.metrics import Metrics
from prsm.safety.circuit_breaker import BreakerBoard, BreakerPolicy

PROVIDERS = 10
USUAL_S, SLOW_S = (0.015, 0.030), (0.400, 0.500)
WARM_UP = 1_000
_ANSWER = b"".join(
    b"%x\r\n%b\r\n" % (len(event), event)
    for event in (
        b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
        b"",
    )
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Provider:
    """A server that begins each answer after a delay drawn for it; counts calls and those given up."""

    slow: float
    seed: int
    calls: int = 0
    given_up: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _random: random.Random = field(default_factory=random.Random)

    async def start(self) -> None:
        self._random.seed(self.seed)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                self.calls += 1
                spans = SLOW_S if self._random.random() < self.slow else USUAL_S
                # A client that leaves is noticed while the answer is not there: that is what ends its work.
                waiting = asyncio.create_task(reader.read(1))
                done, _ = await asyncio.wait([waiting], timeout=self._random.uniform(*spans))
                if done:
                    self.given_up += 1
                    return
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                writer.write(_HEAD + _ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass(frozen=True)
class Result:
    """Milliseconds to the first token, and what it took."""

    p50: float
    p95: float
    p99: float
    requests: int
    calls: int
    hedges: int
    given_up: int
    slow_calls: int


async def measure(kind: str, choice: str, share_bps: int, requests: int, rate_s: float, seed: int) -> Result:
    """``requests`` streams at ``rate_s`` a second after a warm-up of 1,000; ``share_bps`` 0: no hedging."""
    slow = {"always": 1.0, "at times": 0.2}[kind]
    providers = [Provider(slow if number == 0 else 0.0, seed + number) for number in range(PROVIDERS)]
    for provider in providers:
        await provider.start()
    client = HttpClient(Limits())
    breakers = BreakerBoard(time.monotonic, BreakerPolicy())
    board = Liveness(resting=breakers.resting)
    executor = WatchedExecutor(OpenAICompatibleExecutor(client), board)
    metrics = Metrics()
    hedger = Hedger(HedgePolicy(share_bps), board.silence) if share_bps else None
    attempts = Attempts(breakers, metrics, RetryPolicy(1), timeout_s=30, hedger=hedger)
    targets = [
        Target(f"p{n}/m", "m", f"p{n}", "vllm", f"http://127.0.0.1:{provider.port}/v1", input_price_micro=1)
        for n, provider in enumerate(providers)
    ]
    draw = random.Random(seed)
    waits: list[float] = []

    async def ask(number: int) -> None:
        await _one(attempts, executor, _chosen(targets, board, choice, draw), number, waits)

    async def load(count: int) -> None:
        asked: list[asyncio.Task[None]] = []
        begun = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / rate_s - time.monotonic()))
            asked.append(asyncio.create_task(ask(number)))
        await asyncio.gather(*asked)

    await load(WARM_UP)
    waits.clear()
    calls, given_up, hedges = _sum(providers, "calls"), _sum(providers, "given_up"), _hedges(metrics)
    slow_calls = providers[0].calls
    await load(requests)
    await attempts.close()
    await asyncio.sleep(0.05)
    done = sorted(wait * 1000 for wait in waits)
    result = Result(
        *(round(done[int(len(done) * share)], 1) for share in (0.5, 0.95, 0.99)),
        requests,
        _sum(providers, "calls") - calls,
        _hedges(metrics) - hedges,
        _sum(providers, "given_up") - given_up,
        providers[0].calls - slow_calls,
    )
    await client.aclose()
    await asyncio.sleep(0.05)  # for the providers to see that it has gone
    for provider in providers:
        await provider.stop()
    return result


async def _one(
    attempts: Attempts, executor: WatchedExecutor, order: Sequence[Target], number: int, waits: list[float]
) -> None:
    call = ChatCall(UUID(int=number), [{"role": "user", "content": "2+2"}], "m", True, 32)
    asked = Ask(Caller(UUID(int=1), "a"), call, "", 60)
    plan = make_plan(asked, [Candidate(target, "", 1) for target in order], PathLimits())

    async def run(target: Target) -> AsyncGenerator[list[Delta], None]:
        stream: Any = executor.chat_stream(target, plan.fitted(target))
        try:
            await anext(stream)
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def discard(stream: Any) -> None:
        await stream.aclose()

    begun = time.perf_counter()
    _, stream = await attempts.first_answer(plan, run, discard)
    waits.append(time.perf_counter() - begun)
    async for _ in stream:
        pass


def _chosen(targets: list[Target], board: Liveness, choice: str, draw: random.Random) -> Sequence[Target]:
    return board.order(targets) if choice == "balanced" else draw.sample(targets, 3)


def _sum(providers: list[Provider], what: str) -> int:
    return sum(getattr(provider, what) for provider in providers)


def _hedges(metrics: Metrics) -> int:
    lines = metrics.render().decode().splitlines()
    return round(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("prsm_hedges_total{")))


async def run(arguments: argparse.Namespace) -> None:
    print("| slow | chosen | hedging | p50 ms | p95 ms | p99 ms | calls a request | hedges | given up | to the slow |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    shares, seeds = (0, arguments.share_bps), range(arguments.seed, arguments.seed + arguments.seeds)
    for kind, choice, seed, share_bps in product(arguments.slow, arguments.chosen, seeds, shares):
        got = await measure(kind, choice, share_bps, arguments.requests, arguments.rate, seed)
        name = f"{share_bps / 100:g} %" if share_bps else "off"
        print(
            f"| {kind} | {choice} | {name} | {got.p50} | {got.p95} | {got.p99} | "
            f"{got.calls / got.requests:.3f} | {got.hedges} | {got.given_up} | {got.slow_calls} |",
            flush=True,
        )
        rows.append({"slow": kind, "chosen": choice, "share_bps": share_bps, "seed": seed, **vars(got)})
    if arguments.json:
        print(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--rate", type=float, default=200.0, help="requests begun per second")
    parser.add_argument("--share-bps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after another")
    parser.add_argument("--slow", nargs="+", choices=("always", "at times"), default=("always", "at times"))
    parser.add_argument("--chosen", nargs="+", choices=("even", "balanced"), default=("even", "balanced"))
    parser.add_argument("--json", action="store_true")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
