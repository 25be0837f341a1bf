"""The states of alerts: inactive, pending, firing, resolved; and what is to be told to whom when. Pure.

Time is passed in. What is not among the alerts is inactive; what was resolved stays until it was told, then leaves.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from prsm.monitoring.objectives.declared import Severity
from prsm.monitoring.objectives.evaluation import Finding

State = Literal["pending", "firing", "resolved"]
Kind = Literal["firing", "still_firing", "escalated", "resolved"]


class Alert(Struct, frozen=True):
    """One alert from when its condition began to hold. Times are seconds of the wall clock; None: not yet.

    ``acked_by`` is who looks after it; ``silenced_by`` why nobody is told. ``key`` names rule and labels.
    """

    id: UUID
    key: str
    rule: str
    severity: Severity
    labels: dict[str, str]
    summary: str
    state: State
    value: float
    since_s: float
    seen_s: float
    fired_s: float | None = None
    resolved_s: float | None = None
    acked_by: str = ""
    acked_s: float | None = None
    ack_note: str = ""
    told_s: float | None = None
    escalated_s: float | None = None
    silenced_by: str = ""


class Silence(Struct, frozen=True):
    """Nobody is told of alerts of ``rule`` (empty: any) with these labels, until then; who said so, and why."""

    id: UUID
    rule: str
    labels: dict[str, str]
    by: str
    reason: str
    until_s: float

    def covers(self, alert: Alert, now_s: float) -> bool:
        """Whether it is about this alert and still holds."""
        named = self.rule in ("", alert.rule)
        return named and now_s < self.until_s and self.labels.items() <= alert.labels.items()


class Notice(Struct, frozen=True):
    """Alerts of one rule that became the same at once: one message."""

    kind: Kind
    rule: str
    severity: Severity
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """``clear_s``: gone for this long is resolved. A page that nobody took is escalated after ``escalate_s``, what
    fires on is told again every ``repeat_s`` until somebody takes it."""

    clear_s: float = 8.0
    escalate_s: float = 900.0
    repeat_s: float = 14_400.0
    most: int = 1000


def key_of(rule: str, labels: Iterable[tuple[str, str]]) -> str:
    """The name of an alert, the same in every process."""
    text = "\x00".join([rule, *(f"{name}\x01{value}" for name, value in sorted(labels))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def step(
    alerts: Mapping[str, Alert],
    found: Sequence[Finding],
    new_id: Mapping[str, UUID],
    now_s: float,
    policy: AlertPolicy,
) -> dict[str, Alert]:
    """The alerts after one evaluation. ``new_id`` has an id for each finding's key.

    At most ``policy.most`` are kept; further ones are not begun while those last.
    """
    held = {key_of(one.rule, one.labels): one for one in found}
    after: dict[str, Alert] = {}
    for key, known in alerts.items():
        alert, finding = _not_ahead(known, now_s), held.pop(key, None)
        kept = _gone(alert, now_s, policy) if finding is None else _holds(alert, finding, new_id[key], now_s)
        if kept is not None:
            after[key] = kept
    for key, finding in held.items():
        if len(after) < policy.most:
            after[key] = _begun(key, finding, new_id[key], now_s)
    return after


def silenced(alerts: Mapping[str, Alert], silences: Sequence[Silence], now_s: float) -> dict[str, Alert]:
    """The alerts, each with why nobody is told of it; empty where somebody is."""
    found: dict[str, Alert] = {}
    for key, alert in alerts.items():
        why = next((f"{one.by}: {one.reason}" for one in silences if one.covers(alert, now_s)), "")
        found[key] = alert if why == alert.silenced_by else replace(alert, silenced_by=why)
    return found


def due(alerts: Mapping[str, Alert], now_s: float, policy: AlertPolicy) -> tuple[dict[str, Alert], list[Notice]]:
    """What is to be told now, grouped by rule; and the alerts as they are once it was."""
    after, groups = dict(alerts), defaultdict[tuple[Kind, str], list[Alert]](list)
    for key, alert in alerts.items():
        kind = _to_tell(alert, now_s, policy)
        if kind is not None:
            told = replace(alert, told_s=now_s, escalated_s=now_s if kind == "escalated" else alert.escalated_s)
            groups[kind, alert.rule].append(told)
            after[key] = told
        if alert.state == "resolved":
            del after[key]
    notices = [Notice(kind, rule, group[0].severity, tuple(group)) for (kind, rule), group in groups.items()]
    return after, notices


def _not_ahead(alert: Alert, now_s: float) -> Alert:
    """With no time in the future: else, once the clock was set back, nothing would be told until it is there again."""
    times = ("since_s", "seen_s", "fired_s", "told_s", "escalated_s")
    ahead = {name: now_s for name in times if (getattr(alert, name) or 0) > now_s}
    return replace(alert, **ahead) if ahead else alert


def _begun(key: str, finding: Finding, new_id: UUID, now_s: float) -> Alert:
    alert = Alert(
        new_id, key, finding.rule, finding.severity, dict(finding.labels), finding.summary, "pending", finding.value,
        now_s, now_s,
    )  # fmt: skip
    return _holds(alert, finding, new_id, now_s)


def _holds(alert: Alert, finding: Finding, new_id: UUID, now_s: float) -> Alert:
    if alert.state == "resolved":
        return _begun(alert.key, finding, new_id, now_s)
    alert = replace(alert, value=finding.value, seen_s=now_s)
    if alert.state == "pending" and now_s - alert.since_s >= finding.for_s:
        return replace(alert, state="firing", fired_s=now_s)
    return alert


def _gone(alert: Alert, now_s: float, policy: AlertPolicy) -> Alert | None:
    if alert.state == "pending":
        return None
    if alert.state == "firing" and now_s - alert.seen_s >= policy.clear_s:
        return replace(alert, state="resolved", resolved_s=now_s)
    return alert


def _to_tell(alert: Alert, now_s: float, policy: AlertPolicy) -> Kind | None:
    if alert.state == "resolved":
        return None if alert.told_s is None else "resolved"  # who was told of the one is told of the other
    if alert.silenced_by or alert.state == "pending":
        return None
    if alert.told_s is None:
        return "firing"
    if alert.acked_s is not None:
        return None
    overdue = alert.fired_s is not None and now_s - alert.fired_s >= policy.escalate_s
    if alert.severity == "page" and alert.escalated_s is None and overdue:
        return "escalated"
    return "still_firing" if now_s - alert.told_s >= policy.repeat_s else None
