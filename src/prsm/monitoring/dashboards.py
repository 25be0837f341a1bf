"""Grafana's dashboards, as JSON: made here, so that each expression is checked against what the node exports. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from prsm.monitoring.objectives.declared import Objectives

_SOURCE = {"type": "prometheus", "uid": "${source}"}
_NODE = 'instance=~"$node"'
_WIDTH, _HEIGHT = 8, 8


class Panel(NamedTuple):
    """A picture of expressions: each with what it is called, in a unit of Grafana's."""

    title: str
    unit: str
    series: Sequence[tuple[str, str]]
    kind: str = "timeseries"


def dashboards(objectives: Objectives) -> dict[str, dict[str, Any]]:
    """Each dashboard by the name of its file."""
    return {
        "prsm-node.json": _dashboard("PRSM node", "prsm-node", _node_panels()),
        "prsm-objectives.json": _dashboard("PRSM objectives", "prsm-objectives", _objective_panels(objectives)),
        "prsm-resources.json": _dashboard("PRSM resources", "prsm-resources", _resource_panels()),
    }


def expressions(dashboard: Mapping[str, Any]) -> Iterator[str]:
    """Every expression of a dashboard, its variables filled in as Grafana would."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$node", ".*").replace("$__rate_interval", "1m")


def _node_panels() -> list[Panel]:
    def rate(metric: str, by: str, more: str = "") -> str:
        return f"sum by ({by}) (rate({metric}{{{_NODE}{more}}}[$__rate_interval]))"

    def quantile(share: float, metric: str) -> str:
        inside = f"sum by (le) (rate({metric}_bucket{{{_NODE}}}[$__rate_interval]))"
        return f"histogram_quantile({share}, {inside})"

    return [
        Panel("Requests", "reqps", [(rate("prsm_requests_total", "operation"), "{{operation}}")]),
        Panel(
            "How they ended", "reqps", [(rate("prsm_requests_total", "outcome", ',outcome!="ok"'), "{{outcome}}")]
        ),
        Panel("Failed by node or model", "reqps", [(rate("prsm_failed_requests_total", "operation"), "{{operation}}")]),
        Panel(
            "Time of whole answers", "s",
            [(quantile(share, "prsm_request_duration_seconds"), f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)],
        ),
        Panel(
            "Time to first token", "s",
            [(quantile(share, "prsm_time_to_first_token_seconds"), f"p{share * 100:.0f}") for share in (0.5, 0.95)],
        ),
        Panel(
            "In work, by Little's law", "short",
            [(rate("prsm_request_duration_seconds_sum", "instance"), "{{instance}}")],
        ),
        Panel("Tokens", "short", [(rate("prsm_tokens_total", "model, direction"), "{{model}} {{direction}}")]),
        Panel("Captured", "short", [(rate("prsm_cost_micro_ftns_total", "model"), "{{model}} µFTNS/s")]),
        Panel("Upstream errors", "short", [(rate("prsm_upstream_errors_total", "model, code"), "{{model}} {{code}}")]),
        Panel("Circuit breakers", "short", [(f"prsm_breaker_state{{{_NODE}}}", "{{model}}")]),
        Panel("Models' availability", "percentunit", [(f"prsm_instance_availability{{{_NODE}}}", "{{model}}")]),
        Panel("Screened", "short", [
            (rate("prsm_screened_texts_total", "direction, outcome"), "{{direction}} {{outcome}}"),
            (rate("prsm_unscreened_answers_total", "instance"), "unscreened"),
        ]),
    ]  # fmt: skip


def _objective_panels(objectives: Objectives) -> list[Panel]:
    panels: list[Panel] = []
    for slo in objectives.slos:
        chosen = f'{{slo="{slo.name}",{_NODE}}}'
        panels += [
            Panel(f"{slo.name}: budget left", "percentunit", [(f"prsm:slo_budget:left{chosen}", "left")], "gauge"),
            Panel(
                f"{slo.name}: how many times too fast", "short",
                [
                    (f"prsm:slo_errors:share_rate{window}{chosen} / {slo.allowed:.6g}", window)
                    for window in ("5m", "1h", "6h", "3d")
                ],
            ),
            Panel(f"{slo.name}: events in an hour", "short", [(f"prsm:slo_events:increase1h{chosen}", "events")]),
        ]  # fmt: skip
    panels.append(Panel("Alerts that fire in the node", "short", [(f"prsm_alerts_firing{{{_NODE}}}", "{{severity}}")]))
    sent = f"increase(prsm_alert_notices_total{{{_NODE}}}[1h])"
    panels.append(Panel("Messages about them", "short", [(sent, "{{sink}} {{outcome}}")]))
    return panels


def _resource_panels() -> list[Panel]:
    def level(metric: str, name: str) -> tuple[str, str]:
        return f"{metric}{{{_NODE}}}", name

    def share(part: str, whole: str, name: str) -> tuple[str, str]:
        return f"{part}{{{_NODE}}} / {whole}{{{_NODE}}}", name

    return [
        Panel("Servers", "short", [level("prsm_postgres_up", "PostgreSQL"), level("prsm_cache_up", "Valkey")]),
        Panel("Free disk", "percentunit", [share("prsm_disk_free_bytes", "prsm_disk_size_bytes", "{{disk}}")]),
        Panel("Stored objects", "bytes", [
            level("prsm_storage_stored_bytes", "stored"), level("prsm_storage_limit_bytes", "limit"),
        ]),
        Panel("Connections to PostgreSQL", "percentunit", [
            share("prsm_database_pool_used", "prsm_database_pool_max", "pool"),
            share("prsm_database_connections", "prsm_database_connections_max", "server"),
        ]),
        Panel("Memory", "bytes", [
            level("prsm_resident_bytes", "resident"), level("prsm_memory_available_bytes", "free"),
        ]),
        Panel("Open files", "percentunit", [share("prsm_open_files", "prsm_open_files_max", "open")]),
        Panel("Ledger's queue", "percentunit", [share("prsm_ledger_queue", "prsm_ledger_queue_max", "full")]),
        Panel("What is late", "s", [
            level("prsm_outbox_lag_seconds", "events"), level("prsm_hold_overdue_seconds", "holds"),
            level("prsm_audit_lag_seconds", "audit log"),
            level("prsm_event_loop_lag_seconds", "event loop"), level("prsm_clock_offset_seconds", "clock"),
        ]),
        Panel("Storage endpoints", "short", [level("prsm_storage_endpoint_state", "{{endpoint}}")]),
    ]  # fmt: skip


def _dashboard(title: str, uid: str, panels: Sequence[Panel]) -> dict[str, Any]:
    node = "label_values(prsm_postgres_up, instance)"
    return {
        "title": title,
        "uid": uid,
        "tags": ["prsm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "node", "label": "Node", "type": "query", "datasource": _SOURCE, "query": node,
                    "includeAll": True, "multi": True, "refresh": 2, "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_panel(number, panel) for number, panel in zip(count(), panels, strict=False)],
    }  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = {"x": number % 3 * _WIDTH, "y": number // 3 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    targets = [
        {"refId": chr(ord("A") + each), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
        for each, (expr, legend) in enumerate(panel.series)
    ]
    defaults: dict[str, Any] = {"unit": panel.unit}
    if panel.kind == "gauge":
        defaults |= {"min": 0, "max": 1}
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }
