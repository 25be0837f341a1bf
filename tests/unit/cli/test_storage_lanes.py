"""Work shared out over a few connections: all of it is done, several at once, and the first failure ends the rest."""

import threading
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.cli.client import Ended, NodeClient, spread
from prsm.core.errors import PrsmError

WAIT_S = 30


def nowhere() -> NodeClient:
    """A client that is asked nothing."""
    return NodeClient("http://127.0.0.1:1", "key")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=20))
def test_each_item_is_done_once_and_what_comes_of_it_too(depths: list[int]) -> None:
    done: list[tuple[int, ...]] = []

    def work(_: NodeClient, item: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        done.append(item)
        return [(*item, each) for each in range(2)] if len(item) <= depths[item[0]] else []

    spread(nowhere(), [(each,) for each in range(len(depths))], work)
    assert len(done) == len(set(done)) == sum(2 ** (depth + 1) - 1 for depth in depths)


def test_four_are_at_work_at_once_and_never_more() -> None:
    four, lock = threading.Barrier(4), threading.Lock()
    at_work, most = 0, 0

    def work(_: NodeClient, __: int) -> tuple[()]:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        four.wait(WAIT_S)
        with lock:
            at_work -= 1
        return ()

    spread(nowhere(), range(16), work)
    assert most == 4


def test_the_first_failure_ends_all_and_is_what_is_raised() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(lane: NodeClient, item: int) -> tuple[()]:
        begun.append(item)
        if item == 2:
            failed.set()
            raise PrsmError("the first", code="first")
        assert failed.wait(WAIT_S)
        while True:
            lane._wait(0.01)  # as a request under way does: it ends when its client is stopped

    before = threading.active_count()
    with pytest.raises(PrsmError, match="the first"):
        spread(nowhere(), range(100), work)
    assert len(begun) <= 4
    assert threading.active_count() == before


def test_a_stopped_client_asks_nothing_more() -> None:
    client = nowhere()
    client.stop()
    with pytest.raises(Ended):
        client.call("GET", "/")
    assert client.another() is not client
