"""What is told of alerts, as JSON for programs and as text for people, and the signature of the former. Pure."""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import msgspec

from prsm.monitoring.alerting.states import Alert, Notice

SIGNATURE = "x-prsm-signature"
_HEADLINE = {
    "firing": "FIRING", "still_firing": "STILL FIRING", "escalated": "ESCALATED, nobody took it", "resolved": "RESOLVED"
}  # fmt: skip
_MOST_SHOWN = 50


def as_json(notice: Notice, node: str, now_s: float) -> bytes:
    """The body of a webhook. What is sent again because nobody took it has the same id."""
    first = notice.alerts[0]
    return msgspec.json.encode(
        {
            "version": 1,
            "id": f"{first.id}-{notice.kind}-{int(first.told_s or 0)}",
            "at": _iso(now_s),
            "node": node,
            "kind": notice.kind,
            "rule": notice.rule,
            "severity": notice.severity,
            "count": len(notice.alerts),
            "alerts": [_shown(alert) for alert in notice.alerts[:_MOST_SHOWN]],
        }
    )


def signature(secret: str, body: bytes, now_s: float) -> str:
    """``t=SECONDS,v1=HEX``: HMAC-SHA-256 of ``SECONDS.BODY``, so that an old message cannot be sent again as new."""
    at = int(now_s)
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def subject(notice: Notice, node: str) -> str:
    """One line."""
    many = f" ({len(notice.alerts)})" if len(notice.alerts) > 1 else ""
    return f"[{notice.severity}] {_HEADLINE[notice.kind]}: {notice.rule}{many} on {node}"


def as_text(notice: Notice, node: str, address: str) -> str:
    """A mail's text."""
    lines = [f"{subject(notice, node)}", ""]
    for alert in notice.alerts[:_MOST_SHOWN]:
        lines += [alert.summary, f"  since {_iso(alert.since_s)}, value {alert.value:.6g}, id {alert.id}"]
        if alert.acked_by:
            lines.append(f"  taken by {alert.acked_by}")
    if len(notice.alerts) > _MOST_SHOWN:
        lines.append(f"and {len(notice.alerts) - _MOST_SHOWN} more")
    lines += ["", f"{address}    prsm alerts list    prsm alerts ack ID"]
    return "\n".join(lines) + "\n"


def _shown(alert: Alert) -> dict[str, Any]:
    return {
        "id": str(alert.id),
        "labels": alert.labels,
        "summary": alert.summary,
        "state": alert.state,
        "value": alert.value,
        "since": _iso(alert.since_s),
        "fired_at": _iso(alert.fired_s),
        "resolved_at": _iso(alert.resolved_s),
        "acked_by": alert.acked_by,
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
