"""A trustless gateway for tests and benchmarks: raw blocks, CAR archives, HEAD, ranges and the empty identity block.

It serves a dict of blocks, from threads of this process or, with the blocks of CAR files, from a process of its own:
``python -m tests.support.gateway_server --car model.car`` prints its URL and serves until its standard input ends.
"""

import argparse
import mmap
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from prsm.data_layer.codec import dag_pb
from prsm.data_layer.codec.car import car_header, car_section
from prsm.data_layer.codec.cid import BadCid, Cid, Codec, read_varint

Blocks = Mapping[Cid, bytes | memoryview]
_MAX_DEPTH = 64


class GatewayServer(ThreadingHTTPServer):
    """A started gateway. ``requests`` counts what it was asked for, by path and query."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, blocks: Blocks, port: int = 0, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
        super().__init__((host, port), _Handler)
        self.blocks = blocks
        self.requests: Counter[str] = Counter()
        self.accepted = 0
        self.heads: list[dict[str, str]] = []
        self.tls = tls
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.server_address[0]}:{self.port}"

    def count(self, path: str, headers: dict[str, str]) -> None:
        with self._lock:
            self.requests[path] += 1
            self.heads = [*self.heads[-99:], headers]

    def get_request(self):
        sock, peer = super().get_request()
        self.accepted += 1
        if self.tls is not None:
            # The handshake is the handler's thread's business: one bad client must not hold up the others.
            sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._open = [*(each for each in self._open if each.fileno() >= 0), sock]
        return sock, peer

    def drop_connections(self) -> None:
        """Hang up on all clients."""
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wait_for_connections(self, count: int, within_s: float = 10.0) -> None:
        """Wait until exactly ``count`` connections are open."""
        until_s = time.monotonic() + within_s
        while (open_now := sum(each.fileno() >= 0 for each in self._open)) != count:
            assert time.monotonic() < until_s, f"{open_now} connections are open, not {count}"
            time.sleep(0.01)

    def handle_error(self, request, client_address) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GatewayServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests look at the server's counters."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.count(self.path, {name.lower(): value for name, value in self.headers.items()})
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        match = re.fullmatch(r"/ipfs/([A-Za-z0-9]+)", url.path)
        accept = self.headers.get("Accept", "")
        wanted = query.get("format") or ("car" if "ipld.car" in accept else "raw" if "ipld.raw" in accept else "")
        if match is None or wanted not in ("raw", "car"):
            self._refuse(400, "only /ipfs/<cid> in raw or car form is served here")
            return
        try:
            cid = Cid.parse(match[1])
        except BadCid as error:
            self._refuse(400, str(error))
            return
        block = self._block(cid)
        if block is None:
            self._refuse(404, f"{cid} is not here")
        elif wanted == "raw":
            self._send_raw(cid, block)
        else:
            self._send_car(cid, query.get("dag-scope", "all"))

    def _block(self, cid: Cid) -> bytes | memoryview | None:
        return cid.digest if cid.identity else self.server.blocks.get(cid)

    def _refuse(self, status: int, why: str) -> None:
        body = f"{why}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_raw(self, cid: Cid, block: bytes | memoryview) -> None:
        view, status = memoryview(block), 200
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(view)
        if span and (span[1] or span[2]):
            if span[1]:
                start, end = int(span[1]), min(int(span[2]) + 1, len(view)) if span[2] else len(view)
            else:
                start = max(0, len(view) - int(span[2]))
            if start >= end:
                self._refuse(416, "no such range")
                return
            status = 206
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.ipld.raw")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Etag", f'"{cid}.raw"')
        self.send_header("Cache-Control", "public, max-age=29030400, immutable")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(view)}")
        self.end_headers()
        if self.command != "HEAD":
            self.connection.sendall(view[start:end])

    def _send_car(self, root: Cid, scope: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.ipld.car; version=1; order=dfs; dups=n")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        self._chunk(car_header([root]))
        for cid in [root] if scope == "block" else self._under(root, set(), 0):
            block = self._block(cid)
            if block is None:  # the only way to say it after the head went out is to break off
                self.close_connection = True
                return
            self._chunk(car_section(cid, len(block)) + bytes(block))
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _under(self, cid: Cid, seen: set[Cid], depth: int) -> Iterator[Cid]:
        if cid in seen or depth > _MAX_DEPTH:
            return
        seen.add(cid)
        yield cid
        block = self._block(cid)
        if cid.codec is Codec.DAG_PB and block is not None:
            for link in dag_pb.decode(block).links:
                yield from self._under(link.cid, seen, depth + 1)


@contextmanager
def gateway_server(blocks: Blocks, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None):
    """A gateway over ``blocks`` in threads of this process."""
    server = GatewayServer(blocks, host=host, tls=tls)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def gateway_process(cars: Sequence[Path]) -> Iterator[str]:
    """A gateway over the blocks of CAR files in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "tests.support.gateway_server"]
    for car in cars:
        command += ["--car", str(car)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def write_car(path: Path, blocks: Blocks, roots: Sequence[Cid]) -> None:
    """All ``blocks`` as an archive."""
    with path.open("wb") as file:
        file.write(car_header(roots))
        for cid, block in blocks.items():
            file.write(car_section(cid, len(block)))
            file.write(block)


def blocks_of_car(path: Path) -> dict[Cid, memoryview]:
    """The blocks of an archive, as views of the mapped file; they are not verified."""
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    size, place = read_varint(data, 0)
    place += size
    blocks: dict[Cid, memoryview] = {}
    while place < len(data):
        size, start = read_varint(data, place)
        place = start + size
        cid, start = Cid.decode(data, start)
        blocks[cid] = data[start:place]
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--car", action="append", type=Path, default=[])
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    blocks = {cid: block for car in options.car for cid, block in blocks_of_car(car).items()}
    server = GatewayServer(blocks, options.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.url, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
