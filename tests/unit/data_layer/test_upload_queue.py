"""How long a failed upload waits, and what is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.seams import Fault, StorageFault
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.store.object_index import Damaged
from prsm.data_layer.transfer.cancellation import Cancelled
from prsm.data_layer.transfer.upload_queue import MAX_PAUSE_S, Outcome, outcome_of, pause_s

A = Cid.of(Codec.RAW, b"a")


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
