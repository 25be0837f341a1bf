"""Registered versions and releases in PostgreSQL: each change of a model is one transaction, with a line of history.

The rules stand in ``releases.py``; here the model's row is locked, its standing read, the rule applied, and what
differs written, with the event on which every worker reads anew. Who changes a model waits for who does just now.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from prsm.core.clock import Clock, now
from prsm.core.database import Connection, Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.federation.registry import releases
from prsm.federation.registry.lifecycle import Limits, Observed, State, Status, breach, check_reason, is_due
from prsm.federation.registry.lineage import check_lineage
from prsm.federation.registry.releases import Standing
from prsm.federation.registry.version_rows import (
    REFS,
    Act,
    Change,
    ancestors_of,
    columns,
    insert_version,
    locked,
    read_history,
    read_standing,
    read_versions,
    statuses_of,
    write,
)
from prsm.federation.registry.versions import (
    CANDIDATE,
    Ref,
    Registered,
    Version,
    check_model_name,
    check_signature,
    check_version,
    digest,
    sign,
    taken,
    tidy,
)

MAX_VERSIONS: Final = 1000
_DUE_BATCH = 100

Rule = Callable[[Standing, frozenset[str], datetime], Standing]
"""The next standing, of this one, the labels that are served, and the time."""


@dataclass(frozen=True, slots=True)
class Signer:
    """The key that this node signs its own versions with."""

    public_key_hex: str
    sign: Callable[[bytes], bytes]


class VersionStore:
    """Registers versions and changes releases. ``served`` are versions that instances answer for which no table holds.

    Every change answers once it is committed; who made it is ``by``. Raises PrsmError and changes nothing then.
    """

    def __init__(self, pool: Pool, signer: Signer, *, served: frozenset[Ref] = frozenset(), clock: Clock = now) -> None:
        self._pool = pool
        self._signer = signer
        self.served = served
        self._clock = clock

    async def register(
        self,
        version: Version,
        *,
        by: str,
        signature: str = "",
        owner_account: str = "",
        state: State = State.DRAFT,
        reason: str = "",
    ) -> Registered:
        """Keep a version, and put it in ``state``: a draft, the candidate, or live (and then it is stable).

        Without a publisher this node is it, and signs; without their digests, parents are those registered here. What
        is registered already stays as it is, whatever ``state`` says now; another statement under its label is refused.
        """
        check_reason(reason)
        check_model_name(version.model)
        async with self._pool.acquire() as connection, connection.transaction():
            before = await locked(connection, version.model)
            ancestors = await ancestors_of(connection, version)
            version = self._completed(version, ancestors)
            check_version(version)
            if not signature and version.publisher == self._signer.public_key_hex:
                signature = sign(version, self._signer.sign)
            check_signature(version, signature)
            kept = await read_versions(connection, [version.ref])
            if version.ref in kept:
                if kept[version.ref].digest != digest(version):
                    raise taken(version, kept[version.ref])
                return kept[version.ref]
            check_lineage(version, owner_account, ancestors)
            if len(before.statuses) >= MAX_VERSIONS:
                raise InvalidRequest(f"A model has at most {MAX_VERSIONS} versions.", param="version")
            at = self._clock()
            registered = Registered(version, digest(version), signature, owner_account, at)
            after = await self._entered(connection, before, version, state, at, reason)
            await insert_version(connection, registered)
            await write(connection, before, after, Act("registered", version.version, by, reason), at)
        return registered

    async def move(
        self, ref: Ref, to: State, *, by: str, reason: str = "", retire_at: datetime | None = None
    ) -> Standing:
        """Move a version within its life, but not to live; see ``releases.shifted``."""
        return await self._change(ref[0], *_moved(ref[1], to, by, reason, retire_at))

    async def promote(self, model: str, label: str = CANDIDATE, *, by: str, reason: str = "") -> Standing:
        """Make a version stable (default: the candidate); see ``releases.promoted``."""
        return await self._change(model, *_promoted(label, by, reason))

    async def promote_within(self, connection: Connection, ref: Ref, *, by: str, reason: str) -> None:
        """Make a version stable, through the candidate's place where it is a draft, in the caller's transaction."""
        model, label = ref
        if (await read_standing(connection, model, lock=True)).statuses[label].state is State.DRAFT:
            await self._changed(connection, model, *_moved(label, State.CANDIDATE, by, reason))
        await self._changed(connection, model, *_promoted(label, by, reason))

    async def roll_back(self, model: str, *, by: str, away_from: str = "", reason: str = "") -> Standing:
        """Go back to the last former stable version that can answer; see ``releases.rolled_back``."""
        return await self._change(
            model,
            Act("rolled back", "", by, reason),
            lambda s, served, at: releases.rolled_back(s, away_from, served, at, reason),
        )

    async def set_alias(self, model: str, alias: str, label: str, *, by: str, reason: str = "") -> Standing:
        """Let ``model@alias`` mean a version; an empty label takes the alias away."""
        act = Act("aliased", label, by, reason)
        return await self._change(model, act, lambda s, _served, _at: releases.aliased(s, alias, label))

    async def set_shares(
        self, model: str, candidate_bps: int, shadow_bps: int, *, by: str, reason: str = ""
    ) -> Standing:
        """Give the candidate these shares of the model's traffic."""
        act = Act("shared", "", by, reason)
        return await self._change(model, act, lambda s, _served, _at: releases.shared(s, candidate_bps, shadow_bps))

    async def withdraw(self, model: str, candidate: str, *, by: str, reason: str) -> Standing:
        """Take the candidate back to a draft; nothing where that is not the candidate any more."""
        act = Act("withdrawn", candidate, by, reason)
        return await self._change(model, act, lambda s, _served, at: releases.withdrawn(s, candidate, at, reason))

    async def set_limits(self, ref: Ref, limits: Limits, *, by: str, reason: str = "") -> Standing:
        """Declare what a version is deprecated for breaking."""
        act = Act("limited", ref[1], by, reason)
        return await self._change(ref[0], act, lambda s, _served, _at: releases.limited(s, ref[1], limits))

    async def retire_due(self, *, by: str) -> list[Ref]:
        """Retire deprecated versions whose day has come; those retired."""
        rows = await self._pool.fetch(
            "SELECT model, version FROM model_states WHERE retire_at <= $1 ORDER BY retire_at LIMIT $2",
            self._clock(),
            _DUE_BATCH,
        )
        return [ref for row in rows if await self._retire(ref := (row["model"], row["version"]), by)]

    async def deprecate_broken(self, observed: Mapping[Ref, Observed], *, by: str) -> list[tuple[Ref, str]]:
        """Deprecate the candidates and live versions that break their declared limits; with what each broke."""
        rows = await self._pool.fetch(
            f"SELECT s.* FROM model_states s JOIN {REFS} USING (model, version) "  # noqa: S608 - a constant
            "WHERE state IN ('candidate', 'live')",
            *columns(list(observed)),
        )
        broken = [(ref, breach(status.limits, observed[ref])) for ref, status in statuses_of(rows).items()]
        return [(ref, why) for ref, why in broken if why and await self._deprecate(ref, why, by)]

    async def standing(self, model: str) -> Standing:
        """A model's release and the status of each version, as they are in the database now."""
        async with self._pool.acquire() as connection, connection.transaction():
            return await read_standing(connection, model, lock=False)

    async def history(self, model: str, *, limit: int = 100, before: int | None = None) -> list[Change]:
        """What became of a model, newest first; page by the last id seen."""
        return await read_history(self._pool, model, limit, before)

    async def _change(self, model: str, act: Act, rule: Rule) -> Standing:
        async with self._pool.acquire() as connection, connection.transaction():
            return await self._changed(connection, model, act, rule)

    async def _changed(self, connection: Connection, model: str, act: Act, rule: Rule) -> Standing:
        check_reason(act.reason)
        before = await read_standing(connection, model, lock=True)
        at = self._clock()
        after = rule(before, await self._served_labels(connection, before), at)
        await write(connection, before, after, act, at)
        return after

    async def _retire(self, ref: Ref, by: str) -> bool:
        """False when it is not due any more: somebody has just changed it."""
        why = "its date of retirement has come"

        def rule(standing: Standing, _: frozenset[str], at: datetime) -> Standing:
            due = is_due(standing.statuses[ref[1]], at)
            return releases.shifted(standing, ref[1], State.RETIRED, at, why) if due else standing

        after = await self._change(ref[0], Act("moved to retired", ref[1], by, why), rule)
        return after.statuses[ref[1]].state is State.RETIRED

    async def _deprecate(self, ref: Ref, why: str, by: str) -> bool:
        """False when it is neither live nor the candidate any more."""

        def rule(standing: Standing, _: frozenset[str], at: datetime) -> Standing:
            answers = standing.statuses[ref[1]].state in (State.CANDIDATE, State.LIVE)
            return releases.shifted(standing, ref[1], State.DEPRECATED, at, why) if answers else standing

        after = await self._change(ref[0], Act("moved to deprecated", ref[1], by, why), rule)
        return after.statuses[ref[1]].reason == why

    async def _entered(
        self, connection: Connection, before: Standing, version: Version, state: State, at: datetime, reason: str
    ) -> Standing:
        label = version.version
        after = releases.entered(before, label, at)
        if state not in (State.DRAFT, State.CANDIDATE, State.LIVE):
            raise InvalidRequest("A version begins as a draft, as the candidate, or live.", param="state")
        if state is State.LIVE:
            # Through the candidate's place without taking it from who has it.
            after = replace(after, statuses={**after.statuses, label: Status(State.CANDIDATE, at, reason)})
            return releases.promoted(after, label, await self._served_labels(connection, after), at, reason)
        would_end = state is State.DRAFT or not before.release.stable
        if would_end and label in await self._named_labels(connection, version.model):
            raise PrsmError(
                f"Instances answer for {version.model}@{label} now; as a {state} they would not any more.",
                kind=Kind.CONFLICT,
                code="version_in_use",
                remedy="Register it as live.",
                param="state",
            )
        return after if state is State.DRAFT else releases.shifted(after, label, state, at, reason)

    async def _served_labels(self, connection: Connection, standing: Standing) -> frozenset[str]:
        """The labels that instances answer for; one that names no version answers for whichever is stable."""
        labels = await self._named_labels(connection, standing.release.model)
        return labels | frozenset(standing.statuses) if "" in labels else labels

    async def _named_labels(self, connection: Connection, model: str) -> frozenset[str]:
        rows = await connection.fetch(
            "SELECT DISTINCT version FROM models WHERE model = $1 OR (model = '' AND upstream_name = $1)", model
        )
        return frozenset(row["version"] for row in rows) | {label for name, label in self.served if name == model}

    def _completed(self, version: Version, ancestors: Mapping[Ref, Registered]) -> Version:
        parents = [
            replace(parent, digest=parent.digest or ancestors[parent.ref].digest) if parent.ref in ancestors else parent
            for parent in version.parents
        ]
        publisher = version.publisher or self._signer.public_key_hex
        return tidy(replace(version, publisher=publisher, parents=tuple(parents)))


def _moved(label: str, to: State, by: str, reason: str, retire_at: datetime | None = None) -> tuple[Act, Rule]:
    act = Act(f"moved to {to}", label, by, reason)
    return act, lambda s, _served, at: releases.shifted(s, label, to, at, reason, retire_at)


def _promoted(label: str, by: str, reason: str) -> tuple[Act, Rule]:
    act = Act("promoted", "", by, reason)
    return act, lambda s, served, at: releases.promoted(s, s.release.meaning(label), served, at, reason)
