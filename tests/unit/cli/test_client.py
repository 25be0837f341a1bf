"""The client against whatever may listen at an address: what is no node is said to be none, and nothing waits long."""

import http.server
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from prsm.cli.client import NodeClient, NodeUnreachable
from prsm.core.errors import PrsmError


@contextmanager
def listening(body: bytes, *, status: int = 200, **headers: str) -> Generator[tuple[NodeClient, list[str]]]:
    """A server that always answers so, a client for it, and the paths that it was asked for."""
    asked = list[str]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that it has there
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield NodeClient(f"http://127.0.0.1:{server.server_port}", "key"), asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b""])
def test_a_stranger_that_answers_is_no_node(body: bytes) -> None:
    with listening(body) as (client, _):
        for ask in (
            lambda: client.call("GET", "/v1/models"),
            lambda: client.read("/x"),
            lambda: [*client.stream("/v1/chat/completions", {})],
        ):
            with pytest.raises(NodeUnreachable, match="is no node of PRSM"):
                ask()


@pytest.mark.parametrize(
    ("given", "sent"),
    [("a b", "a%20b"), ("ü", "%C3%BC"), ("a\nb", "a%0Ab"), ("\udcff", "%FF"), ("a%2Fb?c=d&e", "a%2Fb?c=d&e")],
)
def test_whatever_a_person_writes_fits_into_a_path(given: str, sent: str) -> None:
    with listening(b"{}", x_request_id="1") as (client, asked):
        client.call("DELETE", f"/keys/{given}")
        assert asked == [f"/keys/{sent}"]


def test_a_refusal_is_read_whoever_writes_it() -> None:
    with listening(b"", status=502) as (client, _), pytest.raises(PrsmError, match="status 502"):
        client.call("GET", "/x")


def test_an_address_where_nothing_answers_is_given_up_in_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        full = [socket.socket() for _ in range(4)]
        for each in full:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        client, begun_s = NodeClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", "key"), time.monotonic()
        threading.Timer(20, deaf.close).start()
        with pytest.raises(NodeUnreachable, match="timed out"):
            client.call("GET", "/x")
        assert time.monotonic() - begun_s < 15
        for each in full:
            each.close()
