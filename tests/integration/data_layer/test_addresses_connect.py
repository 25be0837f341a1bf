"""Nobody inside is ever connected to: every form against listeners on loopback that must not accept a connection."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.address_forms import ODD_TEXTS, SPECIAL_ADDRESSES
from tests.support.gateway_server import gateway_server

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import BadAddress, parse_private_hosts, system_look_up
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import UNPACED
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.seams import Fault, StorageFault

CID = Cid.of(Codec.RAW, b"inside")


class Listeners:
    """Listening on one port of every loopback address there is."""

    def __init__(self) -> None:
        self.sockets = [socket.create_server(("0.0.0.0", 0))]
        self.port = self.sockets[0].getsockname()[1]
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
            self.sockets.append(socket.create_server(("::", self.port), family=socket.AF_INET6))
        for each in self.sockets:
            each.setblocking(False)

    def accepted(self) -> int:
        count = 0
        for each in self.sockets:
            try:
                while True:
                    each.accept()[0].close()
                    count += 1
            except BlockingIOError:
                pass
        return count


@pytest.fixture(scope="module")
def listeners() -> Iterator[Listeners]:
    listeners = Listeners()
    yield listeners
    for each in listeners.sockets:
        each.close()


@pytest.fixture(autouse=True)
def nobody_came(listeners: Listeners) -> Iterator[None]:
    yield
    assert listeners.accepted() == 0


def refused(url: str, **options) -> StorageFault:
    """How fetching from ``url`` ends; it must not be with a block."""
    with closing(Gateway.at(url, **options)) as gateway, pytest.raises(StorageFault) as fault:
        gateway.fetch(CID, memoryview(bytearray(100)), deadline_s=time.monotonic() + 5, pace=UNPACED)
    return fault.value


def test_the_listeners_would_notice(listeners: Listeners) -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))[: len(listeners.sockets)]:
        with socket.socket(family) as sock:
            sock.connect((host, listeners.port))
    assert listeners.accepted() == len(listeners.sockets)


def test_a_resolver_reads_what_is_refused_here() -> None:
    """Why odd texts are refused before anything resolves them: the system would take them for loopback."""
    assert (
        system_look_up("0x7f.1", 80) == system_look_up("2130706433", 80) == system_look_up("127.1", 80) == ["127.0.0.1"]
    )


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_odd_texts_never_get_as_far_as_a_socket(listeners: Listeners, text: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(BadAddress):
            Gateway.at(f"{scheme}://{text}:{listeners.port}/")


@pytest.mark.parametrize("text", SPECIAL_ADDRESSES)
def test_special_addresses_are_not_connected_to(listeners: Listeners, text: str) -> None:
    host = f"[{text}]" if ":" in text else text
    assert refused(f"http://{host}:{listeners.port}").fault is Fault.BAN
    assert refused(f"http://example.org:{listeners.port}", look_up=lambda host, port: [text]).fault is Fault.BAN


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", socket.gethostname()])
def test_names_of_this_machine_are_not_connected_to(listeners: Listeners, name: str) -> None:
    fault = refused(f"http://{name}:{listeners.port}")
    assert fault.fault is Fault.BAN
    assert "private hosts" in str(fault)


def test_an_answer_that_mixes_public_and_private_is_refused_whole(listeners: Listeners) -> None:
    for ips in (["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1", "::1"]):
        fault = refused(f"http://example.org:{listeners.port}", look_up=lambda host, port, ips=ips: ips)
        assert fault.code == "forbidden_address"


def test_a_node_is_guarded_like_a_gateway(listeners: Listeners) -> None:
    with closing(KuboNode.at(f"http://127.0.0.1:{listeners.port}")) as node, pytest.raises(StorageFault) as fault:
        node.version(deadline_s=time.monotonic() + 5)
    assert fault.value.fault is Fault.BAN


def test_a_name_is_resolved_once_and_that_answer_is_connected_to(listeners: Listeners) -> None:
    """Rebinding: what a second question would answer cannot matter, since none is asked."""
    block = b"inside"
    with gateway_server({CID: block}) as server:
        answers = iter([["127.0.0.1"], ["169.254.169.254"]])
        asked: list[str] = []

        def rebinding(host: str, port: int) -> list[str]:
            asked.append(host)
            return next(answers)

        url = f"http://gateway.example:{server.port}"
        named = parse_private_hosts([f"gateway.example:{server.port}"])
        with closing(Gateway.at(url, private_hosts=named, look_up=rebinding)) as gateway:
            room = memoryview(bytearray(100))
            assert gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED) == len(block)
            assert asked == ["gateway.example"]
            assert server.heads[-1]["host"] == f"gateway.example:{server.port}"
            server.drop_connections()  # the next connection resolves anew, and is checked anew
            with pytest.raises(StorageFault, match="link-local") as fault:
                gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
            assert fault.value.fault is Fault.BAN
            assert asked == ["gateway.example"] * 2


def test_an_address_that_does_not_answer_gives_way_to_the_next(listeners: Listeners) -> None:
    with gateway_server({CID: b"inside"}) as server:
        named = parse_private_hosts([f"gateway.example:{server.port}"])
        gateway = Gateway.at(
            f"http://gateway.example:{server.port}",
            private_hosts=named,
            look_up=lambda host, port: ["127.0.0.9", "127.0.0.1"],
        )
        with closing(gateway):
            room = memoryview(bytearray(100))
            assert gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED) == 6
