"""The command line's way to a node: plain HTTP to its API, errors as the sentences that the node wrote.

A client may be used by several threads, each request on a connection of its own; one that is done carries the next.
"""

import http.client
import json
import random
import socket
import string
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

from prsm.core.config import Settings
from prsm.core.errors import Kind, PrsmError

KEY_FILE = "operator.key"
_CONNECT_S = 10
_TIMEOUT_S = 660
_MOST_WAITED_S = 300.0
"""How long a command that asks much waits in all for its turn, before one request of it is given up."""
_MOST_WAIT_S = 30.0
_SPARE_S = 10.0
"""A connection that was idle for longer is not used again: the node may be closing it just now."""
_PIECE_BYTES = 256 * 1024
_LANES = 4
"""As many files as a node takes from one caller at the same time."""
_GRACE_S = 2.0
"""How long answers may still come when all is ended, so that what the node has done by then is known."""

Item = TypeVar("Item")
Pieces = Callable[[], Iterator[bytes]]
"""A body, as often from its beginning as it is called."""


class NodeUnreachable(PrsmError):
    """No node answers at the address."""

    kind = Kind.UNAVAILABLE
    code = "node_unreachable"


class BrokeOff(NodeUnreachable):
    """The node stopped in the midst of an answer."""


class Ended(PrsmError):
    """This computer ended the request."""

    code = "ended"


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an answer as it comes; ``pieces`` raises BrokeOff when it ends before its length."""

    size_bytes: int | None
    etag: str
    pieces: Iterator[bytes]


@dataclass(slots=True)
class _Line:
    """A connection; its socket is kept beside it, for an answer that closes takes it from the connection."""

    connection: http.client.HTTPConnection
    socket: socket.socket
    answer: http.client.HTTPResponse | None = None
    idle_since_s: float = 0.0


class NodeClient:
    """One node's API, spoken to with one key."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        self._key = key
        self._lock = threading.Lock()
        self._spare: list[_Line] = []
        self._busy: list[_Line] = []
        self._stopped = threading.Event()

    @classmethod
    def of(cls, settings: Settings) -> "NodeClient":
        """The node that the settings name; the key is ``api_key``, or the operator's from the node's home."""
        return cls(settings.address, settings.api_key or _operator_key(settings))

    def another(self) -> "NodeClient":
        """The same node by connections that can be ended without this one's."""
        return NodeClient(self.address, self._key)

    def stop(self) -> None:
        """Begin nothing more: no request, no piece of a body. What is on its way raises Ended at the next piece."""
        self._stopped.set()

    def end(self) -> None:
        """Stop, and cut every connection, whatever it waits for."""
        self.stop()
        with self._lock:
            for line in (*self._busy, *self._spare):
                with suppress(OSError):
                    line.socket.shutdown(socket.SHUT_RDWR)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The decoded JSON of an answer, None for an empty one. Raises PrsmError."""
        with self._exchange(method, path, _encoded(body), headers or {}) as response, _reading():
            data = response.read()
        return json.loads(data) if data else None

    def read(self, path: str) -> bytes:
        """The bytes of an answer. Raises PrsmError."""
        with self._exchange("GET", path, None, {}) as response, _reading():
            return response.read()

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The decoded events of a streamed answer. Raises PrsmError, also for one that comes in the stream."""
        with self._exchange("POST", path, _encoded(body), {}) as response:
            for line in _lines(response):
                data = line.removeprefix(b"data: ").strip()
                if not line.startswith(b"data: ") or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise _refusal(event, 502)
                yield event

    def stream_lines(self, method: str, path: str, body: Any = None) -> Iterator[dict[str, Any]]:
        """The decoded lines of a streamed answer. Raises PrsmError, also for one that comes in the stream."""
        with self._exchange(method, path, _encoded(body), {}) as response:
            for line in _lines(response):
                event = json.loads(line)
                if "error" in event:
                    raise _refusal(event, 502)
                yield event

    @contextmanager
    def opened(self, path: str, *, at: int = 0) -> Generator[Body]:
        """An answer's body, from byte ``at`` on. Raises PrsmError."""
        headers = {"range": f"bytes={at}-"} if at else {}
        with self._exchange("GET", path, None, headers) as response:
            if at and response.status != HTTPStatus.PARTIAL_CONTENT:
                raise PrsmError("The node does not go on in the midst of a file.", code="no_range")
            yield Body(response.length, response.getheader("etag", ""), self._pieces(response))

    def upload(self, path: str, pieces: Pieces, size_bytes: int) -> Any:
        """Send a body as it is read, anew when the node was busy; the decoded JSON of the answer. Raises PrsmError."""
        headers = {"content-length": str(size_bytes), "content-type": "application/octet-stream"}
        with self._exchange("POST", path, pieces, headers) as response, _reading():
            return json.loads(response.read())

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while piece := _piece(response):
            self._go_on()
            yield piece
        if response.length:
            raise _broke_off("it sent less than the whole")
        response.close()  # this answer, not its connection

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Pieces | bytes | None, headers: dict[str, str]
    ) -> Generator[http.client.HTTPResponse]:
        # What a person wrote may be in it, as it was written.
        path = quote(path, safe=string.punctuation, errors="surrogateescape")
        sent = {"authorization": f"Bearer {self._key}", "content-type": "application/json", **headers}
        give_up_s = time.monotonic() + _MOST_WAITED_S
        while True:
            line = self._line()
            try:
                self._go_on()  # else this one, begun while all were cut, would not be
                response = self._ask(line, method, path, body, sent)
                if response.status < 400 and "x-request-id" not in response.headers:
                    raise NodeUnreachable(
                        f"What answers at {self.address} is no node of PRSM.", remedy="See: prsm config."
                    )
                if response.status >= 400:
                    refusal = _refused(response)
                    if not _is_busy(response, refusal) or time.monotonic() > give_up_s:
                        raise refusal
                else:
                    yield response
                    return
            finally:
                self._put_back(line)
            self._wait(_wait_s(response))

    def _ask(
        self, line: _Line, method: str, path: str, body: Pieces | bytes | None, headers: dict[str, str]
    ) -> http.client.HTTPResponse:
        """Send, and answer with the head of what comes."""
        try:
            _send(line.connection, method, path, self._wanted(body()) if callable(body) else body, headers)
            line.answer = line.connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._go_on()
            raise self._unreachable(error) from error
        return line.answer

    def _wanted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._go_on()
            yield piece

    def _line(self) -> _Line:
        """A connection that carries nothing now."""
        line = self._take_spare()
        if line is None:
            parts = urlsplit(self.address)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT_S)
            try:
                connection.connect()
                connection.sock.settimeout(_TIMEOUT_S)
            except OSError as error:
                raise self._unreachable(error) from error
            line = _Line(connection, connection.sock)
        with self._lock:
            self._busy.append(line)
        return line

    def _take_spare(self) -> _Line | None:
        self._go_on()
        with self._lock:
            while self._spare:
                line = self._spare.pop()
                if time.monotonic() - line.idle_since_s < _SPARE_S:
                    return line
                line.connection.close()
        return None

    def _put_back(self, line: _Line) -> None:
        """For the next request, if the answer was read to its end and the node keeps the connection; else cut."""
        answer = line.answer
        reusable = answer is not None and answer.isclosed() and line.connection.sock is not None
        with self._lock:
            self._busy.remove(line)
            if reusable:
                line.answer, line.idle_since_s = None, time.monotonic()
                self._spare.append(line)
        if not reusable:
            if answer is not None:
                answer.close()
            line.connection.close()

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise Ended("The request was ended.")

    def _wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)
        self._go_on()

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        return NodeUnreachable(f"No node answers at {self.address} ({error}).", remedy="Start it: prsm up.")


def spread(client: NodeClient, first: Iterable[Item], work: Callable[[NodeClient, Item], Iterable[Item]]) -> None:
    """Do the work of each item over a few connections; what it answers is done too, before what is left.

    The first failure ends all, as an interruption does; nothing of it runs on afterwards.
    """
    _Spread(client.another(), work).run(first)


class _Spread(Generic[Item]):
    """Threads that share one stack of items; the last one that was put there is done first."""

    def __init__(self, client: NodeClient, work: Callable[[NodeClient, Item], Iterable[Item]]) -> None:
        self._client = client
        self._work = work
        self._left: list[Item] = []
        self._at_work = 0
        self._failure: BaseException | None = None
        self._turn = threading.Condition()

    def run(self, first: Iterable[Item]) -> None:
        self._left = list(first)[::-1]
        threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(_LANES)]
        try:
            for thread in threads:
                thread.start()
            with self._turn:
                self._turn.wait_for(lambda: self._failure or self._done())
        finally:
            with self._turn:
                self._failure = self._failure or Ended("It was ended.")
                self._turn.notify_all()
            self._client.stop()
            _join(threads)
            self._client.end()
            _join(threads)
        if not isinstance(self._failure, Ended):
            raise self._failure

    def _done(self) -> bool:
        return not self._left and not self._at_work

    def _lane(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._failure or self._left or self._done())
                if self._failure or not self._left:
                    return
                item = self._left.pop()
                self._at_work += 1
            try:
                more = [*self._work(self._client, item)][::-1]
            except BaseException as error:  # noqa: BLE001 - raised where all was begun
                with self._turn:
                    self._failure = self._failure or error
                    self._turn.notify_all()
                return
            with self._turn:
                self._left += more
                self._at_work -= 1
                self._turn.notify_all()


def _wait_s(response: http.client.HTTPResponse) -> float:
    """What the node asks to wait for the next request, within reason; a little more, so that not all come at once."""
    after = response.getheader("retry-after", "1")
    return min(float(after) if after.isdigit() else 1.0, _MOST_WAIT_S) * random.uniform(1, 1.25)  # noqa: S311 - no secret


def _is_busy(response: http.client.HTTPResponse, refusal: PrsmError) -> bool:
    """Whether the same request will do later: too many by this key, or too many at once."""
    return response.status == HTTPStatus.TOO_MANY_REQUESTS or refusal.code == "overloaded"


def _join(threads: list[threading.Thread]) -> None:
    until_s = time.monotonic() + _GRACE_S
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, until_s - time.monotonic()))


def _operator_key(settings: Settings) -> str:
    path = settings.home / KEY_FILE
    try:
        return path.read_text().strip()
    except OSError:
        raise PrsmError(
            f"There is no API key: {path} cannot be read.",
            kind=Kind.UNAUTHENTICATED,
            code="no_api_key",
            remedy="Set PRSM_API_KEY, or start the node here once: prsm up.",
        ) from None


def _send(connection: http.client.HTTPConnection, method: str, path: str, data: Any, headers: dict[str, str]) -> None:
    try:
        connection.request(method, path, data, headers)
    except (BrokenPipeError, ConnectionResetError):
        # The node may have refused before it had the whole body: then its answer is here and says why.
        if connection.sock is None:
            raise


@contextmanager
def _reading() -> Generator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise _broke_off(str(error)) from error


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        with _reading():
            line = response.readline()
        if not line:
            return
        yield line


def _piece(response: http.client.HTTPResponse) -> bytes:
    with _reading():
        return response.read1(_PIECE_BYTES)


def _broke_off(why: str) -> BrokeOff:
    return BrokeOff(f"The node broke off in the midst of its answer ({why}).", remedy="Try again.")


def _encoded(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {}


def _refused(response: http.client.HTTPResponse) -> PrsmError:
    with _reading():
        return _refusal(_decoded(response.read()), response.status)


def _refusal(body: Any, status: int) -> PrsmError:
    try:
        message, code, param = str(body["error"]["message"]), str(body["error"]["code"]), body["error"].get("param")
    except (KeyError, TypeError):
        message, code, param = f"The node answered with status {status}.", f"http_{status}", None
    return PrsmError(message, kind=Kind.UNAUTHENTICATED if status == 401 else Kind.INVALID, code=code, param=param)
