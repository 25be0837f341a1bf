"""What a transfer tells about itself, and threads that work and end together."""

import threading

import pytest

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.crew import block_buffers, work_together
from prsm.data_layer.transfer.progress import REPORT_EVERY_S, Meter, Progress

CID = Cid.of(Codec.RAW, b"object")


def test_it_is_told_a_few_times_a_second_and_at_the_end() -> None:
    now = [100.0]
    told: list[Progress] = []
    meter = Meter(CID, told.append, clock=lambda: now[0])
    meter.add(total_bytes=1000)
    for _ in range(100):
        now[0] += REPORT_EVERY_S / 10
        meter.add(done_bytes=10, moved_bytes=5)
    assert len(told) in (10, 11)
    meter.finish()
    assert told[-1] == Progress(CID, 1000, 1000, 500, seconds=pytest.approx(10 * REPORT_EVERY_S))
    assert told[-1].rate_bytes_s == pytest.approx(200.0)
    assert told[-1].left_s == 0.0


def test_what_is_not_known_is_not_said() -> None:
    assert Progress(CID).left_s is None
    assert Progress(CID, total_bytes=10, seconds=1.0).left_s is None
    assert Progress(CID, 40, 100, 20, seconds=2.0).left_s == 6.0


def test_all_do_their_part() -> None:
    done: list[int] = []
    work_together(done.append, range(5), Cancellation())
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_the_first_failure_ends_all_and_is_the_one_that_is_raised() -> None:
    stop = Cancellation()
    meeting = threading.Barrier(4)

    def work(number: int) -> None:
        meeting.wait(30)
        if number == 2:
            raise ValueError("the cause")
        stop.pause(3600)

    before = threading.active_count()
    with pytest.raises(ValueError, match="the cause"):
        work_together(work, range(4), stop)
    assert threading.active_count() == before


def test_one_works_without_a_thread() -> None:
    seen: list[threading.Thread] = []
    work_together(lambda _: seen.append(threading.current_thread()), ["only"], Cancellation())
    assert seen == [threading.current_thread()]


def test_a_cancelled_pause_ends() -> None:
    stop = Cancellation()
    stop.set()
    with pytest.raises(Cancelled):
        stop.pause(3600)


def test_a_buffer_holds_the_largest_block() -> None:
    assert [len(buffer) for buffer in block_buffers(2)] == [MAX_BLOCK_BYTES] * 2
