"""A small IPFS node for tests: the part of Kubo's RPC API that this project uses, over blocks in memory.

It is held to real nodes by ``tests/contract/test_kubo_rpc.py``. With ``secret`` it wants that ``Authorization``, as a
Kubo with ``API.Authorizations`` does. ``say_instead`` are answers given instead of its own, each once.
"""

import io
import json
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.support.memory_dag import MemoryDag

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.car import CarReader
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs import FileNode, decode_node
from prsm.data_layer.codec.unixfs_dag import Profile


class Refusal(Exception):
    """What the node answers with status 500."""


class KuboRpcServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, secret: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secret = secret
        self.dag = MemoryDag()
        self.pins: set[Cid] = set()
        self.calls: Counter[str] = Counter()
        self.received: Counter[Cid] = Counter()
        self.accepted = 0
        self.heads: list[dict[str, str]] = []
        self.say_instead: deque[tuple[int, bytes]] = deque()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def get_request(self):
        self.accepted += 1
        return super().get_request()

    def handle_error(self, request, client_address) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: KuboRpcServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests look at the server's counters."""

    def do_GET(self) -> None:
        self._answer(405, b"405 - Method Not Allowed\n")

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        command = url.path.removeprefix("/api/v0/")
        query = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.calls[command] += 1
        self.server.heads.append(dict(self.headers.items()))
        answer = _COMMANDS.get(command)
        if self.server.secret and self.headers.get("Authorization") != self.server.secret:
            self._answer(403, b"403 - Forbidden\n")
        elif self.server.say_instead:
            self._answer(*self.server.say_instead.popleft())
        elif answer is None:
            self._answer(404, b"404 page not found\n")
        else:
            try:
                said = answer(self.server, query, _file_of(self.headers.get("Content-Type", ""), body))
            except (Refusal, PrsmError) as error:
                said = None
                self._answer(500, json.dumps({"Message": str(error), "Code": 0, "Type": "error"}).encode())
            if said is not None:
                self._answer(200, said if isinstance(said, bytes) else _lines(said))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 200:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(body), 100_000):
                piece = body[start : start + 100_000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


def _lines(objects: list[dict]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


def _file_of(content_type: str, body: bytes) -> bytes:
    match = re.fullmatch(r"multipart/form-data; boundary=([0-9a-f]+)", content_type)
    if match is None:
        return b""
    boundary = b"--" + match[1].encode()
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head.startswith(boundary + b"\r\nContent-Disposition: form-data; ")
    content, _, end = rest.rpartition(b"\r\n" + boundary)
    assert end == b"--\r\n"
    return content


def _block(server: KuboRpcServer, cid: Cid) -> bytes:
    try:
        return server.dag[cid]
    except KeyError:
        raise Refusal(f"block was not found locally (offline): ipld: could not find {cid}") from None


def _block_put(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    cid = server.dag.add({"raw": Codec.RAW, "dag-pb": Codec.DAG_PB}[query["cid-codec"]], body)
    server.received[cid] += 1
    return [{"Key": str(cid), "Size": len(body)}]


def _block_stat(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    cid = Cid.parse(query["arg"])
    return [{"Key": str(cid), "Size": len(_block(server, cid))}]


def _dag_import(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    assert query["pin-roots"] == "false"
    blocks = [(block.cid, bytes(block.data)) for block in CarReader(io.BytesIO(body).read)]
    server.dag.blocks.update(blocks)
    server.received.update(cid for cid, _ in blocks)
    stats = {"BlockCount": len(blocks), "BlockBytesCount": sum(len(data) for _, data in blocks)}
    return [{"Stats": stats}] if query.get("stats") == "true" else []


def _pin_add(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    cid = Cid.parse(query["arg"])
    _block(server, cid)
    server.pins.add(cid)
    return [{"Pins": [str(cid)]}]


def _pin_rm(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    cid = Cid.parse(query["arg"])
    if cid not in server.pins:
        raise Refusal("not pinned or pinned indirectly")
    server.pins.remove(cid)
    return [{"Pins": [str(cid)]}]


def _pin_ls(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    cid = Cid.parse(query["arg"])
    if cid not in server.pins:
        raise Refusal(f"path '{cid}' is not pinned")
    return [{"Keys": {str(cid): {"Type": "recursive"}}}]


def _add(server: KuboRpcServer, query: dict, body: bytes) -> list[dict]:
    profile = Profile("test", chunk_bytes=int(query["chunker"].removeprefix("size-")), max_links=174)
    cid = server.dag.add_file(io.BytesIO(body), profile).cid
    return [{"Name": "file", "Hash": str(cid), "Size": str(len(body))}]


def _cat(server: KuboRpcServer, query: dict, body: bytes) -> bytes:
    start = int(query.get("offset", "0"))
    return _content(server, Cid.parse(query["arg"]))[start : start + int(query["length"])]


def _content(server: KuboRpcServer, cid: Cid) -> bytes:
    node = decode_node(cid, _block(server, cid))
    assert isinstance(node, FileNode)
    return bytes(node.inline) + b"".join(_content(server, link.cid) for link in node.links)


_COMMANDS = {
    "version": lambda server, query, body: [{"Version": "0.40.0-test"}],
    "block/get": lambda server, query, body: _block(server, Cid.parse(query["arg"])),
    "block/put": _block_put,
    "block/stat": _block_stat,
    "dag/import": _dag_import,
    "pin/add": _pin_add,
    "pin/rm": _pin_rm,
    "pin/ls": _pin_ls,
    "add": _add,
    "cat": _cat,
}


@contextmanager
def kubo_rpc_server(secret: str = "") -> Iterator[KuboRpcServer]:
    """A node in threads of this process."""
    server = KuboRpcServer(secret)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
