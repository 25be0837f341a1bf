"""What a call to an upstream costs: CPU per request and per stream, and memory per stream held open.

An instant upstream runs in its own process; only this process's CPU and memory count. aiohttp does the same calls in
the same run, interleaved, as the peer to compare with. ``python -m bench.upstream_client [--streams 1000]``
"""

import argparse
import asyncio
import functools
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import uvloop

from prsm.agents.call import ChatCall, Target
from prsm.agents.executors.http_client import HttpClient
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor
from prsm.core.clock import uuid7

ROUNDS = 5
MESSAGES = [{"role": "user", "content": "What is six times seven? Answer in one sentence, please."}]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--port", type=int, default=9377)
    options = parser.parse_args()
    command = [sys.executable, "-m", "tests.support.upstream", "--port", str(options.port)]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert upstream.stdout is not None
        upstream.stdout.readline()
        base = f"http://127.0.0.1:{options.port}/v1"
        report = await cpu(base, options.requests, options.concurrency)
        report |= await memory(base, options.streams)
        print(json.dumps(report, indent=2))
    finally:
        upstream.terminate()
        upstream.wait()


async def cpu(base: str, requests: int, concurrency: int) -> dict[str, float]:
    """Median CPU microseconds per call of each contender, warmed, interleaved."""
    client = HttpClient()
    executor = OpenAICompatibleExecutor(client)
    contenders = {
        "client_post_us": lambda: raw_post(client, base),
        "executor_chat_us": lambda: chat(executor, base),
        "executor_stream_50_us": lambda: stream(executor, base),
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        contenders["aiohttp_post_us"] = lambda: aiohttp_post(session, base)
        contenders["aiohttp_stream_50_lines_us"] = lambda: aiohttp_stream(session, base)
        seen: dict[str, list[float]] = {name: [] for name in contenders}
        for name in list(contenders) * ROUNDS:
            count = requests // 5 if "stream" in name else requests
            seen[name].append(await cpu_us(contenders[name], count, concurrency))
    await client.aclose()
    return {name: round(sorted(values)[len(values) // 2], 1) for name, values in seen.items()}


async def cpu_us(call: Callable[[], Awaitable[None]], count: int, concurrency: int) -> float:
    async def worker() -> None:
        for _ in range(count // concurrency):
            await call()

    await call()
    before = time.process_time()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return (time.process_time() - before) / (count // concurrency * concurrency) * 1e6


@functools.cache
def target(base: str, model: str) -> Target:
    return Target(name=model, upstream_name=model, provider="bench", kind="compatible", base_url=base, api_key="sk-x")


@functools.cache
def call_of(model: str, *, streamed: bool = False) -> ChatCall:
    return ChatCall(uuid7(), MESSAGES, model, stream=streamed, options={"temperature": 0.5})


async def chat(executor: OpenAICompatibleExecutor, base: str) -> None:
    completion = await executor.chat(target(base, "instant"), call_of("instant"))
    assert completion.usage is not None


async def stream(executor: OpenAICompatibleExecutor, base: str) -> None:
    pieces = 0
    async for deltas in executor.chat_stream(target(base, "instant-50"), call_of("instant-50", streamed=True)):
        pieces += len(deltas)
    assert pieces == 52, pieces


BODY = json.dumps({"model": "instant", "messages": MESSAGES, "stream": False}, separators=(",", ":")).encode()
BODY_50 = json.dumps({"model": "instant-50", "messages": MESSAGES, "stream": True}, separators=(",", ":")).encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-x"}


async def raw_post(client: HttpClient, base: str) -> None:
    url = f"{base}/chat/completions"
    response = await client.post(url, b"content-type: application/json\r\nauthorization: Bearer sk-x\r\n", BODY)
    assert response.status == 200


async def aiohttp_post(session: aiohttp.ClientSession, base: str) -> None:
    async with session.post(f"{base}/chat/completions", data=BODY, headers=HEADERS) as response:
        assert response.status == 200
        await response.read()


async def aiohttp_stream(session: aiohttp.ClientSession, base: str) -> None:
    lines = 0
    async with session.post(f"{base}/chat/completions", data=BODY_50, headers=HEADERS) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                json.loads(line[6:])
                lines += 1
    assert lines > 50


async def memory(base: str, count: int) -> dict[str, float]:
    """Resident kilobytes per open stream that waits for its next token, each held by a task as a server would."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    client = HttpClient()
    executor = OpenAICompatibleExecutor(client)
    holders: list[asyncio.Task[None]] = []
    begun = 0

    async def hold() -> None:
        nonlocal begun
        async for _ in executor.chat_stream(held, call_of("hold", streamed=True)):
            begun += 1

    held = target(base, "hold")
    results: dict[str, float] = {}
    for stage, wanted in (("warm", 100), ("held", count)):
        gc.collect()
        before = resident_kb()
        first = len(holders)
        for _ in range(wanted):
            holders.append(asyncio.create_task(hold()))
            if len(holders) % 50 == 0:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            while begun < len(holders) and not any(holder.done() for holder in holders):
                await asyncio.sleep(0.01)
        gc.collect()
        assert begun >= len(holders), "a stream failed"
        if stage == "held":
            results["kb_per_idle_stream"] = round((resident_kb() - before) / (len(holders) - first), 2)
            results["idle_streams"] = wanted
    busy = time.process_time()
    await asyncio.sleep(2)
    results["idle_cpu_percent"] = round((time.process_time() - busy) / 2 * 100, 2)
    for holder in holders:
        holder.cancel()
    await asyncio.gather(*holders, return_exceptions=True)
    results["connections_left"] = client.open_connections()
    await client.aclose()
    return results


def resident_kb() -> float:
    status = Path("/proc/self/statm").read_text().split()
    return int(status[1]) * resource.getpagesize() / 1024


if __name__ == "__main__":
    uvloop.run(main())
