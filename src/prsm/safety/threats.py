"""Whom the node slows down or suspends: scored in PostgreSQL, so that all workers agree and a restart forgets nothing.

Requests never wait for it: events gather in memory and are added once a second, what counts now is read from memory.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.core.subject_keys import erased_among
from prsm.safety.threat import UNSUSPECTED, Event, Law, Threat, lifted, noted, score_at

CHANGED: Final = "safety.threats.changed"
SLOWED_TO: Final = 10
"""A slowed caller has one of this many of its requests."""
_MAX_WAITING = 10_000


class Threats:
    """Note events, ask whether a caller may come in, list and lift. ``clock`` gives seconds since 1970."""

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._clock = clock
        self._law = Law()
        self._waiting: Counter[tuple[str, Event]] = Counter()
        self._known: Mapping[str, Threat] = {}

    def note(self, account: str, event: Event) -> None:
        """Something happened; of more than can wait the new accounts' are dropped."""
        if (account, event) in self._waiting or len(self._waiting) < _MAX_WAITING:
            self._waiting[account, event] += 1

    def admit(self, account: str) -> bool:
        """Whether the caller has its whole rate; False: a tenth of it. Raises PrsmError while it is suspended."""
        threat = self._known.get(account)
        if threat is None:
            return True
        now_s = self._clock()
        if threat.suspended_until_s > now_s:
            raise PrsmError(
                "This account is suspended for a while because of what it asked.",
                kind=Kind.FORBIDDEN,
                code="suspended",
                remedy="Wait as Retry-After says, or ask the node's operator to lift it.",
                retry_after_s=threat.suspended_until_s - now_s,
            )
        return threat.throttled_until_s <= now_s

    async def settle(self) -> None:
        """Add what has gathered; where that changes what a caller may do, every worker hears of it."""
        waiting, self._waiting = self._waiting, Counter()
        changed = False
        try:
            for (account, event), times in sorted(waiting.items()):
                changed |= await self._add(account, event, times)
                del waiting[account, event]
        finally:
            self._waiting.update(waiting)
            if changed:
                await self.reload()

    async def reload(self) -> None:
        """Read who is slowed or suspended now."""
        rows = await self._pool.fetch(_RESTRICTED, _time(self._clock()))
        self._known = {row["account"]: _threat(row) for row in rows}

    async def listed(self, limit: int = 100) -> list[tuple[str, Threat]]:
        """The most suspicious accounts with their scores as of now."""
        now_s = self._clock()
        rows = await self._pool.fetch(_ALL)
        found = [(row["account"], _threat(row)) for row in rows]
        return sorted(found, key=lambda one: (-one[1].suspended_until_s, -score_at(one[1], now_s, self._law)))[:limit]

    async def lift(self, account: str, *, by: str) -> None:
        """Clear an account, of what waits to be added here too. Raises PrsmError where nothing is known of it."""
        async with self._pool.acquire() as connection, connection.transaction():
            known = await connection.fetchrow(_LOCKED, account)
            waited = sum(self._waiting.pop((account, event), 0) for event in Event)
            if known is None and not waited:
                raise PrsmError(f"Nothing is held against {account[:200]}.", kind=Kind.NOT_FOUND, code="no_threat")
            await self._write(connection, account, lifted(UNSUSPECTED, self._clock()), f"lifted by {by}")
            await emit(connection, CHANGED, {"account": account})
        await self.reload()

    async def forget_old(self) -> int:
        """Forget accounts whose score and suspensions no longer matter; answers how many."""
        before = _time(self._clock() - self._law.forget_s)
        return int((await self._pool.execute(_FORGET, before)).split()[-1])

    async def _add(self, account: str, event: Event, times: int) -> bool:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7017))", account)
            if await erased_among(connection, [account]):
                return False
            row = await connection.fetchrow(_LOCKED, account)
            before = _threat(row) if row else UNSUSPECTED
            after = noted(before, event, self._clock(), self._law, times)
            if after is before:
                return False
            await self._write(connection, account, after, after.reason)
            limits = (before.throttled_until_s, before.suspended_until_s)
            changed = limits != (after.throttled_until_s, after.suspended_until_s)
            if changed:
                await emit(connection, CHANGED, {"account": account})
            return changed

    async def _write(self, connection: Connection, account: str, threat: Threat, reason: str) -> None:
        await connection.execute(
            _WRITE,
            account,
            threat.score,
            _time(threat.at_s),
            _time(threat.throttled_until_s),
            _time(threat.suspended_until_s),
            threat.suspensions,
            reason,
        )


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _threat(row: Any) -> Threat:
    throttled, suspended = row["throttled_until"], row["suspended_until"]
    return Threat(
        row["score"],
        row["at"].timestamp(),
        throttled.timestamp() if throttled else 0.0,
        suspended.timestamp() if suspended else 0.0,
        row["suspensions"],
        row["reason"],
    )


_LOCKED = "SELECT * FROM safety_threats WHERE account = $1 FOR UPDATE"
_ALL = "SELECT * FROM safety_threats ORDER BY at DESC LIMIT 10000"
_RESTRICTED = "SELECT * FROM safety_threats WHERE greatest(throttled_until, suspended_until) > $1"
_WRITE = """
INSERT INTO safety_threats (account, score, at, throttled_until, suspended_until, suspensions, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (account) DO UPDATE SET score = excluded.score, at = excluded.at,
    throttled_until = excluded.throttled_until, suspended_until = excluded.suspended_until,
    suspensions = excluded.suspensions, reason = excluded.reason
"""
_FORGET = "DELETE FROM safety_threats WHERE at < $1 AND coalesce(suspended_until, at) < $1"
