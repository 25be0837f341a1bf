"""An instant OpenAI-compatible upstream on loopback: prebuilt answers over a bare asyncio.Protocol.

It exists so that a gateway's own cost is what a benchmark sees. A word in the request body picks the behaviour:
``bench-paced`` (one token at a time), ``bench-burst`` (all tokens at once), ``bench-idle`` (one token, then open until
``POST /release``); anything else is answered whole, or as a burst when it asks to stream.
"""

import argparse
import asyncio
import json
import socket
from typing import cast

import uvloop

MARKER = "zq7"
"""One per token in every answer; a load generator counts them to know that an answer came through whole."""
TOKENS = 50
_MAX_REQUEST_BYTES = 1 << 20
_HEAD = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench"}
_USAGE = {"prompt_tokens": 40, "completion_tokens": TOKENS, "total_tokens": 40 + TOKENS}


class Upstream:
    """What all connections share: the streams held open, and the pace of a paced stream."""

    def __init__(self, pace_ms: float) -> None:
        self.pace_s = pace_ms / 1000
        self.held: set[Connection] = set()

    def release(self) -> int:
        """Finish every held stream; how many there were."""
        held, self.held = self.held, set()
        for connection in held:
            connection.finish()
        return len(held)


class Connection(asyncio.Protocol):
    """One client connection; requests on it are answered in order, one at a time."""

    __slots__ = ("_buffer", "_metered", "_streaming", "_transport", "_upstream")

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._metered = False
        self._streaming = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.held.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while not self._streaming and (request := self._next_request()) is not None:
            self._answer(*request)
        if len(self._buffer) > _MAX_REQUEST_BYTES:
            self._transport.close()

    def finish(self) -> None:
        """End the open stream as OpenAI ends one: finish reason, usage if asked for, ``[DONE]``."""
        self._transport.write(_END_METERED if self._metered else _END)
        self._streaming = False

    def _next_request(self) -> tuple[bytes, bytes] | None:
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        head = self._buffer[:head_end].lower()
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + 4 + length
        if len(self._buffer) < end:
            return None
        body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
        return head, body

    def _answer(self, head: bytes, body: bytes) -> None:
        if b"/chat/completions" not in head[:120]:
            self._answer_control(head)
            return
        self._metered = b'"include_usage"' in body
        if b"bench-idle" in body:
            self._streaming = True
            self._upstream.held.add(self)
            self._transport.write(_START + _TOKEN)
        elif b"bench-paced" in body:
            self._streaming = True
            self._transport.write(_START)
            self._pace(TOKENS)
        elif b"bench-burst" in body or b'"stream":true' in body.replace(b" ", b""):
            self._transport.write(_BURST_METERED if self._metered else _BURST)
        else:
            self._transport.write(_WHOLE)

    def _answer_control(self, head: bytes) -> None:
        if head.startswith(b"post /release "):
            self._transport.write(_plain({"released": self._upstream.release()}))
        elif head.startswith(b"get /held "):
            self._transport.write(_plain({"held": len(self._upstream.held)}))
        elif b"/models " in head[:120]:
            self._transport.write(_plain({"object": "list", "data": [{"id": "bench", "object": "model"}]}))
        else:
            self._transport.write(_plain({"error": {"message": "no such path"}}, "404 Not Found"))

    def _pace(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left == 0:
            self.finish()
            return
        self._transport.write(_TOKEN)
        asyncio.get_running_loop().call_later(self._upstream.pace_s, self._pace, left - 1)


def _plain(answer: object, status: str = "200 OK") -> bytes:
    body = json.dumps(answer).encode()
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _event(data: str) -> bytes:
    body = f"data: {data}\n\n".encode()
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


def _chunk(choices: list[object], **more: object) -> bytes:
    return _event(json.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}))


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


_MESSAGE = {"role": "assistant", "content": f"{MARKER} " * TOKENS}
_CHOICE = {"index": 0, "message": _MESSAGE, "finish_reason": "stop"}
_WHOLE = _plain({**_HEAD, "object": "chat.completion", "choices": [_CHOICE], "usage": _USAGE})
_START = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + _delta({"role": "assistant", "content": ""})
)
_TOKEN = _delta({"content": f"{MARKER} "})
_LAST = _delta({}, "stop")
_DONE = _event("[DONE]") + b"0\r\n\r\n"
_END = _LAST + _DONE
_END_METERED = _LAST + _chunk([], usage=_USAGE) + _DONE
_BURST = _START + _TOKEN * TOKENS + _END
_BURST_METERED = _START + _TOKEN * TOKENS + _END_METERED


async def serve(port: int, pace_ms: float) -> None:
    """Answer on 127.0.0.1 until the process is ended."""
    upstream = Upstream(pace_ms)
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(upstream), sock=listener, backlog=4096)
    print("ready", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace-ms", type=float, default=10.0)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.pace_ms))


if __name__ == "__main__":
    main()
