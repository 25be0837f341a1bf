"""Which queued upload is next, how long a failed one waits, and what is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.data_layer.cancellation import Cancelled
from prsm.data_layer.cid import Cid, Codec
from prsm.data_layer.object_files import NotStored
from prsm.data_layer.object_index import Damaged
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.upload_queue import MAX_PAUSE_S, Outcome, Queued, idle_s, next_uploads, outcome_of, pause_s

A, B, C = (Cid.of(Codec.RAW, name) for name in (b"a", b"b", b"c"))


def test_the_longest_due_goes_first_and_one_to_a_node() -> None:
    queue = [Queued(A, "one", 0, 5.0), Queued(B, "one", 3, 2.0), Queued(C, "two", 0, 3.0)]
    assert next_uploads(queue, 10.0, most=5) == [queue[1], queue[2]]
    assert next_uploads(queue, 10.0) == [queue[1]]
    assert next_uploads(queue, 10.0, busy={"one"}, most=5) == [queue[2]]
    assert next_uploads(queue, 2.5, most=5) == [queue[1]]
    assert next_uploads(queue, 1.0) == []
    assert next_uploads([], 1.0) == []


def test_how_long_nothing_is_due() -> None:
    queue = [Queued(A, "one", 0, 5.0), Queued(C, "two", 0, 8.0)]
    assert idle_s(queue, 1.0) == 4.0
    assert idle_s(queue, 1.0, busy={"one"}) == 7.0
    assert idle_s(queue, 6.0) == 0.0
    assert idle_s(queue, 1.0, busy={"one", "two"}) is None
    assert idle_s([], 1.0) is None


@given(attempts=st.integers(0, 10**6), drawn=st.floats(0, 1, exclude_max=True))
def test_a_failed_one_waits_longer_each_time_but_not_for_ever(attempts: int, drawn: float) -> None:
    assert 0.5 <= pause_s(attempts, drawn) <= MAX_PAUSE_S
    assert pause_s(attempts, drawn) <= pause_s(attempts + 1, drawn)


def test_waits_are_spread() -> None:
    assert (pause_s(3, 0.0), pause_s(3, 0.5)) == (4.0, 10.0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StorageFault("away", fault=Fault.RETRY), Outcome.AGAIN),
        (StorageFault("wants credentials", fault=Fault.OTHER_REPLICA), Outcome.AGAIN),
        (StorageFault("forbidden address", fault=Fault.BAN), Outcome.AGAIN),
        (Cancelled(), Outcome.KEPT),
        (NotStored("gone"), Outcome.FAILED),
        (Damaged(A, "Block"), Outcome.FAILED),
        (InvalidRequest("broken"), Outcome.FAILED),
    ],
)
def test_what_becomes_of_one_that_failed(error: PrsmError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
