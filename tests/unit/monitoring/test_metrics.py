"""Metrics: what is counted under which name, and that Prometheus can read it."""

from prometheus_client.parser import text_string_to_metric_families

from prsm.monitoring.metrics import Metrics, breaker_level


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_requests_are_counted_by_ending_and_timed_by_operation() -> None:
    metrics = Metrics()
    for outcome, seconds in (("ok", 0.5), ("ok", 1.5), ("rate_limited", 0.1)):
        metrics.request_ended("chat", outcome, seconds)
    assert value(metrics, "prsm_requests_total", operation="chat", outcome="ok") == 2
    assert value(metrics, "prsm_requests_total", operation="chat", outcome="rate_limited") == 1
    assert value(metrics, "prsm_request_duration_seconds_count", operation="chat") == 3
    assert value(metrics, "prsm_request_duration_seconds_bucket", operation="chat", le="0.5") == 2


def test_a_charge_counts_tokens_and_money_and_what_the_node_bears() -> None:
    metrics = Metrics()
    metrics.charged("a/m", 10, 20, 50, 50)
    metrics.charged("a/m", 1, 2, 3, 10)
    assert value(metrics, "prsm_tokens_total", model="a/m", direction="input") == 11
    assert value(metrics, "prsm_tokens_total", model="a/m", direction="output") == 22
    assert value(metrics, "prsm_cost_micro_ftns_total", model="a/m") == 53
    assert value(metrics, "prsm_uncovered_micro_ftns_total", model="a/m") == 7


def test_failures_and_first_answers_are_counted_by_model() -> None:
    metrics = Metrics()
    metrics.upstream_failed("a/m", "upstream_reset")
    metrics.first_answer("a/m", 0.2)
    assert value(metrics, "prsm_upstream_errors_total", model="a/m", code="upstream_reset") == 1
    assert value(metrics, "prsm_time_to_first_token_seconds_sum", model="a/m") == 0.2


def test_gauges_are_read_at_the_scrape() -> None:
    metrics, queue = Metrics(), [3.0]
    metrics.gauge("prsm_queue", "Waiting.", lambda: queue[0])
    metrics.levels("prsm_state", "States.", "model", lambda: {"a/m": breaker_level("open"), 'b"\n/m': 1})
    assert value(metrics, "prsm_queue") == 3
    queue[0] = 5
    assert value(metrics, "prsm_queue") == 5
    assert value(metrics, "prsm_state", model="a/m") == 2
    assert value(metrics, "prsm_state", model='b"\n/m') == 1


def test_two_nodes_in_one_process_do_not_share_what_they_count() -> None:
    one, two = Metrics(), Metrics()
    one.upstream_failed("a/m", "x")
    assert value(two, "prsm_upstream_errors_total", model="a/m", code="x") is None


def test_breaker_levels_are_ordered() -> None:
    assert [breaker_level(state) for state in ("closed", "half_open", "open")] == [0, 1, 2]


def test_what_the_alerter_reads_is_what_a_scrape_would_with_histograms_summed() -> None:
    metrics = Metrics()
    metrics.request_ended("chat", "ok", 0.5)
    metrics.request_failed("chat")
    metrics.checked("storage", ok=False)
    for model in ("a/m", "b/m"):
        metrics.first_answer(model, 0.3)
    metrics.summed("prsm_open_files", "Open files.", lambda: 7.0)
    metrics.levels("prsm_disk_free_bytes", "Free.", "disk", lambda: {"home": 5.0})
    metrics.gauge("prsm_unasked", "Not asked for.", lambda: 1 / 0)
    families = {
        "prsm_requests", "prsm_failed_requests", "prsm_part_checks", "prsm_time_to_first_token_seconds",
        "prsm_open_files", "prsm_disk_free_bytes",
    }  # fmt: skip
    metrics.write_shared()
    read = [*metrics.counted(families), *metrics.levels_now(families)]
    found = {(one.name, frozenset(one.labels.items())): one.value for one in read}
    assert found["prsm_requests_total", frozenset({("operation", "chat"), ("outcome", "ok")})] == 1
    assert found["prsm_failed_requests_total", frozenset({("operation", "chat")})] == 1
    assert found["prsm_part_checks_total", frozenset({("part", "storage"), ("outcome", "failed")})] == 1
    assert found["prsm_time_to_first_token_seconds_bucket", frozenset({("le", "0.5")})] == 2
    assert found["prsm_time_to_first_token_seconds_count", frozenset()] == 2
    assert found["prsm_open_files", frozenset()] == 7
    assert found["prsm_disk_free_bytes", frozenset({("disk", "home")})] == 5
