"""The file of objectives: what is wrong in it stops the start; selectors mean what Prometheus means by them."""

import pytest

from prsm.core.errors import ConfigError
from prsm.monitoring.objectives.declared import FILE, parse, shipped
from prsm.monitoring.objectives.selector import Sample, Selector, total

SHIPPED = FILE.read_text(encoding="utf-8")


def test_the_shipped_file_has_what_a_node_is_to_keep() -> None:
    objectives = shipped()
    assert [slo.name for slo in objectives.slos] == [
        "availability", "latency", "safety_coverage", "storage", "settlement_lag"
    ]  # fmt: skip
    assert [(burn.factor, burn.long_s, burn.short_s, burn.severity) for burn in objectives.burns] == [
        (14.4, 3600, 300, "page"), (6, 21_600, 1800, "page"), (1, 259_200, 21_600, "ticket")
    ]  # fmt: skip
    assert objectives.budget_s == 30 * 86_400


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("budget_days = 30", "budget_days = 30\nextra = 1", "extra"),
        ('severity = "ticket"', 'severity = "whisper"', "page or ticket"),
        ("objective = 0.99\n", "objective = 1.5\n", "between 0 and 1"),
        ("objective = 0.95", "objective = 0.9", "more than everything"),
        ('name = "ValkeyDown"', 'name = "PostgresDown"', "twice"),
        ("level = { value = \"prsm_cache_up\", below = 1 }", "", "needs one of"),
        ("value = \"prsm_cache_up\", below = 1", "value = \"prsm_cache_up\"", "either above or below"),
        ("prsm_cache_up", "prsm_cache_up{", "selector"),
        ("min_events = 20", "min_event = 20", "min_event"),
        ('good = [', 'fine = [', "either good or bad"),
        ("budget_days = 30", "budget_days = ", "wrong"),
        ('bucket{le="5.0"}', 'bucket{le="5.0",model="a"}', "all labels but le"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(right: str, wrong: str, said: str) -> None:
    assert right in SHIPPED
    with pytest.raises(ConfigError, match=said):
        parse(SHIPPED.replace(right, wrong, 1))


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ("m", {"a": "1"}, True),
        ('m{a="1"}', {"a": "1"}, True),
        ('m{a="1"}', {"a": "2"}, False),
        ('m{a="1"}', {}, False),
        ('m{a=""}', {}, True),
        ('m{a!="1"}', {}, True),
        ('m{a=~"1|2"}', {"a": "2"}, True),
        ('m{a=~"1|2"}', {"a": "12"}, False),
        ('m{a!~"1.*"}', {"a": "12"}, False),
        ('m{a="1",b="2"}', {"a": "1", "b": "3"}, False),
    ],
)
def test_a_selector_selects_what_prometheus_would(selector: str, labels: dict[str, str], selected: bool) -> None:
    found = Selector.parse(selector)
    assert str(found) == selector
    assert bool(found.of([Sample("m", labels, 1.0)])) is selected
    assert found.of([Sample("n", labels, 1.0)]) == []


@pytest.mark.parametrize("text", ["", "1m", "m{", "m{a}", "m{a=1}", 'm{a="1"', 'm{a="1"x}', 'm{a="\\""}', "m n"])
def test_other_texts_are_no_selectors(text: str) -> None:
    with pytest.raises(ValueError, match=r"selector|matcher"):
        Selector.parse(text)


def test_a_sum_over_nothing_is_nothing() -> None:
    samples = [Sample("m", {}, 2.0), Sample("n", {}, 3.0)]
    assert total([Selector("m"), Selector("n")], samples) == 5
    assert total([Selector("o")], samples) is None
    assert [Selector(name).family for name in ("a_total", "a_bucket", "a_seconds_count", "a")] == [
        "a",
        "a",
        "a_seconds",
        "a",
    ]
