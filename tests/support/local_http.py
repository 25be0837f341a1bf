"""A local HTTP server for tests: real sockets, answers computed from requests, and the faults that real servers show.

Subclasses answer a request; ``fault`` makes every request, or those under one path, misbehave instead.
"""

import hashlib
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FAULTS = (
    *("slow", "drip", "endless", "cut", "reset", "garbage", "not-json", "nan", "deep", "wrong-top", "wide-head"),
    *("redirect", "401", "403", "404", "429", "429-date", "500", "503"),
)
"""What ``fault`` may name; a number is that status, its body repeating the secret that it was asked with."""

RETRY_AFTER_S = 7


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; header names are lower case."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]


@dataclass(slots=True)
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])


class LocalServer(ThreadingHTTPServer):
    """A started server. ``requests`` are those it saw; ``elsewhere`` is where the fault "redirect" leads.

    ``cuts`` are for the next answers: after how many bytes of its body each hangs up.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.requests: list[Request] = []
        self.fault = ""
        self.fault_under = "/"
        self.elsewhere = ""
        self.cuts: list[int] = []
        self.stopping = threading.Event()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "LocalServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def answer(self, request: Request) -> Answer:
        raise NotImplementedError

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


def json_answer(payload: Any, request: Request | None = None, status: int = 200, **headers: str) -> Answer:
    """A JSON answer with its ETag; 304 where the request names that one."""
    body = json.dumps(payload).encode()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:20]}"'
    named = {"Content-Type": "application/json", "ETag": etag, **{k.replace("_", "-"): v for k, v in headers.items()}}
    if request is not None and request.headers.get("if-none-match") == etag:
        return Answer(304, b"", {"ETag": etag})
    return Answer(status, body, named)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalServer

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, parse_qs(parts.query, keep_blank_values=True), headers, body)
        self.server.requests.append(request)
        with suppress(OSError):
            if self.server.fault and parts.path.startswith(self.server.fault_under):
                self._misbehave(self.server.fault, request)
            else:
                self._send(self.server.answer(request))

    do_GET = do_HEAD = do_POST = handle_any

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers and answer.status != 304:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.cuts:
            self.wfile.write(answer.body[: self.server.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(answer.body)

    def _misbehave(self, fault: str, request: Request) -> None:
        # An answer that is whole leaves the connection as it was: a client may ask over it again.
        self.close_connection = fault in _BREAKING
        match fault:
            case "slow":
                self.server.stopping.wait(60)
            case "drip":
                self._head("Content-Length: 1000000")
                while not self.server.stopping.wait(0.02):
                    self.wfile.write(b" ")
            case "endless":
                self._head("X-Endless: 1")
                while not self.server.stopping.is_set():
                    self.wfile.write(b'[{"id": "x"},' * 5_000)
            case "cut":
                self._head("Content-Length: 1000000")
                self.wfile.write(b'{"data": [')
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "garbage":
                self.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            case "wide-head":
                self._head(*(f"X-Wide-{number}: {'w' * 4_000}" for number in range(100)))
            case "not-json" | "nan" | "deep" | "wrong-top":
                self._send(Answer(200, _WRONG_BODIES[fault], {"Content-Type": "application/json"}))
            case "redirect":
                self._send(Answer(302, b"", {"Location": self.server.elsewhere}))
            case _:
                self._send(_refusal(fault, request))

    def _head(self, *lines: str) -> None:
        self.wfile.write("\r\n".join(["HTTP/1.1 200 OK", "Content-Type: application/json", *lines, "", ""]).encode())


_BREAKING = {"slow", "drip", "endless", "cut", "reset", "garbage", "wide-head"}
_WRONG_BODIES = {
    "not-json": b"<html>oops</html>",
    "nan": b'{"data": [{"id": NaN}], "models": NaN}',
    "deep": b"[" * 100_000,
    "wrong-top": b'{"data": 5, "models": "none"}',
}


def _refusal(fault: str, request: Request) -> Answer:
    told = f"refused with {request.headers.get('authorization', 'no secret')}"
    retry = "Wed, 21 Oct 2065 07:28:00 GMT" if fault == "429-date" else str(RETRY_AFTER_S)
    headers = {"Retry-After": retry} if fault.startswith("429") else {}
    return Answer(int(fault[:3]), json.dumps({"error": told}).encode(), {"X-Error-Message": told, **headers})
