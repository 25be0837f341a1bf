"""The load generator: one process, raw sockets on uvloop, keep-alive, every answer checked.

A job (one JSON line on stdin) opens connections and says what a good answer is: status 200 and an exact count of the
upstream's marker. ``closed``: each connection sends its next request when the last was answered. ``hold``: each
connection opens one stream that the upstream keeps open. Phases are steered by lines on stdin, so that the caller can
read counters of the server between them; at each boundary nothing is in flight (closed) or all streams rest (hold).
"""

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

from bench.http_reader import ResponseReader
from bench.upstream import MARKER

_MARKER = MARKER.encode()
_RECONNECT_DELAY_S = 0.05
_CONNECT_WIDTH = 100
_RAMP_WIDTH = 64
_END_OF_STREAM = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Job:
    """What to send and for how long. ``markers``: how often the marker stands in a good answer."""

    mode: str
    port: int
    headers: dict[str, str]
    body: dict[str, Any]
    connections: int
    markers: int
    seconds: float = 5.0
    warmup_requests: int = 100
    drain_s: float = 120.0
    ramp_s: float = 180.0
    first_token_s: float = 60.0

    def request(self) -> bytes:
        """The request as bytes; the same for every send."""
        body = json.dumps(self.body).encode()
        headers = {"host": f"127.0.0.1:{self.port}", "content-type": "application/json", **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Tally:
    """What one phase saw. Latencies are microseconds, one per good answer, from send to last byte."""

    latencies_us: list[int] = field(default_factory=list[int])
    first_token_us: list[int] = field(default_factory=list[int])
    errors: Counter[str] = field(default_factory=Counter[str])
    started_s: float = field(default_factory=time.perf_counter)
    ended_s: float = 0.0

    def report(self) -> dict[str, Any]:
        """Exact percentiles; seconds run from the first send to the last answer."""
        seconds = self.ended_s - self.started_s
        return {
            "requests": len(self.latencies_us),
            "seconds": seconds,
            "errors": dict(self.errors),
            **_percentiles("latency", self.latencies_us),
            **_percentiles("first_token", self.first_token_us),
        }


class Client(asyncio.Protocol):
    """One connection. It measures and checks its own answers and tells the run when it is free again."""

    __slots__ = ("_first_token_us", "_reader", "_run", "_sent_ns", "busy", "transport")

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._reader = ResponseReader()
        self._sent_ns = 0
        self._first_token_us = -1
        self.busy = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the request; the run hears ``answered`` or ``failed`` exactly once."""
        self.busy = True
        self._first_token_us = -1
        self._reader.reset()
        self._sent_ns = time.perf_counter_ns()
        self.transport.write(self._run.request)

    def abandon(self, why: str) -> None:
        """Give up on the answer under way; the run hears ``failed``."""
        self.busy = False
        self.transport.abort()
        self._run.failed(self, why)

    def data_received(self, data: bytes) -> None:
        if self._first_token_us < 0 and _MARKER in data:
            self._first_token_us = (time.perf_counter_ns() - self._sent_ns) // 1000
            self._run.first_token(self)
        if not self.busy:
            self._run.tally.errors["unasked bytes"] += 1
            self.transport.abort()
            return
        try:
            complete = self._reader.feed(data)
        except ValueError:
            self.abandon("malformed")
            return
        if complete:
            self._complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.abandon("closed by the server")
        else:
            self._run.lost(self)

    def _complete(self) -> None:
        latency_us = (time.perf_counter_ns() - self._sent_ns) // 1000
        reader = self._reader
        if reader.status != 200:
            self.abandon(f"status {reader.status}")
            return
        body = reader.body
        if body.count(_MARKER) != self._run.job.markers or (self._run.streaming and _END_OF_STREAM not in body):
            self.abandon("wrong body")
            return
        self.busy = False
        if reader.closes:
            self.transport.close()
        self._run.answered(self, latency_us, self._first_token_us)


class Run:
    """All connections of one job and the phase they are in."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = job.request()
        self.streaming = bool(job.body.get("stream"))
        self.clients: set[Client] = set()
        self.tally = Tally()
        self._quota = 0
        self._deadline_s = 0.0
        self._in_flight = 0
        self._rest = asyncio.Event()
        self._reconnects: set[asyncio.Task[None]] = set()
        self._waiting: dict[Client, asyncio.Future[None]] = {}

    async def connect(self) -> Client | None:
        """One more connection, or None (counted as an error)."""
        try:
            loop = asyncio.get_running_loop()
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.job.port)
        except OSError as error:
            self.tally.errors[f"connect: {error.strerror}"] += 1
            return None
        self.clients.add(client)
        return client

    async def fill(self) -> None:
        """Connect until the job's number of connections is there; one that fails is not tried again."""
        missing = self.job.connections - len(self.clients)
        for start in range(0, missing, _CONNECT_WIDTH):
            await asyncio.gather(*(self.connect() for _ in range(min(_CONNECT_WIDTH, missing - start))))

    async def closed_phase(self, quota: int, seconds: float) -> Tally:
        """Send on all connections until quota or time is used up; wait for every answer, at most drain_s."""
        self.tally = Tally()
        self._quota, self._deadline_s = quota, time.perf_counter() + seconds
        self._rest.clear()
        for client in list(self.clients):
            self._next(client)
        try:
            async with asyncio.timeout(seconds + self.job.drain_s):
                await self._rest.wait()
        except TimeoutError:
            self.tally.errors["unanswered"] += self._in_flight
        self.tally.ended_s = time.perf_counter()
        return self.tally

    async def open_stream(self) -> None:
        """Connect, send, and wait for the first token; the stream then rests."""
        client = await self.connect()
        if client is None:
            return
        opened = self._waiting[client] = asyncio.get_running_loop().create_future()
        self._in_flight += 1
        client.send()
        try:
            async with asyncio.timeout(self.job.first_token_s):
                await opened
        except TimeoutError:
            client.abandon(f"no first token in {self.job.first_token_s:.0f} s")

    def first_token(self, client: Client) -> None:
        """Called by a client: its stream began."""
        self._wake(client)

    def answered(self, client: Client, latency_us: int, first_token_us: int) -> None:
        """Called by a client: a good answer is complete."""
        self.tally.latencies_us.append(latency_us)
        if self.streaming:
            self.tally.first_token_us.append(first_token_us)
        self._in_flight -= 1
        self._next(client)

    def failed(self, client: Client, why: str) -> None:
        """Called by a client: its request came to nothing; its connection is gone."""
        self.tally.errors[why] += 1
        self._in_flight -= 1
        self._wake(client)
        self.lost(client)
        self._settle()

    def lost(self, client: Client) -> None:
        """Called by a client: its connection is gone. A closed loop keeps its width by opening another."""
        known = client in self.clients
        self.clients.discard(client)
        if known and self._may_send():
            task = asyncio.create_task(self._reconnect())
            self._reconnects.add(task)
            task.add_done_callback(self._reconnects.discard)

    async def _reconnect(self) -> None:
        while self._may_send():
            await asyncio.sleep(_RECONNECT_DELAY_S)
            client = await self.connect()
            if client is not None:
                self._next(client)
                return
        self._settle()

    def _may_send(self) -> bool:
        return self._quota > 0 and time.perf_counter() < self._deadline_s

    def _next(self, client: Client) -> None:
        if self._may_send() and not client.transport.is_closing():
            self._quota -= 1
            self._in_flight += 1
            client.send()
        else:
            self._settle()

    def _settle(self) -> None:
        if self._in_flight == 0 and not (self._may_send() and (self.clients or self._reconnects)):
            self._rest.set()

    def _wake(self, client: Client) -> None:
        waiting = self._waiting.pop(client, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


async def closed(job: Job) -> None:
    """Connect, warm up with at least one answer per connection at full width, wait for ``go``, measure."""
    run = Run(job)
    await run.fill()
    warm = await run.closed_phase(max(job.warmup_requests, job.connections), job.drain_s)
    await run.fill()
    _say({"connected": len(run.clients), "warmup_errors": dict(warm.errors)})
    await _hear("go")
    cpu_s = time.process_time()
    tally = await run.closed_phase(sys.maxsize, job.seconds)
    _say({**tally.report(), "generator_cpu_s": time.process_time() - cpu_s})


async def hold(job: Job) -> None:
    """Open the streams, prove them alive when told ``check``, and see each end properly after ``finish``."""
    run = Run(job)
    loop = asyncio.get_running_loop()
    until_s = loop.time() + job.ramp_s
    left = job.connections

    async def opener() -> None:
        nonlocal left
        while left > 0 and loop.time() < until_s:
            left -= 1
            await run.open_stream()

    started_s = loop.time()
    openers = asyncio.gather(*(opener() for _ in range(_RAMP_WIDTH)))
    try:
        await asyncio.wait_for(openers, job.ramp_s + job.drain_s)
    except TimeoutError:
        run.tally.errors["no first token"] += 1
    _say({"opened": len(run.clients), "ramp_s": loop.time() - started_s, "errors": dict(run.tally.errors)})
    await _hear("check")
    _say({"alive": sum(client.busy and not client.transport.is_closing() for client in run.clients)})
    await _hear("finish")
    until_s = loop.time() + job.drain_s
    while any(client.busy for client in run.clients) and loop.time() < until_s:
        await asyncio.sleep(0.05)
    _say({"ended_properly": len(run.tally.latencies_us), "errors": dict(run.tally.errors)})


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    uvloop.run({"closed": closed, "hold": hold}[job.mode](job))


def _percentiles(name: str, values_us: list[int]) -> dict[str, float]:
    if not values_us:
        return {}
    ordered = sorted(values_us)
    last = len(ordered) - 1
    at = {"p50": ordered[round(last * 0.5)], "p99": ordered[round(last * 0.99)], "max": ordered[-1]}
    return {f"{name}_{rank}_ms": value / 1000 for rank, value in at.items()}


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def _hear(word: str) -> None:
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    if line.strip() != word:
        raise SystemExit(f"expected {word!r} on stdin, got {line!r}")


if __name__ == "__main__":
    main()
