"""Capacity: quantiles as Prometheus has them, the scaling law found again in what it made, times until an end."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.monitoring.capacity.forecast import hit, trend
from prsm.monitoring.capacity.scaling import Scaling, fit, throughput
from prsm.monitoring.capacity.traffic import Traffic, quantiles
from prsm.monitoring.objectives.selector import Sample

LAW = (120.0, 0.04, 0.0006)


def measured(count: int, noise: float, seed: int = 1, law: tuple[float, float, float] = LAW) -> Scaling | str:
    drawing = np.random.default_rng(seed)
    n = drawing.uniform(1, 80, count)
    x = throughput(n, *law) * drawing.normal(1, noise, count)
    return fit(list(n), list(x))


def test_the_law_is_found_again_without_noise() -> None:
    found = measured(40, 0.0)
    assert isinstance(found, Scaling)
    assert [found.alone_per_s.value, found.contention.value, found.coherency.value] == pytest.approx(LAW, rel=1e-6)
    assert found.peak_in_work.value == pytest.approx(math.sqrt((1 - 0.04) / 0.0006))
    assert found.fit == pytest.approx(1)


def test_nine_of_ten_intervals_hold_the_peak() -> None:
    true_per_s = float(throughput(np.array([40.0]), *LAW)[0])
    held = 0
    for seed in range(60):
        found = measured(60, 0.05, seed)
        assert isinstance(found, Scaling)
        held += found.peak_per_s.low <= true_per_s * 1.001 and found.peak_per_s.high >= true_per_s * 0.999
    assert held >= 45, "90 % are meant; a bootstrap of 60 points is a little too sure"


def test_no_peak_is_claimed_where_throughput_only_grows() -> None:
    found = measured(40, 0.0, law=(10.0, 0.0, 0.0))
    assert isinstance(found, Scaling)
    assert found.peak_per_s.value == math.inf
    assert found.alone_per_s.value == pytest.approx(10)


@pytest.mark.parametrize(
    ("in_work", "per_s", "why"),
    [([], [], "0 minutes"), ([1.0] * 5, [1.0] * 5, "5 minutes"), ([1.0, 1.1] * 20, [1.0] * 40, "too even")],
)
def test_too_little_is_said_and_nothing_is_fitted(in_work: list[float], per_s: list[float], why: str) -> None:
    assert why in str(fit(in_work, per_s))


@given(st.floats(0.1, 1e3), st.floats(0, 0.5), st.floats(0, 0.05))
def test_whatever_made_it_nothing_fitted_is_negative(alone: float, contention: float, coherency: float) -> None:
    found = measured(20, 0.3, law=(alone, contention, coherency))
    assert isinstance(found, Scaling)
    for one in (found.alone_per_s, found.contention, found.coherency, found.peak_per_s):
        assert 0 <= one.low <= one.high


def test_a_steady_growth_hits_its_limit_when_it_does() -> None:
    found = hit([(60.0 * turn, 100.0 + turn) for turn in range(30)], 229.0)
    assert found
    assert found.in_s == pytest.approx(100 * 60)
    assert found.earliest_s <= found.in_s <= found.latest_s


def test_noise_without_growth_has_no_end_and_outliers_do_not_make_one() -> None:
    drawing = np.random.default_rng(3)
    flat = [(60.0 * turn, float(drawing.normal(100, 5))) for turn in range(60)]
    assert hit(flat, 200) is None
    flat[-1] = (flat[-1][0], 190.0)
    assert hit(flat, 200) is None
    assert hit(flat[:9], 200) is None


def test_the_interval_of_a_trend_holds_it_nine_times_of_ten() -> None:
    held = 0
    for seed in range(200):
        drawing = np.random.default_rng(seed)
        found = trend([(float(turn), 3.0 * turn + float(drawing.normal(0, 20))) for turn in range(40)])
        assert found
        held += found.low <= 3.0 <= found.high
    assert 165 <= held <= 197


def test_quantiles_are_those_of_prometheus() -> None:
    """``histogram_quantile`` of the same buckets: linear within one, the last finite bound beyond all."""
    after = {"0.1": 50.0, "0.5": 90.0, "1.0": 100.0, "+Inf": 100.0}
    found = quantiles({}, after)
    assert found == pytest.approx({"p50": 0.1, "p95": 0.75, "p99": 0.95})
    assert quantiles(after, after) is None
    assert quantiles({}, {"1.0": 0.0, "+Inf": 5.0}) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}


def counted(requests: float, busy_s: float, failed: float = 0.0) -> list[Sample]:
    return [
        Sample("prsm_requests_total", {"operation": "chat"}, requests),
        Sample("prsm_failed_requests_total", {}, failed),
        Sample("prsm_request_duration_seconds_sum", {"operation": "chat"}, busy_s),
        Sample("prsm_tokens_total", {"model": "a/m", "direction": "output"}, requests * 10),
    ]


def test_rates_and_work_follow_from_counters_by_littles_law() -> None:
    traffic = Traffic()
    assert traffic.now().requests_per_s == 0
    for turn in range(40):
        traffic.add(counted(turn * 10, turn * 20.0, turn), 5.0 * turn)
    now = traffic.now()
    assert (now.requests_per_s, now.failed_per_s, now.in_work, now.tokens_per_s) == (2, 0.2, 4, 20)
    assert now.by_model == {"a/m": 20}
    assert [(point.per_s, point.in_work) for point in traffic.minutes] == [(2, 4)] * 3


def test_a_restart_of_the_counters_is_no_burst() -> None:
    traffic = Traffic()
    traffic.add(counted(1000, 10), 0.0)
    traffic.add(counted(3, 1), 5.0)
    traffic.add(counted(8, 2), 10.0)
    assert traffic.now().requests_per_s == 1
