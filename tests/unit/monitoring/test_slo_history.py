"""The history of counters and levels: windows, restarts of what counts and of who reads, and the line ahead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.evaluation import budgets
from prsm.monitoring.objectives.history import History, line_ahead
from prsm.monitoring.objectives.selector import Sample, Selector

START_S = 1_800_000_000.0
AVAILABILITY = shipped().slos[0]
FLOOD = (Selector("prsm_failed_requests_total"),)


def counted(requests: float, failed: float = 0.0) -> list[Sample]:
    return [
        Sample("prsm_requests_total", {"operation": "chat"}, requests),
        Sample("prsm_failed_requests_total", {}, failed),
    ]


def test_growth_within_a_window_is_counted_and_older_growth_is_not() -> None:
    history = History(shipped(), START_S)
    for minute in range(120):
        history.add(counted(10 * minute), START_S + 60 * minute)
    end_s = START_S + 60 * 119
    assert history.increase(AVAILABILITY.total, 3600, end_s) == pytest.approx(600, abs=11)
    assert history.increase(AVAILABILITY.total, 86_400, end_s) == 10 * 119


def test_what_was_counted_before_the_first_reading_is_not_growth() -> None:
    history = History(shipped(), START_S)
    history.add(counted(1000), START_S)
    assert history.increase(AVAILABILITY.total, 3600, START_S) == 0


def test_a_counter_that_falls_began_anew() -> None:
    history = History(shipped(), START_S)
    for turn, count in enumerate((100, 110, 4, 6)):
        history.add(counted(count), START_S + 5 * turn)
    assert history.increase(AVAILABILITY.total, 3600, START_S + 20) == 10 + 4 + 2


def test_short_windows_are_read_to_the_second() -> None:
    history = History(shipped(), START_S)
    for turn in range(30):
        history.add(counted(0, turn), START_S + 5 * turn)
    assert history.increase(FLOOD, 60, START_S + 5 * 29) == 12


def test_a_clock_that_is_set_back_makes_no_window_longer() -> None:
    history = History(shipped(), START_S)
    for turn in range(60):
        history.add(counted(0, turn), START_S + 5 * turn)
    for turn in range(60, 120):
        history.add(counted(0, turn), START_S - 3600 + 5 * turn)
    assert history.increase(FLOOD, 60, START_S - 3600 + 5 * 119) == 12
    falling, at_s = Selector("prsm_disk_free_bytes"), START_S
    for turn in range(30):
        at_s = START_S + 60 * turn - 3600 * (turn >= 15)
        history.add([Sample("prsm_disk_free_bytes", {"disk": "home"}, 1e9 - turn)], at_s)
    points = history.points(falling, (("disk", "home"),), 3600, at_s)
    assert line_ahead(points, at_s, 60) == pytest.approx(1e9 - 30)


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 50)), min_size=1, max_size=60))
def test_what_a_node_kept_it_goes_on_with_after_a_restart(steps: list[tuple[int, int]]) -> None:
    history, at_s, count = History(shipped(), START_S), START_S, 0
    history.add(counted(0), at_s)
    for pause_s, grown in steps:
        at_s, count = at_s + pause_s, count + grown
        history.add(counted(count), at_s)
    again = History(shipped(), at_s + 30)
    again.unpack(history.packed(), at_s + 30)
    for window_s in (300, 3600, 21_600, 259_200, 30 * 86_400):
        assert again.increase(AVAILABILITY.total, window_s, at_s + 30) == history.increase(
            AVAILABILITY.total, window_s, at_s + 30
        )


def test_a_history_from_the_future_or_of_something_else_is_refused() -> None:
    history = History(shipped(), START_S)
    with pytest.raises(ValueError, match="later time"):
        History(shipped(), START_S - 7200).unpack(history.packed(), START_S - 7200)
    with pytest.raises(ValueError, match=r".+"):
        history.unpack(b"nonsense", START_S)


def test_a_clock_that_goes_back_loses_nothing() -> None:
    history = History(shipped(), START_S)
    history.add(counted(0), START_S)
    history.add(counted(5), START_S + 3600)
    history.add(counted(9), START_S + 10)
    assert history.increase(AVAILABILITY.total, 21_600, START_S + 3600) == 9


def test_the_line_ahead_is_that_of_least_squares() -> None:
    drawing = np.random.default_rng(7)
    points = [(START_S + 60 * turn, 1e9 - 1e5 * turn + drawing.normal(0, 1e4)) for turn in range(60)]
    now_s = points[-1][0]
    slope, level = np.polyfit([at_s - now_s for at_s, _ in points], [value for _, value in points], 1)
    assert line_ahead(points, now_s, 14_400) == pytest.approx(level + slope * 14_400)
    assert line_ahead(points[:9], now_s, 14_400) is None


def test_a_budget_is_what_is_left_of_what_may_fail() -> None:
    history = History(shipped(), START_S)
    history.add(counted(0), START_S)
    history.add(counted(1000, 4), START_S + 5)
    found = next(each for each in budgets(shipped(), history, START_S + 5) if each.name == "availability")
    assert (found.events, found.bad) == (1000, 4)
    assert found.left == pytest.approx(0.6)
    assert found.burn_1h == pytest.approx(0.4)
    untouched = next(each for each in budgets(shipped(), history, START_S + 5) if each.name == "latency")
    assert (untouched.events, untouched.left, untouched.burn_1h) == (0, 1, 0)
