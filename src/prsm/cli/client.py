"""The command line's way to a node: plain HTTP to its API, errors as the sentences that the node wrote."""

import http.client
import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlsplit

from prsm.core.config import Settings
from prsm.core.errors import Kind, PrsmError

KEY_FILE = "operator.key"
_TIMEOUT_S = 660
_RATE_WAITS = 10
"""How often a command that asks much waits for its key's next turn before it gives up."""
_MOST_WAIT_S = 30.0
_PIECE_BYTES = 1024 * 1024


class NodeUnreachable(PrsmError):
    """No node answers at the address."""

    kind = Kind.UNAVAILABLE
    code = "node_unreachable"


class NodeClient:
    """One node's API, spoken to with one key."""

    def __init__(self, address: str, key: str) -> None:
        self.address = address
        self._key = key

    @classmethod
    def of(cls, settings: Settings) -> "NodeClient":
        """The node that the settings name; the key is ``api_key``, or the operator's from the node's home."""
        return cls(settings.address, settings.api_key or _operator_key(settings))

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The decoded JSON of an answer, None for an empty one. Raises PrsmError."""
        with self._exchange(method, path, body, headers or {}) as response, _reading():
            data = response.read()
        return json.loads(data) if data else None

    def read(self, path: str) -> bytes:
        """The bytes of an answer. Raises PrsmError."""
        with self._exchange("GET", path, None, {}) as response, _reading():
            return response.read()

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The decoded events of a streamed answer. Raises PrsmError, also for one that comes in the stream."""
        with self._exchange("POST", path, body, {}) as response:
            for line in _lines(response):
                data = line.removeprefix(b"data: ").strip()
                if not line.startswith(b"data: ") or data == b"[DONE]":
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise _refusal(event, 502)
                yield event

    def stream_lines(self, method: str, path: str) -> Iterator[dict[str, Any]]:
        """The decoded lines of a streamed answer. Raises PrsmError, also for one that comes in the stream."""
        with self._exchange(method, path, None, {}) as response:
            for line in _lines(response):
                event = json.loads(line)
                if "error" in event:
                    raise _refusal(event, 502)
                yield event

    def download(self, path: str) -> Iterator[bytes]:
        """An answer's body in pieces. Raises PrsmError, also when it ends before its length."""
        with self._exchange("GET", path, None, {}) as response:
            while piece := _piece(response):
                yield piece
            if response.length:
                raise _broke_off("it sent less than the whole")

    def upload(self, path: str, pieces: Iterator[bytes], size_bytes: int) -> Any:
        """Send a body as it is read; the decoded JSON of the answer. Raises PrsmError."""
        headers = {"content-length": str(size_bytes), "content-type": "application/octet-stream"}
        with self._exchange("POST", path, pieces, headers) as response, _reading():
            return json.loads(response.read())

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> Generator[http.client.HTTPResponse]:
        data = cast("Iterator[bytes]", body) if isinstance(body, Iterator) else _encoded(body)
        sent = {"authorization": f"Bearer {self._key}", "content-type": "application/json", **headers}
        for left in range(_RATE_WAITS, -1, -1):
            connection, response = self._ask(method, path, data, sent)
            try:
                if response.status == HTTPStatus.TOO_MANY_REQUESTS and left and not isinstance(data, Iterator):
                    time.sleep(_wait_s(response))
                    continue
                if response.status >= 400:
                    with _reading():
                        raise _refusal(_decoded(response.read()), response.status)
                yield response
                return
            finally:
                connection.close()

    def _ask(
        self, method: str, path: str, data: Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(self.address)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        try:
            _send(connection, method, path, data, headers)
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NodeUnreachable(
                f"No node answers at {self.address} ({error}).", remedy="Start it: prsm up."
            ) from error
        except BaseException:
            connection.close()
            raise


def _wait_s(response: http.client.HTTPResponse) -> float:
    """What the node asks to wait for the next request, within reason."""
    after = response.getheader("retry-after", "1")
    return min(float(after), _MOST_WAIT_S) if after.isdigit() else 1.0


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
        return response.read(_PIECE_BYTES)


def _broke_off(why: str) -> NodeUnreachable:
    return NodeUnreachable(f"The node broke off in the midst of its answer ({why}).", remedy="Try again.")


def _encoded(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode()


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {}


def _refusal(body: Any, status: int) -> PrsmError:
    try:
        message, code = str(body["error"]["message"]), str(body["error"]["code"])
    except (KeyError, TypeError):
        message, code = f"The node answered with status {status}.", f"http_{status}"
    return PrsmError(message, kind=Kind.UNAUTHENTICATED if status == 401 else Kind.INVALID, code=code)
