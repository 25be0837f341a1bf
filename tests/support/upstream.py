"""A model provider for tests and benchmarks: a real HTTP server that speaks OpenAI, Anthropic and Hugging Face.

It is a protocol peer, not a model: it answers with the last user message, calls the first tool it is offered, and
meters one token per word. The model's name picks its behaviour: ``instant`` and ``instant-50`` are prebuilt answers,
``hold`` sends one token and keeps the stream open, ``fault-503`` fails with that status, and the names in
``_FAULTS`` misbehave. Run it alone: ``python -m tests.support.upstream --port 9000``.
"""

import argparse
import asyncio
import itertools
import json
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import Any

import httptools

KEY = "sk-upstream-test-key-0123456789"
_EMBED_DIMENSIONS = 8


class UpstreamServer:
    """A started server; counts what it saw so that tests can ask."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[_Peer] = set()
        self.accepted = 0
        self.keep_requests = True
        self.attempts: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> "UpstreamServer":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", port, backlog=4096, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in list(self.connections):
            peer.drop()
        await asyncio.sleep(0)

    async def until_connections(self, count: int, timeout_s: float = 5.0) -> None:
        """Wait until exactly ``count`` connections are open."""
        async with asyncio.timeout(timeout_s):
            while len(self.connections) != count:
                await asyncio.sleep(0.005)


class _Peer(asyncio.Protocol):
    __slots__ = ("body", "header_pairs", "parser", "path", "server", "task", "transport")

    def __init__(self, server: UpstreamServer) -> None:
        self.server = server
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""
        self.path = ""
        self.header_pairs: dict[str, str] = {}
        self.task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.add(self)
        self.server.accepted += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def drop(self) -> None:
        self.transport.abort()

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()
        self.body = b""
        self.header_pairs = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.server.keep_requests:
            self.header_pairs[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        for mark, streamed, whole in _PREBUILT:
            if mark in self.body:
                self.transport.write(streamed if b'"stream":true' in self.body else whole)
                return
        request = json.loads(self.body) if self.body else {}
        if self.server.keep_requests:
            self.server.requests.append(request)
            self.server.paths.append(self.path)
            self.server.headers.append(self.header_pairs)
        self.answer(request)

    def answer(self, request: dict[str, Any]) -> None:
        model = str(request.get("model", ""))
        count = self.server.attempts[model] = self.server.attempts.get(model, 0) + 1
        if model.startswith("fault-"):
            self.transport.write(_failure(int(model[6:9]), self.path))
        elif model == "stale-once" and count == 2:
            self.transport.close()  # what a server does whose keep-alive time ran out
        elif model in _FAULTS:
            self.task = asyncio.get_running_loop().create_task(_FAULTS[model](self, request))
        elif model == "hold":
            begun = itertools.islice(_events(self.path, request), 4)
            self.transport.write(_stream_head() + b"".join(map(_chunk, begun)))
        else:
            self.transport.write(_plain_answer(self.path, request))


def _plain_answer(path: str, request: dict[str, Any]) -> bytes:
    if path.endswith("/models") or "/models?" in path:
        return _json(200, {"object": "list", "data": [{"id": "echo"}, {"id": "instant"}]})
    if path.endswith("/feature-extraction"):
        if "/models/loading/" in path:
            return _json(503, {"error": "Model loading is currently loading", "estimated_time": 12.5})
        if "/models/token-level/" in path:
            return _json(200, [[[0.0, 1.0]] for _ in request["inputs"]])
        return _json(200, [_vector(text) for text in request["inputs"]])
    if path.endswith("/embeddings"):
        rows = [{"index": i, "embedding": _vector(text)} for i, text in enumerate(request["input"])]
        tokens = sum(_tokens(text) for text in request["input"])
        return _json(200, {"data": rows[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
    if request.get("stream"):
        return _stream_head() + b"".join(map(_chunk, _events(path, request))) + b"0\r\n\r\n"
    return _json(200, (_anthropic_whole if path.endswith("/messages") else _openai_whole)(request))


# What is said: the last user message, or a call of the first tool.


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") or str(part.get("content", "")) for part in content or [])


def _echo(request: dict[str, Any]) -> str:
    """What the user said last; a model called ``judge`` says which of two answers in it has more words."""
    if request["model"] == "judge":
        answers = re.findall(r"<answer [AB] \w+>\n(.*?)\n</answer", request["messages"][-1]["content"], re.DOTALL)
        return "A" if len(answers[0].split()) > len(answers[1].split()) else "B"
    users = [m for m in request["messages"] if m["role"] in ("user", "tool")]
    return _text_of(users[-1]["content"]) if users else ""


def _wants_tool(request: dict[str, Any]) -> dict[str, Any] | None:
    last = request["messages"][-1]
    answered = last["role"] == "tool" or "tool_result" in json.dumps(last)
    if not request.get("tools") or answered:
        return None
    tool = request["tools"][0]
    return {"name": tool.get("function", tool)["name"], "arguments": json.dumps({"city": "Zürich", "days": 2})}


def _tokens(text: str) -> int:
    return len(text.split())


def _input_tokens(request: dict[str, Any]) -> int:
    return sum(_tokens(_text_of(m.get("content"))) for m in request["messages"])


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word + (" " if i + 1 < len(words) else "") for i, word in enumerate(words)]


def _vector(text: str) -> list[float]:
    return [float((len(text) + i) % 7) / 7 for i in range(_EMBED_DIMENSIONS)]


# OpenAI


def _openai_usage(request: dict[str, Any], text: str) -> dict[str, Any]:
    tokens = _input_tokens(request)
    return {
        "prompt_tokens": tokens,
        "completion_tokens": _tokens(text),
        "total_tokens": tokens + _tokens(text),
        "prompt_tokens_details": {"cached_tokens": 1 if tokens else 0},
    }


def _openai_whole(request: dict[str, Any]) -> dict[str, Any]:
    tool, text = _wants_tool(request), _echo(request)
    message: dict[str, Any] = {"role": "assistant", "content": None if tool else text}
    if tool:
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": tool}]
    if request["model"] == "thinker":
        message["reasoning_content"] = "let me think"
    if request["model"] == "refuser":
        message |= {"content": None, "refusal": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if tool else "stop"}],
        "usage": _openai_usage(request, tool["arguments"] if tool else text),
    }


def _openai_events(request: dict[str, Any]) -> Iterator[bytes]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        return _sse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": request["model"],
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )

    tool, text = _wants_tool(request), _echo(request)
    yield chunk({"role": "assistant", "content": ""})
    if request["model"] == "thinker":
        yield chunk({"reasoning_content": "let me "})
        yield chunk({"reasoning_content": "think"})
    if tool:
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": tool["name"], "arguments": ""}}
        yield chunk({"tool_calls": [start]})
        half = len(tool["arguments"]) // 2
        for part in (tool["arguments"][:half], tool["arguments"][half:]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        for piece in _pieces(text):
            yield chunk({"content": piece})
    yield chunk({}, "tool_calls" if tool else "stop")
    if (request.get("stream_options") or {}).get("include_usage"):
        usage = _openai_usage(request, tool["arguments"] if tool else text)
        yield _sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


# Anthropic


def _anthropic_usage(request: dict[str, Any], text: str) -> dict[str, int]:
    tokens = _input_tokens(request) + _tokens(_text_of(request.get("system", "")))
    cached = 1 if tokens else 0
    return {
        "input_tokens": tokens - cached,
        "output_tokens": _tokens(text),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
    }


def _anthropic_whole(request: dict[str, Any]) -> dict[str, Any]:
    tool, text = _wants_tool(request), _echo(request)
    blocks: list[dict[str, Any]] = []
    if request["model"] == "thinker":
        blocks.append({"type": "thinking", "thinking": "let me think", "signature": "s"})
    if tool:
        arguments = json.loads(tool["arguments"])
        blocks.append({"type": "tool_use", "id": "call_1", "name": tool["name"], "input": arguments})
    else:
        blocks.append({"type": "text", "text": text})
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": blocks,
        "stop_reason": "tool_use" if tool else "end_turn",
        "stop_sequence": None,
        "usage": _anthropic_usage(request, tool["arguments"] if tool else text),
    }


def _anthropic_events(request: dict[str, Any]) -> Iterator[bytes]:
    whole = _anthropic_whole(request)
    usage = whole["usage"]
    yield _named({"type": "message_start", "message": {**whole, "content": [], "usage": {**usage, "output_tokens": 1}}})
    yield _named({"type": "ping"})
    for index, block in enumerate(whole["content"]):
        empty: dict[str, Any] = {"text": ""} if block["type"] == "text" else {"input": {}}
        start = {"type": "thinking", "thinking": ""} if block["type"] == "thinking" else {**block, **empty}
        yield _named({"type": "content_block_start", "index": index, "content_block": start})
        for delta in _anthropic_deltas(block):
            yield _named({"type": "content_block_delta", "index": index, "delta": delta})
        yield _named({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _named({"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage["output_tokens"]}})
    yield _named({"type": "message_stop"})


def _anthropic_deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": "let me "}
        yield {"type": "thinking_delta", "thinking": "think"}
        yield {"type": "signature_delta", "signature": "s"}
    elif block["type"] == "tool_use":
        text = json.dumps(block["input"])
        yield {"type": "input_json_delta", "partial_json": text[:7]}
        yield {"type": "input_json_delta", "partial_json": text[7:]}
    else:
        for piece in _pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}


# Framing


def _events(path: str, request: dict[str, Any]) -> Iterator[bytes]:
    return (_anthropic_events if path.endswith("/messages") else _openai_events)(request)


def _sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def _named(payload: dict[str, Any]) -> bytes:
    return b"event: " + payload["type"].encode() + b"\n" + _sse(payload)


def _json(status: int, payload: Any, extra: str = "") -> bytes:
    body = json.dumps(payload, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def _stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _failure(status: int, path: str) -> bytes:
    message = f"the upstream says {status} about key {KEY}"
    error: dict[str, Any] = {"error": {"message": message, "type": "some_error", "code": None}}
    if path.endswith("/messages"):
        error = {"type": "error", "error": {"type": "some_error", "message": message}}
    return _json(status, error, "retry-after: 3\r\n" if status in (429, 503) else "")


# Faults: each is what some real server has done.


async def _hang(peer: _Peer, request: dict[str, Any]) -> None:
    await asyncio.sleep(3600)


async def _slow_first_byte(peer: _Peer, request: dict[str, Any]) -> None:
    await asyncio.sleep(0.15)
    peer.transport.write(_plain_answer(peer.path, request))


async def _drip(peer: _Peer, request: dict[str, Any]) -> None:
    for byte in _plain_answer(peer.path, request):
        peer.transport.write(bytes([byte]))
        await asyncio.sleep(0)


async def _stall(peer: _Peer, request: dict[str, Any]) -> None:
    answer = _plain_answer(peer.path, request)
    peer.transport.write(answer[: len(answer) * 2 // 3])
    await asyncio.sleep(3600)


async def _cut_mid_stream(peer: _Peer, request: dict[str, Any]) -> None:
    answer = _plain_answer(peer.path, request)
    peer.transport.write(answer[: len(answer) * 2 // 3])
    await asyncio.sleep(0.02)
    peer.transport.close()


async def _end_early(peer: _Peer, request: dict[str, Any]) -> None:
    """A well-formed stream whose answer never finishes; without stream, an answer shorter than it says."""
    if not request.get("stream"):
        await _cut_mid_stream(peer, request)
        return
    events = list(_events(peer.path, request))
    peer.transport.write(_stream_head() + b"".join(map(_chunk, events[: len(events) // 2])) + b"0\r\n\r\n")


async def _cut_before_first(peer: _Peer, request: dict[str, Any]) -> None:
    """The role, and then the end of the connection; without stream, a part of the head."""
    if request.get("stream"):
        peer.transport.write(_stream_head() + _chunk(next(_events(peer.path, request))))
    else:
        peer.transport.write(_plain_answer(peer.path, request)[:40])
    await asyncio.sleep(0.02)
    peer.transport.close()


async def _empty_stream(peer: _Peer, request: dict[str, Any]) -> None:
    """A well-formed stream of nothing; without stream, an answer of no choice."""
    done = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    peer.transport.write(_stream_head() + done if request.get("stream") else _json(200, {"choices": []}))


async def _reset(peer: _Peer, request: dict[str, Any]) -> None:
    sock = peer.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
    peer.transport.abort()


async def _garbage(peer: _Peer, request: dict[str, Any]) -> None:
    peer.transport.write(b"\x16\x03\x01 this is no HTTP at all\r\n\r\n")


async def _not_json(peer: _Peer, request: dict[str, Any]) -> None:
    if request.get("stream"):
        peer.transport.write(_stream_head() + _chunk(b"data: <html>oops</html>\n\n") + b"0\r\n\r\n")
    else:
        peer.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n<html>oops</html>")


async def _huge(peer: _Peer, request: dict[str, Any]) -> None:
    peer.transport.write(_stream_head())
    block = _chunk(b"data: " + b"x" * 65_530)
    for _ in range(4096):
        peer.transport.write(block)
        await asyncio.sleep(0)


async def _huge_head(peer: _Peer, request: dict[str, Any]) -> None:
    peer.transport.write(b"HTTP/1.1 200 OK\r\nx-filler: ")
    for _ in range(4096):
        peer.transport.write(b"y" * 1024)
        await asyncio.sleep(0)


async def _error_mid_stream(peer: _Peer, request: dict[str, Any]) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded", "code": 503}}
    if not request.get("stream"):
        peer.transport.write(_failure(500, peer.path))
        return
    events = [next(_events(peer.path, request)), _named(error) if peer.path.endswith("/messages") else _sse(error)]
    peer.transport.write(_stream_head() + b"".join(map(_chunk, events)) + b"0\r\n\r\n")


async def _until_eof(peer: _Peer, request: dict[str, Any]) -> None:
    """HTTP/1.0 manner: no length, the end of the connection ends the body."""
    if request.get("stream"):
        body = b"".join(_events(peer.path, request))
    else:
        body = _plain_answer(peer.path, request).partition(b"\r\n\r\n")[2]
    peer.transport.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body)
    await asyncio.sleep(0.02)
    peer.transport.close()


async def _early_hints(peer: _Peer, request: dict[str, Any]) -> None:
    peer.transport.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    await asyncio.sleep(0.01)
    peer.transport.write(_plain_answer(peer.path, request))


async def _excess(peer: _Peer, request: dict[str, Any]) -> None:
    """A second answer nobody asked for, right behind the first."""
    peer.transport.write(_plain_answer(peer.path, request) + _json(200, {"error": {"message": "smuggled"}}))


async def _type(peer: _Peer, request: dict[str, Any]) -> None:
    """A word every now and then; goes on with a trailing assistant message, as vLLM does when it is told to."""
    text, last = _echo(request), request["messages"][-1]
    said = _text_of(last["content"]) if last["role"] == "assistant" else ""
    if said and not request.get("continue_final_message"):
        peer.transport.write(_json(400, {"error": {"message": "Cannot set `add_generation_prompt` here."}}))
        return
    assert text.startswith(said), (text, said)
    pieces = _pieces(text[len(said) :])

    def chunk(delta: dict[str, Any], **more: Any) -> bytes:
        return _chunk(_sse({"id": "1", "choices": [{"index": 0, "delta": delta, **more}]}))

    peer.transport.write(_stream_head())
    for piece in pieces:
        peer.transport.write(chunk({"content": piece}))
        await asyncio.sleep(0.02)
    usage = {"prompt_tokens": _input_tokens(request), "completion_tokens": sum(map(bool, map(str.strip, pieces)))}
    peer.transport.write(chunk({}, finish_reason="stop") + _chunk(_sse({"choices": [], "usage": usage})))
    peer.transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _quote(peer: _Peer, request: dict[str, Any]) -> None:
    """Refuse with all that was sent in the error's text, as providers do; streams in their middle."""
    words = [str(message.get("content")) for message in request.get("messages", [])]
    said = {"message": " ".join([*words, *map(str, peer.header_pairs.items())]), "code": "quoted"}
    body = {"type": "error", "error": said}
    if not request.get("stream"):
        peer.transport.write(_json(500 if request["model"] == "quote-500" else 400, body))
        return
    events = [next(_events(peer.path, request)), _named(body) if peer.path.endswith("/messages") else _sse(body)]
    peer.transport.write(_stream_head() + b"".join(map(_chunk, events)) + b"0\r\n\r\n")


_FAULTS = {
    "typing": _type,
    "typing-plain": _type,
    "quote-400": _quote,
    "quote-500": _quote,
    "hang": _hang,
    "slow-first-byte": _slow_first_byte,
    "drip": _drip,
    "stall": _stall,
    "cut-mid-stream": _cut_mid_stream,
    "cut-before-first": _cut_before_first,
    "empty-stream": _empty_stream,
    "end-early": _end_early,
    "reset": _reset,
    "garbage": _garbage,
    "not-json": _not_json,
    "huge": _huge,
    "huge-head": _huge_head,
    "error-mid-stream": _error_mid_stream,
    "until-eof": _until_eof,
    "early-hints": _early_hints,
    "excess": _excess,
}


def _prebuilt(model: str, text: str) -> tuple[bytes, bytes, bytes]:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream_options": {"include_usage": True},
    }
    streamed = _stream_head() + b"".join(map(_chunk, _openai_events(request))) + b"0\r\n\r\n"
    return b'"model":"%b"' % model.encode(), streamed, _json(200, _openai_whole(request))


_PREBUILT = (
    _prebuilt("instant", "The answer is forty-two."),
    _prebuilt("instant-50", " ".join(f"word{i}" for i in range(50))),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="A model provider for tests and benchmarks, on loopback.")
    parser.add_argument("--port", type=int, default=9000)
    port: int = parser.parse_args().port

    async def serve() -> None:
        server = UpstreamServer()
        server.keep_requests = False
        await server.start(port)
        print(f"listening on {server.origin}", flush=True)
        await asyncio.Event().wait()

    try:
        import uvloop  # optional: absent on Windows

        uvloop.run(serve())
    except ImportError:
        asyncio.run(serve())


if __name__ == "__main__":
    main()
