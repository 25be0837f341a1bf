"""What watching costs each request, beside the same calls that nobody watches: microseconds of processor time.

Run: python -m bench.liveness. The least of several rounds is told, for a shared machine only ever adds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID

from prsm.agents.call import ChatCall, Choice, Completion, Delta, EmbedCall, Embeddings, Target, Usage
from prsm.agents.liveness.board import Liveness
from prsm.agents.liveness.sketch import Sketch
from prsm.agents.liveness.sla import Sla
from prsm.agents.liveness.watching import WatchedExecutor

ROUNDS, CALLS = 15, 1_000
CALL = ChatCall(UUID(int=1), [], "m")
PIECES = [[Delta(content="word")] for _ in range(49)] + [[Delta(usage=Usage(10, 50))]]


class Instant:
    """An executor that answers at once."""

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        return Completion([Choice(content="word")], Usage(10, 50))

    async def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        for piece in PIECES:
            yield piece

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        return Embeddings([[0.0]], Usage(1, 0))

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        return ["m"]

    async def aclose(self) -> None:
        """Nothing was opened."""


def instances(count: int) -> list[Target]:
    return [Target(f"p{number}/m", "m", f"p{number}", "instant") for number in range(count)]


async def whole(executor: Any, target: Target) -> None:
    await executor.chat(target, CALL)


async def stream(executor: Any, target: Target) -> None:
    async for _ in executor.chat_stream(target, CALL):
        pass


async def per_call_us(call: Callable[[Any, Target], Coroutine[Any, Any, None]], executor: Any) -> float:
    (target,) = instances(1)
    return await least_us(lambda: call(executor, target))


async def least_us(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    found: list[float] = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        for _ in range(CALLS):
            await work()
        found.append((time.process_time_ns() - begun) / CALLS / 1000)
    return min(found)


def plain_us(work: Callable[[], Any]) -> float:
    found: list[float] = []
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        for _ in range(CALLS):
            work()
        found.append((time.process_time_ns() - begun) / CALLS / 1000)
    return min(found)


async def main() -> None:
    board = Liveness(sla_of=lambda _model: Sla(0.99, first_token_s=1, min_tokens_s=10))
    bare, watched = Instant(), WatchedExecutor(Instant(), board)
    print("us of processor time, least of", ROUNDS, "rounds of", CALLS)
    for name, call in (("whole answer", whole), ("stream of 50 pieces", stream)):
        alone, seen = await per_call_us(call, bare), await per_call_us(call, watched)
        print(f"{name}: {alone:.2f} alone, {seen:.2f} watched: {seen - alone:.2f} more")
    sketch = Sketch(120)
    print(f"sketch: add {plain_us(lambda: sketch.add(0.321, 1e5)):.2f}")
    print(f"sketch: four quantiles {plain_us(lambda: sketch.quantiles((0.05, 0.5, 0.95, 0.99))):.2f}")
    print(f"health of one instance {plain_us(lambda: board.health('p0/m')):.2f}")
    for count in (2, 3, 32):
        of_model = instances(count)
        for target in of_model:
            for _ in range(30):
                await stream(watched, target)
        print(f"order of {count} instances {plain_us(lambda targets=of_model: board.order(targets)):.2f}")

    def sweep() -> None:
        board.groups["m"].touched = True
        board.sweep()

    print(f"sweep over {len(list(board.instances()))} instances of one model {plain_us(sweep):.2f}")
    print(f"verdict on one model {plain_us(lambda: board.verdict('m')):.2f}")


if __name__ == "__main__":
    asyncio.run(main())
