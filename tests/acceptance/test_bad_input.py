"""What no client should send, sent to a started node over bare sockets.

Each is refused with a 4xx in the shape of the API that it was sent to, costs nothing, leaves no hold, and the node goes
on. Nothing is ever answered with a 5xx; what is not HTTP at all is refused by the server without a body.
"""

import http.client
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.started_node import StartedNode, started_node

from prsm.core.money import MAX_AMOUNT_MICRO

LIMIT_BYTES = 256 * 1024
CHAT, RESPONSES, MESSAGES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings"
COUNT = "/v1/messages/count_tokens"
HOT = (CHAT, RESPONSES, MESSAGES, COUNT, EMBEDDINGS)
# A good body of each, with TEXT where a caller's words stand.
GOOD = {
    CHAT: '{"model":"auto","messages":[{"role":"user","content":TEXT}]}',
    RESPONSES: '{"model":"auto","input":TEXT}',
    MESSAGES: '{"model":"auto","max_tokens":64,"messages":[{"role":"user","content":TEXT}]}',
    COUNT: '{"model":"auto","messages":[{"role":"user","content":TEXT}]}',
    EMBEDDINGS: '{"model":"auto","input":TEXT}',
}
QUESTION = '"What is 1 + 2?"'
Headers = tuple[bytes, ...]


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """What stands under ``error``, once the whole body has been found to have a known shape."""
        assert self.headers["content-type"] == "application/json", self
        shown = json.loads(self.body)
        if shown.get("type") == "error":
            assert set(shown) == {"type", "error", "request_id"}
            assert shown["request_id"] == self.headers["x-request-id"]
            assert set(shown["error"]) == {"type", "message", "details"}
        else:
            assert set(shown) == {"error"}
            assert set(shown["error"]) == {"type", "message", "param", "code"}
        return shown["error"]


class Client:
    """Talks to the node in bytes. ``key`` is an ordinary user's."""

    def __init__(self, node: StartedNode) -> None:
        self.node = node
        self.principal, self.key = node.new_client("bad input")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.node.port), timeout=60)

    def request(
        self, method: str, path: str, body: bytes = b"", *headers: bytes, version: str = "1.1", key: str | None = ""
    ) -> bytes:
        """A request's bytes; ``content-length`` is added unless the headers say how long the body is."""
        lines = [f"{method} {path} HTTP/{version}".encode("latin-1"), b"host: node", b"connection: close", *headers]
        if key is not None:
            lines.append(f"authorization: Bearer {key or self.key}".encode("latin-1"))
        if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in headers):
            lines.append(b"content-length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def exchange(self, data: bytes, *, half_close: bool = False) -> bytes:
        """Send and read until the node closes; a node that closes while we still send is heard too."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return read_all(connection)

    def send(self, data: bytes, *, half_close: bool = False) -> Answer:
        """The one answer to ``data``."""
        return parse(self.exchange(data, half_close=half_close))

    def post(self, path: str, body: bytes | str, *headers: bytes, **how: Any) -> Answer:
        raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        return self.send(self.request("POST", path, raw, b"content-type: application/json", *headers, **how))

    def money(self) -> tuple[int, int]:
        """Balance and holds, once every hold that is being let go is gone."""
        for _ in range(100):
            wallet = self.node.wallet(self.key)
            if not wallet["held_micro"]:
                break
            time.sleep(0.05)
        return wallet["balance_micro"], wallet["held_micro"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = {"HEADER_TIMEOUT_S": 2, "BODY_TIMEOUT_S": 2, "BODY_LIMIT_BYTES": LIMIT_BYTES, "LOG_LEVEL": "debug"}
    with started_node(tmp_path_factory.mktemp("bad"), **settings) as node:
        yield Client(node)
        assert "Traceback" not in node.log_path.read_text(errors="replace")
        assert node.cli("ledger", "verify").returncode == 0


@pytest.fixture(autouse=True)
def costs_nothing(client: Client) -> Iterator[None]:
    """Nothing is charged or held, the node is whole, and a good request still works."""
    balance, held = client.money()
    assert held == 0
    yield
    assert client.money() == (balance, 0)
    assert all(part["ok"] for part in client.node.call("GET", "/readyz").values())
    assert client.post(COUNT, good(COUNT)).status == 200


def read_all(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass  # the node closed with some of our bytes unread
    return b"".join(parts)


class Received:
    """What http.client takes for a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


def parse(data: bytes, method: str = "") -> Answer:
    """The response in ``data``, which holds exactly one."""
    response = http.client.HTTPResponse(Received(data), method=method)  # type: ignore[arg-type]
    response.begin()
    answer = Answer(response.status, response.headers, response.read())
    assert answer.status < 500, answer
    return answer


def good(path: str, text: str = QUESTION) -> str:
    return GOOD[path].replace("TEXT", text)


def chunked(body: bytes, size: int = 16_384) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def refused(answer: Answer, status: int = 400, param: str | None = None) -> dict[str, Any]:
    """Assert a refusal in a known shape, with a sentence in it."""
    assert answer.status == status, answer
    error = answer.error
    assert len(error["message"]) > 10
    if param is not None and "param" in error:
        assert error["param"] == param, error
    return error


def in_shape_of(path: str, answer: Answer) -> None:
    """Anthropic's clients get Anthropic's errors, all others OpenAI's."""
    assert ("details" in answer.error) == path.startswith("/v1/messages"), answer


# Bodies that are no JSON, or JSON that nobody may send

BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"  \r\n ",
    "half": b'{"model":"auto",',
    "garbage": b"\x00\x01\x02\xff",
    "form": b"model=auto&input=x",
    "XML": b"<model>auto</model>",
    "two values": b"{} {}",
    "an array": b"[]",
    "a string": b'"auto"',
    "a number": b"1e3",
    "null": b"null",
    "NaN": b"NaN",
    "no fields": b"{}",
    "deep arrays": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    "deep and open": b"[" * 200_000,
    "UTF-16": '{"model":"auto"}'.encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "a key with NUL": b'{"mo\\u0000del":"auto"}',
}
TEXTS: dict[str, bytes] = {
    "escaped NUL": b'"a\\u0000b"',
    "raw NUL": b'"a\x00b"',
    "raw newline": b'"a\nb"',
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'"\\udc00 x"',
    "two high surrogates": b'"\\ud83d\\ud83d"',
    "surrogate in bytes": b'"\xed\xa0\x80"',
    "Latin-1": b'"caf\xe9"',
    "overlong": b'"\xc0\xaf"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "cut in a character": b'"\xe2\x82"',
    "bad escape": b'"\\x41"',
    "NaN": b"NaN",
    "-Infinity": b"-Infinity",
    "a number": b"17",
    "huge integer": b"9" * 5000,
    "huge exponent": b"1e999999999",
    "null": b"null",
    "true": b"true",
    "deep": b"[" * 300 + b"]" * 300,
    "an object": b'{"a":1}',
}


@pytest.mark.parametrize("path", HOT)
def test_bodies_that_are_no_request(client: Client, path: str) -> None:
    for body in BROKEN.values():
        answer = client.post(path, body)
        refused(answer)
        in_shape_of(path, answer)


@pytest.mark.parametrize("path", HOT)
def test_texts_that_are_no_text(client: Client, path: str) -> None:
    for text in TEXTS.values():
        answer = client.post(path, GOOD[path].encode().replace(b"TEXT", text))
        refused(answer)
        in_shape_of(path, answer)


@pytest.mark.parametrize("path", ["/node/v1/keys", "/node/v1/principals"])
def test_bodies_that_the_node_api_refuses(client: Client, path: str) -> None:
    for body in BROKEN.values():
        refused(client.post(path, body, key=client.node.key))
    for name, text in TEXTS.items():
        answer = client.post(path, b'{"name":' + text + b"}", key=client.node.key)
        refused(answer)
        assert name == "a number" or b"9999" not in answer.body


FIELDS: list[tuple[str, str, Any]] = [
    (CHAT, "model", 5),
    (CHAT, "model", ""),
    (CHAT, "model", "m" * 5000),
    (CHAT, "model", None),
    (CHAT, "messages", "hello"),
    (CHAT, "messages", []),
    (CHAT, "messages", [5]),
    (CHAT, "messages", [{"role": "nobody", "content": "x"}]),
    (CHAT, "messages", [{"content": "x"}]),
    (CHAT, "messages", [{"role": "user", "content": 5}]),
    (CHAT, "messages", [{"role": "user", "content": [{"type": "nothing"}]}]),
    (CHAT, "messages", [{"role": "user", "content": "x"}] * 5000),
    (CHAT, "max_tokens", 0),
    (CHAT, "max_tokens", -1),
    (CHAT, "max_tokens", 1.5),
    (CHAT, "max_tokens", "9"),
    (CHAT, "max_completion_tokens", 2**63),
    (CHAT, "max_completion_tokens", 10**400),
    (CHAT, "temperature", 3),
    (CHAT, "temperature", "hot"),
    (CHAT, "top_p", -0.1),
    (CHAT, "n", 0),
    (CHAT, "n", 1000),
    (CHAT, "stream", "yes"),
    (CHAT, "stop", [1]),
    (CHAT, "tools", [5]),
    (CHAT, "prsm", 5),
    (CHAT, "prsm", {"max_cost": 5}),
    (CHAT, "prsm", {"max_cost_micro": -1}),
    (CHAT, "prsm", {"max_cost_micro": 10**30}),
    (CHAT, "prsm", {"max_cost_micro": 1.5}),
    (CHAT, "prsm", {"max_cost_micro": "5"}),
    (CHAT, "prsm", {"session_id": "nobody"}),
    (RESPONSES, "input", []),
    (RESPONSES, "input", [{"type": "nothing"}]),
    (RESPONSES, "max_output_tokens", -5),
    (RESPONSES, "previous_response_id", "resp_nothing"),
    (RESPONSES, "conversation", 5),
    (RESPONSES, "store", "yes"),
    (MESSAGES, "max_tokens", 0),
    (MESSAGES, "max_tokens", None),
    (MESSAGES, "messages", [{"role": "nobody", "content": "x"}]),
    (MESSAGES, "messages", {}),
    (MESSAGES, "temperature", 2),
    (MESSAGES, "system", 5),
    (MESSAGES, "prsm", {"max_cost_micro": -1}),
    (EMBEDDINGS, "input", []),
    (EMBEDDINGS, "input", ["x"] * 100_000),
    (EMBEDDINGS, "input", [""]),
    (EMBEDDINGS, "dimensions", 0),
    (EMBEDDINGS, "encoding_format", "hex"),
]


def test_fields_of_wrong_type_or_size(client: Client) -> None:
    for path, name, value in FIELDS:
        body = json.loads(good(path)) | {name: value}
        answer = client.post(path, json.dumps(body))
        assert answer.status in (400, 413), (path, name, str(value)[:60], answer)
        in_shape_of(path, answer)
        if answer.status == 400 and "param" in answer.error:
            assert str(answer.error["param"]).startswith(name), (path, name, answer)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, EMBEDDINGS])
def test_unknown_and_unable_models(client: Client, path: str) -> None:
    unable = "local/minilm-l6" if path != EMBEDDINGS else "local/arithmetic"
    for model in ("gpt-nothing", "local/nothing", "../../etc/passwd", "'; DROP TABLE models; --", "модель", unable):
        answer = client.post(path, json.dumps(json.loads(good(path)) | {"model": model}))
        assert answer.status in (400, 404), (model, answer)
        in_shape_of(path, answer)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, EMBEDDINGS])
def test_caps_that_pay_for_nothing(client: Client, path: str) -> None:
    answer = client.post(path, good(path), b"x-prsm-max-cost-micro: 0")
    refused(answer, 402)
    in_shape_of(path, answer)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, EMBEDDINGS])
def test_headers_that_say_nothing(client: Client, path: str) -> None:
    """A header that cannot be read is never taken for absent: a cap must bind, a retry must not pay twice."""
    bad: dict[bytes, list[bytes]] = {
        b"x-prsm-max-cost-micro": [b"", b"-1", b"+5", b"1.5", b"1e3", b"0x10", b"9" * 30, b"\xb2", b"\xd9\xa3", b"5 5"],
        b"idempotency-key": [b"", b"k" * 256, b"a\tb", b"\xe9", b"\xff\xfe"],
        b"x-prsm-session": [
            b"",
            b"nobody",
            b"z" * 36,
            b"\xff",
            b"00000000-0000-0000-0000-00000000000",
            b"{" + b"0" * 34 + b"}",
        ],
    }
    if path == EMBEDDINGS:
        del bad[b"x-prsm-session"]
    for name, values in bad.items():
        for value in values:
            answer = client.post(path, good(path), name + b": " + value)
            refused(answer, param=name.decode())
            in_shape_of(path, answer)


# Sizes


@pytest.mark.parametrize("path", [*HOT, "/node/v1/keys"])
def test_bodies_beyond_the_limit(client: Client, path: str) -> None:
    for body in (b'{"a":"' + b"x" * LIMIT_BYTES + b'"}', b" " * (LIMIT_BYTES * 20)):
        for answer in (
            client.post(path, body),
            client.send(client.request("POST", path, chunked(body), b"transfer-encoding: chunked")),
            # A length alone is enough: nobody waits for what will be refused.
            client.send(client.request("POST", path, b"", b"content-length: %d" % len(body))),
        ):
            assert refused(answer, 413)["type"] in ("invalid_request_error", "request_too_large")
            in_shape_of(path, answer)


def test_the_largest_body_is_taken(client: Client) -> None:
    body = json.dumps(json.loads(good(COUNT)) | {"metadata": {}}).encode().ljust(LIMIT_BYTES)
    assert client.post(COUNT, body).status == 200
    assert client.post(COUNT, body + b" ").status == 413


def test_too_many_and_too_large_headers(client: Client) -> None:
    for headers in (
        [b"x-a: " + b"b" * 1_000_000],
        [b"x-%d: %s" % (i, b"v" * 100) for i in range(1000)],
        [b"x-%d: 1" % i for i in range(5000)],
        [b"n" * 1_000_000 + b": 1"],
    ):
        answer = client.send(client.request("GET", "/healthz", b"", *headers))
        assert answer.status == 431, answer
    assert client.send(client.request("GET", "/" + "a" * 1_000_000)).status in (414, 431)


# What is hardly HTTP


def test_what_is_no_http_is_refused(client: Client) -> None:
    chat = good(CHAT).encode()
    for data in (
        b"\x00\x01\x02 garbage\r\n\r\n",
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + b"\x00" * 190,
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/3.0\r\nhost: x\r\n\r\n",
        b"GET healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"get /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: x\n\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\r\n folded\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\x00c\r\n\r\n",
        b"GET /v1/models\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        client.request("POST", CHAT, chat, b"content-length: -1"),
        client.request("POST", CHAT, chat, b"content-length: +5"),
        client.request("POST", CHAT, chat, b"content-length: 5, 6"),
        client.request("POST", CHAT, chat, b"content-length: 99999999999999999999999"),
        client.request("POST", CHAT, chat, b"content-length: 3", b"content-length: 4"),
        client.request("POST", CHAT, chat, b"transfer-encoding: gzip"),
        client.request("POST", CHAT, chat, b"transfer-encoding: chunked, gzip"),
    ):
        answer = client.send(data)
        assert answer.status == 400, (data[:80], answer)
        assert answer.headers["connection"] == "close"


def test_bodies_whose_framing_breaks(client: Client) -> None:
    whole = good(CHAT).encode()
    as_chunks = b"transfer-encoding: chunked"
    for body in (b"zz\r\nabc\r\n0\r\n\r\n", b"5\r\nabc", b"%x\r\n%b\r\n" % (len(whole) - 9, whole[:-9]), b"-5\r\n"):
        refused(client.send(client.request("POST", CHAT, body, as_chunks), half_close=True))
    cut = client.request("POST", CHAT, whole)[:-10]
    assert refused(client.send(cut, half_close=True))["code"] == "body_incomplete"
    # Without a length there is no body.
    refused(client.send(client.request("POST", CHAT, b"", b"content-length: 0")))


def test_clients_that_leave_half_way(client: Client) -> None:
    whole = client.request("POST", CHAT, good(CHAT).encode())
    for place in (1, 20, len(whole) // 2, len(whole) - 1):
        with client.connect() as connection:
            connection.sendall(whole[:place])
        # And again, closing only the one direction: there is nothing to answer, or a refusal.
        got = client.exchange(whole[:place], half_close=True)
        assert not got or parse(got).status == 400


def test_a_client_that_half_closes_behind_its_request(client: Client) -> None:
    """The server takes it for gone, so there may be no answer; what was answered is paid, and nothing stays held."""
    _, key = client.node.new_client("half closed")
    before = client.node.wallet(key)["balance_micro"]
    for stream in (False, True):
        body = json.dumps(json.loads(good(CHAT)) | {"stream": stream}).encode()
        client.exchange(client.request("POST", CHAT, body, key=key), half_close=True)
    for _ in range(200):
        wallet = client.node.wallet(key)
        if not wallet["held_micro"]:
            break
        time.sleep(0.05)
    receipts = client.node.call("GET", "/node/v1/receipts", key=key)
    paid = sum(kept["receipt"]["amounts"]["captured_micro"] for kept in receipts)
    assert wallet["held_micro"] == 0
    assert before - wallet["balance_micro"] == paid


def test_clients_that_drip(client: Client) -> None:
    """Headers that never end close the connection; a body that never ends is refused. Both wait at the same time."""
    with client.connect() as headers, client.connect() as body, client.connect() as silent, client.connect() as api:
        headers.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        request = client.request("POST", CHAT, good(CHAT).encode())
        body.sendall(request[:-30])
        silent.sendall(b"")
        api.sendall(client.request("POST", "/node/v1/keys", b'{"name":"dripping"}', key=client.node.key)[:-8])
        for i in range(100):
            try:
                headers.sendall(b"x-%d: y\r\n" % i)
                if i < 20:
                    body.sendall(request[len(request) - 30 + i :][:1])
            except OSError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("the node reads headers for ever")
        assert read_all(headers) == b""
        assert read_all(silent) == b""
        assert refused(parse(read_all(body)))["code"] == "body_timeout"
        assert refused(parse(read_all(api)))["code"] == "body_timeout"


def test_pipelined_garbage_does_not_spoil_the_answer_before_it(client: Client) -> None:
    first = client.request("GET", "/healthz").replace(b"connection: close\r\n", b"")
    both = client.exchange(first + b"\xff\xfe garbage\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", both) == [b"200", b"400"]
    # A body longer than it says is another request, and no part of this one.
    smuggled = client.request("POST", CHAT, b"{}GET /metrics HTTP/1.1\r\n\r\n", b"content-length: 2")
    got = client.exchange(smuggled)
    assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"400"]
    # Where both lengths are given nobody knows which counts (RFC 9112, 6.3): refused, and the connection ends.
    both_lengths = client.request("POST", CHAT, chunked(b"{}"), b"transfer-encoding: chunked", b"content-length: 4")
    assert client.send(both_lengths).status == 400


# Methods and paths

NOT_FOUND = (
    "/nope", "//v1/models", "/v1//models", "/v1/../healthz", "/%2e%2e/healthz", "/v1/models%00", "/V1/models",
    "/v1/chat/completions/", "/v1/chat/completions%00", "/v1/chat/completions;x", "/healthz/", "*",
    "/node/v1/keys/", "/node/v1/../v1/models", "/static/../../etc/passwd", "/.env", "/redoc", "/v1/messages/batches",
)  # fmt: skip


def test_paths_that_are_not_there(client: Client) -> None:
    for path in NOT_FOUND:
        for method in ("GET", "POST"):
            answer = client.send(client.request(method, path))
            refused(answer, 404)
            in_shape_of(path, answer)


def test_paths_that_mean_the_same(client: Client) -> None:
    """A query, a fragment, an absolute URI of any host and percent-encoding do not change which route it is."""
    for path in ("/healthz?a=%ff%00&b", "/healthz#x", "http://elsewhere.invalid/healthz", "/%68ealthz", "/healthz?"):
        assert client.send(client.request("GET", path)).status == 200
    refused(client.send(client.request("GET", "http://elsewhere.invalid/node/v1/wallet", key=None)), 401)


def test_methods_that_a_path_does_not_have(client: Client) -> None:
    for path, allowed in [(path, "POST") for path in HOT] + [
        ("/healthz", "GET"),
        ("/node/v1/keys", "GET"),
        ("/node/v1/wallet", "GET"),
    ]:
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"):
            if method == allowed or (method == "HEAD" and allowed == "GET"):
                continue
            answer = parse(client.exchange(client.request(method, path)), method)
            assert answer.status == 405, (method, path, answer)
            assert allowed in answer.headers["allow"].split(", ")
            if method != "HEAD":
                in_shape_of(path, answer)


def test_head_is_get_without_the_body(client: Client) -> None:
    for path in ("/healthz", "/v1/models", "/node/v1/wallet", "/docs"):
        head = client.exchange(client.request("HEAD", path))
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
        assert re.search(rb"content-length: [1-9]", head)


def test_http_1_0(client: Client) -> None:
    data = client.exchange(client.request("GET", "/v1/models", version="1.0"))
    assert data.startswith(b"HTTP/1.0 200")
    refused(client.send(client.request("POST", CHAT, b"{}", version="1.0")))


# Keys


def test_keys_that_are_no_keys(client: Client) -> None:
    expired_id, expired = client.node.new_key(
        "short", expires_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    )
    revoked_id, revoked = client.node.new_key("gone")
    client.node.call("DELETE", f"/node/v1/keys/{revoked_id}")
    time.sleep(1.1)
    codes = {expired: "expired_api_key", revoked: "revoked_api_key"}
    for key in (
        None, "nonsense", "prsm_00000000_" + "A" * 43, expired, revoked, client.key[:-1], client.key + "A",
        client.key.swapcase(), "\xff\xfe", "prsm_" + "x" * 60_000, "' OR 1=1 --", "Bearer " + client.key,
    ):  # fmt: skip
        for path in (CHAT, MESSAGES, EMBEDDINGS):
            answer = client.post(path, good(path), key=key)
            error = refused(answer, 401)
            in_shape_of(path, answer)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (
                error.get("code", codes.get(key or "")) == codes.get(key or "", "invalid_api_key") or path == MESSAGES
            )
        refused(client.send(client.request("GET", "/node/v1/wallet", key=key)), 401)
    basic = client.send(client.request("GET", "/node/v1/wallet", b"", b"authorization: Basic cHJzbTpwcnNt", key=None))
    refused(basic, 401)
    # The body of a caller who is not known is never read.
    started = client.request("POST", CHAT, b"", b"content-length: 1000", key="nonsense")
    refused(client.send(started), 401)
    assert expired_id != revoked_id


CAPS: list[Any] = [-1, 10**30, MAX_AMOUNT_MICRO + 1, 1.5, "5", True, [5], {"micro": 5}, float("nan"), float("inf")]


def test_caps_and_grants_that_are_no_money(client: Client) -> None:
    admin = client.node.key
    key_id, _ = client.node.new_key("capped", cap_micro=5)
    keys = len(client.node.call("GET", "/node/v1/keys?limit=1000"))
    for cap in CAPS:
        refused(client.post("/node/v1/keys", json.dumps({"name": "x", "cap_micro": cap}), key=client.key))
        change = client.request(
            "PUT",
            f"/node/v1/keys/{key_id}/cap",
            json.dumps({"cap_micro": cap}).encode(),
            b"content-type: application/json",
            key=admin,
        )
        refused(client.send(change), param="cap_micro")
        grant = json.dumps({"id": "018f3f5e-7b1c-7000-8000-000000000001", "amount_micro": cap})
        refused(client.post(f"/node/v1/principals/{client.principal}/grants", grant, key=admin))
    kept = {key["id"]: key["budget"] for key in client.node.call("GET", "/node/v1/keys?limit=1000")}
    assert len(kept) == keys
    assert kept[key_id]["cap_micro"] == 5


def test_what_the_node_api_cannot_keep(client: Client) -> None:
    admin = client.node.key
    for body in (
        {"name": "x", "expires_at": "9999-12-31T23:59:59-14:00"},
        {"name": "x", "expires_at": "0001-01-01T00:00:00+14:00"},
        {"name": "x", "expires_at": "2999-01-01T00:00:00"},
        {"name": "x", "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "expires_at": 1e300},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["chat"] * 11},
        {"name": "x", "rate_limit_per_minute": 0},
        {"name": "x", "rate_limit_per_minute": 10**9},
        {"name": "x", "principal_id": "nobody"},
        {"name": "x", "surprise": 1},
        {"name": "\u202ex"},
        {"name": "\x85"},
        {"name": "x" * 101},
    ):
        refused(client.post("/node/v1/keys", json.dumps(body), key=admin))
    model = {"input_price_micro": 0, "output_price_micro": 0}
    for path, body in (
        ("/node/v1/providers/%ff", {"kind": "openai", "base_url": "http://127.0.0.1:9"}),
        ("/node/v1/providers/%00", {"kind": "openai", "base_url": "http://127.0.0.1:9"}),
        ("/node/v1/providers/" + "p" * 65, {"kind": "openai", "base_url": "http://127.0.0.1:9"}),
        ("/node/v1/providers/x", {"kind": "nothing", "base_url": "http://127.0.0.1:9"}),
        ("/node/v1/providers/x", {"kind": "openai", "base_url": "file:///etc/passwd"}),
        ("/node/v1/providers/x", {"kind": "openai", "base_url": "http://a\r\nb"}),
        ("/node/v1/models/x/%00", model),
        ("/node/v1/models/x/" + "m" * 201, model),
        ("/node/v1/models/x/y", model | {"input_price_micro": -1}),
        ("/node/v1/models/x/y", model | {"output_price_micro": 10**13}),
        ("/node/v1/models/x/y", model | {"capabilities": ["everything"]}),
        ("/node/v1/models/x/y", model | {"context_tokens": 0}),
        ("/node/v1/models/x/y", model | {"description": "\x00"}),
    ):
        request = client.request("PUT", path, json.dumps(body).encode(), b"content-type: application/json", key=admin)
        refused(client.send(request))
    for path in (
        "/node/v1/receipts/nobody", "/node/v1/receipts?limit=0", "/node/v1/receipts?limit=10001",
        "/node/v1/receipts?before=%00", "/node/v1/sessions/%ff", "/node/v1/keys?limit=-1", "/node/v1/keys?limit=1e3",
        "/node/v1/models/search", "/node/v1/models/search?q=", "/node/v1/models/search?q=" + "a" * 1001,
    ):  # fmt: skip
        refused(client.send(client.request("GET", path)))
