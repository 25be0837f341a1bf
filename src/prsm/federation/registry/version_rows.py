"""Registered versions and releases as rows: how a model's standing is locked, read, and written where it differs.

What is written here is written in the caller's transaction, and with it the event on which every worker reads anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from prsm.core.database import Connection, Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.events import emit
from prsm.federation.registry.catalogue import Registry
from prsm.federation.registry.lifecycle import Limits, State, Status
from prsm.federation.registry.lineage import MAX_DEPTH
from prsm.federation.registry.releases import Release, Standing
from prsm.federation.registry.versions import Ref, Registered, Version, read_statement, statement

CHANGED: Final = "models.changed"


REFS: Final = "unnest($1::text[], $2::text[]) AS wanted (model, version)"
_INSERT_VERSION = """
INSERT INTO model_versions (model, version, digest, statement, signature, owner_account, registered_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_PUT_STATE = """
INSERT INTO model_states (model, version, state, since, reason, retire_at, limits)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)
ON CONFLICT (model, version) DO UPDATE SET state = $3, since = $4, reason = $5, retire_at = $6, limits = $7::text::jsonb
"""
_PUT_RELEASE = """
UPDATE model_releases SET stable = $2, candidate = $3, candidate_bps = $4, shadow_bps = $5,
    aliases = $6::text::jsonb, former = $7 WHERE model = $1
"""
_INSERT_HISTORY = """
INSERT INTO model_history (model, version, action, by, at, reason, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb)
"""


@dataclass(frozen=True, slots=True)
class Act:
    """What is done to a model, for its history; without a version it is about what is stable then."""

    action: str
    version: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A line of a model's history. ``by`` is a principal's account or the node; ``before`` and ``after`` hold the
    release, and the states of the versions that changed.
    """

    id: int
    model: str
    version: str
    action: str
    by: str
    at: datetime
    reason: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


async def read_registry(connection: Connection, known: Mapping[Ref, Registered]) -> Registry:
    """All that is registered; versions in ``known`` are not read again, as they never change."""
    releases = [
        _release(row) for row in await connection.fetch("SELECT *, aliases::text AS aliases FROM model_releases")
    ]
    statuses = statuses_of(await connection.fetch("SELECT *, limits::text AS limits FROM model_states"))
    fresh = await read_versions(connection, [ref for ref in statuses if ref not in known])
    versions = {ref: known.get(ref) or fresh[ref] for ref in statuses}
    return Registry(versions, statuses, {release.model: release for release in releases})


async def locked(connection: Connection, model: str) -> Standing:
    """A model's standing, nobody else's to change until the transaction ends; a model that is new begins with it."""
    await connection.execute("INSERT INTO model_releases (model) VALUES ($1) ON CONFLICT DO NOTHING", model)
    return await read_standing(connection, model, lock=True)


async def read_standing(connection: Connection, model: str, *, lock: bool) -> Standing:
    """A model's standing; with ``lock`` nobody else's to change until the transaction ends. Raises PrsmError."""
    query = "SELECT * FROM model_releases WHERE model = $1"
    row = await connection.fetchrow(f"{query} FOR UPDATE" if lock else query, model)
    if row is None:
        raise PrsmError(
            f"There is no registered model {model[:200]!r}.",
            kind=Kind.NOT_FOUND,
            code="unknown_model",
            remedy="See: prsm models list.",
        )
    rows = await connection.fetch("SELECT * FROM model_states WHERE model = $1", model)
    return Standing(_release(row), {version: status for (_, version), status in statuses_of(rows).items()})


async def ancestors_of(connection: Connection, version: Version) -> dict[Ref, Registered]:
    """All registered versions above this one; each parent's own lineage was within the limits."""
    found: dict[Ref, Registered] = {}
    wanted = {parent.ref for parent in version.parents}
    for _ in range(MAX_DEPTH + 1):
        if not wanted:
            break
        generation = await read_versions(connection, sorted(wanted))
        found |= generation
        wanted = {p.ref for each in generation.values() for p in each.version.parents} - found.keys()
    return found


async def read_versions(connection: Connection, refs: Sequence[Ref]) -> dict[Ref, Registered]:
    rows = await connection.fetch(
        f"SELECT v.* FROM model_versions v JOIN {REFS} USING (model, version)",  # noqa: S608 - a constant
        *columns(refs),
    )
    return {
        (row["model"], row["version"]): Registered(
            read_statement(row["statement"]),
            row["digest"],
            row["signature"],
            row["owner_account"],
            row["registered_at"],
        )
        for row in rows
    }


async def insert_version(connection: Connection, registered: Registered) -> None:
    """Keep a version that is new."""
    await connection.execute(
        _INSERT_VERSION,
        *registered.version.ref,
        registered.digest,
        statement(registered.version),
        registered.signature,
        registered.owner_account,
        registered.registered_at,
    )


async def write(connection: Connection, before: Standing, after: Standing, act: Act, at: datetime) -> None:
    """Write what differs, and that it does; nothing where nothing does."""
    if after == before:
        return
    release, model = after.release, after.release.model
    changed = {v: status for v, status in after.statuses.items() if status != before.statuses.get(v)}
    # A new candidate last: at no moment has a model two.
    rows = sorted(changed.items(), key=lambda item: item[1].state is State.CANDIDATE)
    await connection.executemany(_PUT_STATE, [(model, version, *_status_values(status)) for version, status in rows])
    await connection.execute(
        _PUT_RELEASE,
        model,
        release.stable or None,
        release.candidate or None,
        release.candidate_bps,
        release.shadow_bps,
        _json(release.aliases),
        list(release.former),
    )
    was, is_now = (_json(_shown(standing, changed)) for standing in (before, after))
    await connection.execute(
        _INSERT_HISTORY, model, act.version or release.stable, act.action, act.by, at, act.reason, was, is_now
    )
    await emit(connection, CHANGED, {"model": model})


async def read_history(pool: Pool, model: str, limit: int, before: int | None) -> list[Change]:
    """What became of a model, newest first; those with smaller ids than ``before``."""
    rows = await pool.fetch(
        "SELECT * FROM model_history WHERE model = $1 AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        model,
        before,
        limit,
    )
    decode = msgspec.json.decode
    return [Change(**{**row, "before": decode(row["before"]), "after": decode(row["after"])}) for row in rows]


def columns(refs: Sequence[Ref]) -> tuple[list[str], list[str]]:
    return [model for model, _ in refs], [version for _, version in refs]


def statuses_of(rows: Sequence[Any]) -> dict[Ref, Status]:
    return {
        (row["model"], row["version"]): Status(
            State(row["state"]),
            row["since"],
            row["reason"],
            row["retire_at"],
            msgspec.json.decode(row["limits"], type=Limits),
        )
        for row in rows
    }


def _release(row: Any) -> Release:
    return Release(
        row["model"],
        row["stable"] or "",
        row["candidate"] or "",
        row["candidate_bps"],
        row["shadow_bps"],
        msgspec.json.decode(row["aliases"], type=dict[str, str]),
        tuple(row["former"]),
    )


def _status_values(status: Status) -> tuple[Any, ...]:
    return status.state.value, status.since, status.reason, status.retire_at, _json(msgspec.to_builtins(status.limits))


def _shown(standing: Standing, changed: Mapping[str, Status]) -> dict[str, Any]:
    """A standing as history keeps it: the release, and the statuses of those versions that changed."""
    statuses = {v: msgspec.to_builtins(standing.statuses[v]) for v in changed if v in standing.statuses}
    return {"release": msgspec.to_builtins(standing.release), "statuses": statuses}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
