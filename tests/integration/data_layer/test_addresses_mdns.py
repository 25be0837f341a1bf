"""Nodes that find each other over real multicast: on the loopback, and between network namespaces."""

import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address

import pytest

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import Origin
from prsm.data_layer.network.discovery import Discovery, FoundBy
from prsm.data_layer.network.mdns import GROUP, OwnGateway, Responder, Service, announcement, question, read

LOOPBACK = "127.0.0.1"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def port() -> int:
    """A port for a group of our own; skips where the loopback takes no multicast."""
    with multicast(0) as sock:
        sock.sendto(b"", (GROUP, sock.getsockname()[1]))
        try:
            sock.recv(1)
        except TimeoutError:
            pytest.skip("no multicast on this machine's loopback")
        return sock.getsockname()[1]


@contextmanager
def multicast(port: int) -> Iterator[socket.socket]:
    """A socket in the group on the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((GROUP, port))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
        sock.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + socket.inet_aton(LOOPBACK)
        )
        sock.settimeout(5)
        yield sock


def until(holds: Callable[[], object], within_s: float = 20.0) -> None:
    until_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def until_quiet(sock: socket.socket) -> list[bool | tuple[Service, ...]]:
    """What is said until nobody has anything more to say."""
    said: list[bool | tuple[Service, ...]] = []
    sock.settimeout(2)
    with suppress(TimeoutError):
        while True:
            said.append(read(sock.recv(9000)))
    return said


def gateway(name: str, port: int) -> OwnGateway:
    return OwnGateway(name, LOOPBACK, port)


@pytest.mark.parametrize("interface", [LOOPBACK, "lo"])
def test_two_nodes_find_each_other_and_not_themselves(port: int, interface: str) -> None:
    first, second = Discovery(), Discovery()
    one = Responder(interface, first.heard, gateway("one", 8001), port)
    two = Responder(interface, second.heard, gateway("two", 8002), port)
    try:
        until(lambda: first.current() and second.current())
    finally:
        two.close()
        one.close()
    [found] = second.current()
    assert (found.origin, found.by) == (Origin("http", LOOPBACK, 8001), FoundBy.LINK)
    assert [found.origin.port for found in first.current()] == [8002]


def test_one_that_serves_nothing_there_finds_others_and_says_nothing(port: int) -> None:
    serving, silent = Discovery(), Discovery()
    one = Responder(LOOPBACK, serving.heard, gateway("one", 8001), port)
    others = [
        Responder(LOOPBACK, silent.heard, each, port) for each in (None, OwnGateway("elsewhere", "192.0.2.1", 8002))
    ]
    until(silent.current)
    for each in (*others, one):
        each.close()
    assert [found.origin.port for found in silent.current()] == [8001]
    assert serving.current() == ()


def test_nonsense_is_survived_and_many_questions_get_few_answers(port: int) -> None:
    heard: queue.Queue[tuple[str, int, str]] = queue.Queue()
    started_s = time.monotonic()
    responder = Responder(LOOPBACK, Discovery().heard, gateway("one", 8001), port)
    listener = Responder(LOOPBACK, lambda *said: heard.put(said), None, port)
    nonsense = announcement(Service("two", 1, "//nonsense"), IPv4Address(LOOPBACK))
    with multicast(port) as sock:
        for _ in range(2):
            for message in (b"", b"\xff" * 1400, nonsense, *[question()] * 50):
                sock.sendto(message, (GROUP, port))
            while heard.get(timeout=20) != (LOOPBACK, 8001, ""):
                continue
    listener.close()
    responder.close()
    answers = sum(said[1] == 8001 for said in heard.queue)
    assert answers <= time.monotonic() - started_s  # one a second, but for the two that were taken out


def test_workers_of_one_node_are_not_louder_than_one(port: int) -> None:
    workers = [Responder(LOOPBACK, Discovery().heard, gateway("one", 8001), port) for _ in range(6)]
    with multicast(port) as sock:
        until_quiet(sock)  # all have answered each other's questions, and may answer again
        sock.sendto(question(), (GROUP, port))
        answers = until_quiet(sock).count((Service("one", 8001),))
    for worker in workers:
        worker.close()
    assert 1 <= answers < 6


@pytest.mark.parametrize("interface", ["203.0.113.77", "nowhere0", "fe80::1"])
def test_an_interface_that_is_not_there_is_said_and_waited_for(
    port: int, interface: str, capsys: pytest.CaptureFixture[str]
) -> None:
    responder = Responder(interface, lambda *said: None, None, port)
    said = ""

    def told() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "not on the link" in said

    until(told)
    responder.close()
    assert interface in said


def ip(*words: str, netns: str = "") -> None:
    subprocess.run(["ip", *(("-n", netns) if netns else ()), *words], check=True, capture_output=True)


class Links:
    """Namespaces of this test, and processes in them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._number = 0

    def space(self) -> str:
        self._number += 1
        name = f"prsmtest{os.getpid()}-{self._number}"
        ip("netns", "add", name)
        self._stack.callback(ip, "netns", "del", name)
        ip("link", "set", "lo", "up", netns=name)
        return name

    def join(self, one: str, one_end: str, two: str, two_end: str, net: str) -> None:
        """A cable between two namespaces; the first gets its address with ``address``."""
        ip("link", "add", one_end, "netns", one, "type", "veth", "peer", "name", two_end, "netns", two)
        ip("link", "set", one_end, "up", netns=one)
        ip("link", "set", two_end, "up", netns=two)
        ip("addr", "add", f"{net}.2/24", "dev", two_end, netns=two)

    def run(self, space: str, *words: str) -> "subprocess.Popen[str]":
        argv = ["ip", "netns", "exec", space, sys.executable, "-m", "tests.support.link_node", *words]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.callback(self._end, process)
        line_of(process, "ready")
        return process

    @staticmethod
    def _end(process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.stdout.close()


def line_of(process: "subprocess.Popen[str]", start: str) -> str:
    """The first line that starts so."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(start)).strip()


@pytest.fixture
def links() -> Iterator[Links]:
    with ExitStack() as stack:
        made = Links(stack)
        try:
            probe = [made.space(), made.space()]
            made.join(probe[0], "eth0", probe[1], "eth0", "10.99.0")
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine gives no network namespaces with links between them")
        yield made


def test_a_node_waits_for_its_interface_finds_another_machine_and_fetches_from_it(links: Links) -> None:
    here, there = links.space(), links.space()
    links.join(here, "eth0", there, "eth0", "10.99.1")
    links.run(there, "serve", "eth0", "from the other machine")
    cid = Cid.of(Codec.RAW, b"from the other machine")
    fetching = links.run(here, "fetch", "eth0", str(cid))
    ip("addr", "add", "10.99.1.1/24", "dev", "eth0", netns=here)
    assert line_of(fetching, "from").startswith("from the other machine gateway http://10.99.1.2:")


def test_what_is_said_on_another_interface_is_not_heard(links: Links) -> None:
    here, friend, stranger = links.space(), links.space(), links.space()
    links.join(here, "inside", friend, "eth0", "10.99.1")
    links.join(here, "outside", stranger, "eth0", "10.99.2")
    ip("addr", "add", "10.99.1.1/24", "dev", "inside", netns=here)
    ip("addr", "add", "10.99.2.1/24", "dev", "outside", netns=here)
    cid = Cid.of(Codec.RAW, b"from a friend")
    fetching = links.run(here, "fetch", "inside", str(cid))
    links.run(stranger, "serve", "eth0", "from a stranger")
    other = links.run(here, "fetch", "outside", str(Cid.of(Codec.RAW, b"from a stranger")))
    assert "10.99.2.2" in line_of(other, "from"), "another program of this machine joined the group there"
    links.run(friend, "serve", "eth0", "from a friend")
    said = line_of(fetching, "from")
    assert "10.99.1.2" in said
    assert "10.99.2.2" not in said
