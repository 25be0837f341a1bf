"""Alerts and silences in PostgreSQL: what fired, who took it, and of what nobody is to be told.

The worker that evaluates has the truth of states in its memory and writes it here; people's words are written here by
whichever worker hears them, and read from here.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from prsm.core.clock import uuid7
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError
from prsm.monitoring.alerting.states import Alert, Silence

KEPT_DAYS = 90
_SHOWN = "id, key, rule, severity, labels::text AS labels, summary, value, since, fired_at, resolved_at, told_at, " \
    "escalated_at, acked_by, acked_at, ack_note"  # fmt: skip
_KEEP = """
INSERT INTO alerts (id, node, key, rule, severity, labels, summary, value, since, fired_at, resolved_at, told_at,
    escalated_at)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (id) DO UPDATE SET value = excluded.value, summary = excluded.summary,
    resolved_at = excluded.resolved_at, told_at = excluded.told_at, escalated_at = excluded.escalated_at
"""


class AlertBook:
    """The book of one node."""

    def __init__(self, pool: Pool, node: str) -> None:
        self._pool = pool
        self._node = node

    async def keep(self, alerts: Iterable[Alert]) -> None:
        """Write alerts that fire or fired; what people did about them is left as it is."""
        rows = [self._row(alert) for alert in alerts if alert.fired_s is not None]
        if rows:
            async with self._pool.acquire() as connection:
                await connection.executemany(_KEEP, rows)

    async def open_alerts(self) -> dict[str, Alert]:
        """Those that are not resolved, by key."""
        rows = await self._pool.fetch(
            f"SELECT {_SHOWN} FROM alerts WHERE node = $1 AND resolved_at IS NULL",  # noqa: S608 - a constant
            self._node,
        )
        return {row["key"]: _alert(row) for row in rows}

    async def recent(self, limit: int) -> list[Alert]:
        """The newest, resolved ones among them."""
        rows = await self._pool.fetch(
            f"SELECT {_SHOWN} FROM alerts WHERE node = $1 ORDER BY fired_at DESC LIMIT $2",  # noqa: S608 - a constant
            self._node,
            limit,
        )
        return [_alert(row) for row in rows]

    async def acknowledge(self, alert_id: UUID, by: str, note: str) -> Alert:
        """Somebody looks after it: it is neither escalated nor told again. Raises PrsmError where it is not open."""
        row = await self._pool.fetchrow(
            "UPDATE alerts SET acked_by = $3, acked_at = coalesce(acked_at, now()), ack_note = $4 "  # noqa: S608 - a constant
            f"WHERE node = $1 AND id = $2 AND resolved_at IS NULL RETURNING {_SHOWN}",
            self._node,
            alert_id,
            by,
            note,
        )
        if row is None:
            raise PrsmError("There is no such alert that is not resolved.", kind=Kind.NOT_FOUND, code="unknown_alert")
        return _alert(row)

    async def acknowledged(self) -> Mapping[UUID, tuple[str, float, str]]:
        """Who took which open alert, when, and what they noted."""
        rows = await self._pool.fetch(
            "SELECT id, acked_by, acked_at, ack_note FROM alerts "
            "WHERE node = $1 AND resolved_at IS NULL AND acked_at IS NOT NULL",
            self._node,
        )
        return {row["id"]: (row["acked_by"], row["acked_at"].timestamp(), row["ack_note"]) for row in rows}

    async def silence(self, rule: str, labels: Mapping[str, str], by: str, reason: str, until: datetime) -> Silence:
        """Tell nobody of such alerts until then."""
        made = Silence(uuid7(), rule, dict(labels), by, reason, until.timestamp())
        await self._pool.execute(
            'INSERT INTO alert_silences (id, node, rule, labels, "by", reason, until) '
            "VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7)",
            made.id,
            self._node,
            rule,
            msgspec.json.encode(made.labels).decode(),
            by,
            reason,
            until,
        )
        return made

    async def silences(self) -> list[Silence]:
        """Those that hold now."""
        rows = await self._pool.fetch(
            'SELECT id, rule, labels::text AS labels, "by", reason, until FROM alert_silences '
            "WHERE node = $1 AND until > now() ORDER BY id LIMIT 1000",
            self._node,
        )
        return [_silence(row) for row in rows]

    async def lift(self, silence_id: UUID) -> None:
        """End a silence now. Raises PrsmError where there is none."""
        tag = await self._pool.execute(
            "UPDATE alert_silences SET until = now() WHERE node = $1 AND id = $2 AND until > now()",
            self._node,
            silence_id,
        )
        if tag.endswith(" 0"):
            raise PrsmError("There is no such silence that holds.", kind=Kind.NOT_FOUND, code="unknown_silence")

    async def forget_old(self) -> None:
        """Forget what was resolved, and silences that ended, long ago."""
        for table, ended in (("alerts", "resolved_at"), ("alert_silences", "until")):
            await self._pool.execute(
                f"DELETE FROM {table} WHERE node = $1 AND {ended} < now() - make_interval(days => $2)",  # noqa: S608 - constants
                self._node,
                KEPT_DAYS,
            )

    def _row(self, alert: Alert) -> tuple[Any, ...]:
        labels = msgspec.json.encode(alert.labels).decode()
        times = (alert.since_s, alert.fired_s, alert.resolved_s, alert.told_s, alert.escalated_s)
        return (
            alert.id, self._node, alert.key, alert.rule, alert.severity, labels, alert.summary, alert.value,
            *map(_time, times),
        )  # fmt: skip


def _alert(row: Any) -> Alert:
    return Alert(
        id=row["id"],
        key=row["key"],
        rule=row["rule"],
        severity=row["severity"],
        labels=msgspec.json.decode(row["labels"]),
        summary=row["summary"],
        state="firing" if row["resolved_at"] is None else "resolved",
        value=row["value"],
        since_s=row["since"].timestamp(),
        seen_s=(row["resolved_at"] or row["told_at"] or row["fired_at"]).timestamp(),
        fired_s=row["fired_at"].timestamp(),
        resolved_s=_seconds(row["resolved_at"]),
        acked_by=row["acked_by"],
        acked_s=_seconds(row["acked_at"]),
        ack_note=row["ack_note"],
        told_s=_seconds(row["told_at"]),
        escalated_s=_seconds(row["escalated_at"]),
    )


def _silence(row: Any) -> Silence:
    labels = msgspec.json.decode(row["labels"])
    return Silence(row["id"], row["rule"], labels, row["by"], row["reason"], row["until"].timestamp())


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
