"""Alerts as the node API shows them."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from prsm.monitoring.alerting.states import Alert, Silence

_PLAIN = r"^[^\x00-\x1f\x7f]*$"
_Label = Annotated[str, Field(max_length=200, pattern=_PLAIN)]


class AlertShown(BaseModel):
    """One alert. ``silenced_by``: who said that nobody is told of it, and why; empty where somebody is."""

    id: UUID
    rule: str
    severity: Literal["page", "ticket"]
    state: Literal["pending", "firing", "resolved"]
    summary: str
    labels: dict[str, str]
    value: float | None = Field(description="What was measured; null where that is no number.")
    since: datetime
    fired_at: datetime | None
    resolved_at: datetime | None
    acked_by: str
    acked_at: datetime | None
    ack_note: str
    escalated_at: datetime | None
    silenced_by: str


class SilenceShown(BaseModel):
    """Nobody is told of alerts of ``rule`` (empty: any) with these labels, until then."""

    id: UUID
    rule: str
    labels: dict[str, str]
    by: str
    reason: str
    until: datetime


class AlertsShown(BaseModel):
    """What fires or is about to, what fired before, who is told, and of what nobody is.

    ``recent`` and ``silences`` are null while PostgreSQL is away.
    """

    evaluated_at: datetime | None = Field(description="Null: nothing was evaluated yet.")
    alerts: list[AlertShown]
    recent: list[AlertShown] | None
    silences: list[SilenceShown] | None
    sinks: dict[str, str] = Field(description="Ways to tell: empty, or why the last message did not go.")


class Acknowledgement(BaseModel):
    """Somebody looks after an alert."""

    model_config = ConfigDict(extra="forbid", strict=True)

    note: str = Field(default="", max_length=1000, pattern=_PLAIN)


class NewSilence(BaseModel):
    """Of what nobody is to be told, for how long, and why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rule: str = Field(default="", max_length=100, pattern=r"^[A-Za-z0-9]*$", description="Empty: of any rule.")
    labels: dict[_Label, _Label] = Field(default={}, max_length=10)
    reason: str = Field(min_length=1, max_length=1000, pattern=_PLAIN)
    for_s: int = Field(ge=60, le=30 * 86_400)


class Tried(BaseModel):
    """How one way to tell took a test message."""

    sink: str
    delivered: bool
    error: str


def shown_alert(alert: Alert) -> AlertShown:
    """An alert for callers."""
    return AlertShown(
        id=alert.id,
        rule=alert.rule,
        severity=alert.severity,
        state=alert.state,
        summary=alert.summary,
        labels=alert.labels,
        value=alert.value if abs(alert.value) < float("inf") else None,
        since=at(alert.since_s),
        fired_at=maybe_at(alert.fired_s),
        resolved_at=maybe_at(alert.resolved_s),
        acked_by=alert.acked_by,
        acked_at=maybe_at(alert.acked_s),
        ack_note=alert.ack_note,
        escalated_at=maybe_at(alert.escalated_s),
        silenced_by=alert.silenced_by,
    )


def shown_silence(silence: Silence) -> SilenceShown:
    """A silence for callers."""
    return SilenceShown(
        id=silence.id,
        rule=silence.rule,
        labels=silence.labels,
        by=silence.by,
        reason=silence.reason,
        until=at(silence.until_s),
    )


def at(seconds: float) -> datetime:
    """Seconds of the wall clock as a time."""
    return datetime.fromtimestamp(seconds, UTC)


def maybe_at(seconds: float | None) -> datetime | None:
    """The same of what may not have been yet."""
    return None if seconds is None else at(seconds)
