"""Neighbours that find each other on the loopback interface, over real multicast."""

import queue
import socket
import time

import pytest

from prsm.data_layer.network.addresses import Origin
from prsm.data_layer.network.discovery import Discovery, FoundBy
from prsm.data_layer.network.mdns import GROUP, Neighbours, Service, question

LOOPBACK = "127.0.0.1"


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        return sock.getsockname()[1]


def test_two_nodes_find_each_other_and_not_themselves(port: int) -> None:
    first, second = Discovery(), Discovery()
    announcing = Neighbours(LOOPBACK, first.heard, Service("one", 8001), port)
    asking = Neighbours(LOOPBACK, second.heard, Service("two", 8002, "/base"), port)
    try:
        until_s = time.monotonic() + 20
        while not second.current():
            assert time.monotonic() < until_s
            time.sleep(0.02)
    finally:
        asking.close()
        announcing.close()
    [found] = second.current()
    assert (found.origin, found.by) == (Origin("http", LOOPBACK, 8001), FoundBy.LINK)
    assert all(each.origin.port == 8002 for each in first.current())


def test_nonsense_is_survived_and_many_questions_get_few_answers(port: int) -> None:
    heard: queue.Queue[tuple[str, int, str]] = queue.Queue()
    started_s = time.monotonic()
    neighbours = Neighbours(LOOPBACK, Discovery().heard, Service("one", 8001, "//nonsense"), port)
    listener = Neighbours(LOOPBACK, lambda *said: heard.put(said), None, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
        for _ in range(2):
            for message in (b"", b"\xff" * 1400, *[question()] * 50):
                sock.sendto(message, (GROUP, port))
            assert heard.get(timeout=20) == (LOOPBACK, 8001, "//nonsense")
    listener.close()
    neighbours.close()
    assert heard.qsize() <= time.monotonic() - started_s  # one a second, but for the two that were taken out


def test_an_interface_that_is_not_there_is_an_error(port: int) -> None:
    with pytest.raises(OSError, match=r"No such device|assign requested address"):
        Neighbours("203.0.113.77", lambda *said: None, None, port)
