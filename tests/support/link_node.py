"""The network part of a node in a process of its own, to be run in a network namespace.

``python -m tests.support.link_node serve INTERFACE TEXT`` announces a gateway that has TEXT as a block and prints its
CID; ``fetch INTERFACE CID`` finds a gateway on the link and prints the block and the endpoints that it knows. Both
print "ready" first and end with their standard input.
"""

import sys
import threading
import time

import structlog
from tests.support.gateway_server import gateway_server

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.block_fetch import fetch_block
from prsm.data_layer.network.discovery import Discovery
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.http_fetch import UNPACED
from prsm.data_layer.network.mdns import OwnGateway
from prsm.data_layer.network.neighbours import Neighbours
from prsm.safety.circuit_breaker import BreakerBoard


def neighbours() -> Neighbours:
    return Neighbours(Endpoints(breakers=BreakerBoard(time.monotonic)), Discovery())


def serve(interface: str, text: str) -> None:
    cid = Cid.of(Codec.RAW, text.encode())
    with gateway_server({cid: text.encode()}, host="0.0.0.0") as server:
        link = neighbours()
        link.listen(interface, OwnGateway(f"serves-{text[:40]}", "0.0.0.0", server.port))
        print("ready", cid, flush=True)
        sys.stdin.read()
        link.close()


def fetch(interface: str, text: str) -> None:
    link = neighbours()
    link.listen(interface, None)
    print("ready", flush=True)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    while not link.endpoints.names and not ended.wait(0.05):
        link.learn()
    room = memoryview(bytearray(1000))
    if link.endpoints.names:
        size = fetch_block(link.endpoints, Cid.parse(text), room, budget_s=20, pace=UNPACED)
        print(bytes(room[:size]).decode(), *link.endpoints.names, flush=True)
    link.close()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"serve": serve, "fetch": fetch}[sys.argv[1]](*sys.argv[2:])
