"""What callers get who name a model: its stable version, its candidate, other aliases; promotion and rollback.

Pure: every change takes a model's standing and gives the next. A model has at most one candidate, and that is its one
version in the state candidate; what is stable is live or deprecated; no alias names what is not offered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import BASIS_POINTS
from prsm.federation.registry.lifecycle import OFFERED, Limits, State, Status, check_limits, moved
from prsm.federation.registry.versions import CANDIDATE, STABLE

MAX_ALIASES: Final = 32
MAX_FORMER: Final = 16
ALIAS_PATTERN: Final = r"^[a-z][a-z0-9-]{0,39}$"
_ALIAS = re.compile(ALIAS_PATTERN)
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Release:
    """What the names of a model mean now; '' where there is none.

    ``candidate_bps`` of the model's requests go to the candidate, ``shadow_bps`` are asked of it besides. ``former``
    were stable before, the last one last. ``aliases`` are others than stable and candidate.
    """

    model: str
    stable: str = ""
    candidate: str = ""
    candidate_bps: int = 0
    shadow_bps: int = 0
    aliases: Mapping[str, str] = field(default_factory=lambda: _NONE)
    former: tuple[str, ...] = ()

    def meaning(self, label: str) -> str:
        """The version that ``model@label`` means; '' where an alias names none."""
        if label == STABLE:
            return self.stable
        if label == CANDIDATE:
            return self.candidate
        return self.aliases.get(label, label)


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's release, and the status of each of its versions."""

    release: Release
    statuses: Mapping[str, Status]


def entered(standing: Standing, label: str, at: datetime) -> Standing:
    """With a new version, a draft."""
    if label in standing.release.aliases:
        raise _conflict(f"{label!r} is an alias of {standing.release.model}.", "alias_taken", "Take another label.")
    return replace(standing, statuses={**standing.statuses, label: Status(State.DRAFT, at)})


def shifted(
    standing: Standing, label: str, to: State, at: datetime, reason: str, retire_at: datetime | None = None
) -> Standing:
    """After a version's move to ``to``; going live is ``promoted``.

    A new candidate takes the place of the one there was, which is a draft again; what is retired loses its aliases,
    ``stable`` among them. Raises PrsmError as ``lifecycle.moved``.
    """
    status = _status(standing, label)
    if to is State.LIVE:
        raise _conflict("A version goes live by promotion.", "promote_instead", "Use: prsm models promote.")
    statuses = {**standing.statuses, label: moved(status, to, at, reason, retire_at)}
    release = standing.release
    if to is State.CANDIDATE:
        if release.candidate:
            left = f"{label} is the candidate now"
            statuses[release.candidate] = moved(statuses[release.candidate], State.DRAFT, at, left)
        release = replace(release, candidate=label, candidate_bps=0, shadow_bps=0)
    elif label == release.candidate:
        release = replace(release, candidate="", candidate_bps=0, shadow_bps=0)
    if to not in OFFERED:
        release = _without(release, label)
    return Standing(release, statuses)


def promoted(standing: Standing, label: str, served: frozenset[str], at: datetime, reason: str) -> Standing:
    """With ``label`` (a candidate, or a version that was live before) as stable; the one there was stays live.

    ``served`` are the labels that some instance answers for. Raises PrsmError.
    """
    release = standing.release
    if not label:
        raise _conflict(
            f"{release.model} has no candidate to promote.",
            "no_candidate",
            "Name a version: prsm models promote MODEL@VERSION.",
        )
    status = _status(standing, label)
    if label == release.stable:
        raise _conflict(f"{release.model}@{label} is stable already.", "already_stable")
    _check_served(release, label, served)
    if status.state is not State.LIVE:
        status = moved(status, State.LIVE, at, reason)
    release = _led_by(release, label, (*release.former, release.stable))
    return Standing(release, {**standing.statuses, label: status})


def rolled_back(standing: Standing, away_from: str, served: frozenset[str], at: datetime, reason: str) -> Standing:
    """With the last former stable version that can still answer as stable.

    What was stable is deprecated. With ``away_from``, only if that is stable still, so that two who roll back at once
    go back one step and not two. Raises PrsmError.
    """
    release = standing.release
    if away_from and away_from != release.stable:
        raise _conflict(
            f"{release.model} is at {release.stable or 'no stable version'} now, not at {away_from}.",
            "release_moved",
            "Somebody else has changed it; see: prsm models history.",
        )
    able = [v for v in release.former if standing.statuses[v].state is not State.RETIRED and v in served]
    if not able or not release.stable:
        raise _conflict(
            f"{release.model} has no former stable version that can still answer.",
            "no_former_version",
            "Promote another version: prsm models promote MODEL@VERSION.",
        )
    back = able[-1]
    last = len(release.former) - 1 - release.former[::-1].index(back)
    statuses = {**standing.statuses}
    if statuses[release.stable].state is not State.DEPRECATED:
        statuses[release.stable] = moved(statuses[release.stable], State.DEPRECATED, at, reason)
    if statuses[back].state is not State.LIVE:
        statuses[back] = moved(statuses[back], State.LIVE, at, reason)
    return Standing(_led_by(release, back, release.former[:last]), statuses)


def withdrawn(standing: Standing, candidate: str, at: datetime, reason: str) -> Standing:
    """With the candidate as a draft again; as it is where that is not the candidate any more."""
    if not candidate or standing.release.candidate != candidate:
        return standing
    return shifted(standing, candidate, State.DRAFT, at, reason)


def aliased(standing: Standing, alias: str, label: str) -> Standing:
    """With ``alias`` meaning ``label``; an empty label takes the alias away. Raises PrsmError."""
    release = standing.release
    if not _ALIAS.fullmatch(alias) or alias in (STABLE, CANDIDATE):
        raise InvalidRequest(
            "An alias is a lower-case word, and neither stable nor candidate: those are set by promotion and by a "
            "version's state.",
            param="aliases",
        )
    others = {name: meant for name, meant in release.aliases.items() if name != alias}
    if not label:
        return replace(standing, release=replace(release, aliases=others))
    if alias in standing.statuses:
        raise _conflict(f"{release.model} has a version {alias!r}.", "alias_taken", "Take another alias.")
    if _status(standing, label).state not in OFFERED:
        raise _conflict(f"{release.model}@{label} is not offered, so that nothing can be called by it.", "not_offered")
    if len(others) >= MAX_ALIASES:
        raise InvalidRequest(f"A model has at most {MAX_ALIASES} aliases.", param="aliases")
    return replace(standing, release=replace(release, aliases={**others, alias: label}))


def shared(standing: Standing, candidate_bps: int, shadow_bps: int) -> Standing:
    """With these shares of the model's traffic for its candidate, in basis points. Raises PrsmError."""
    for name, share in (("candidate_bps", candidate_bps), ("shadow_bps", shadow_bps)):
        if not 0 <= share <= BASIS_POINTS:
            raise InvalidRequest(f"{name} is from 0 to {BASIS_POINTS} basis points.", param=name)
    if (candidate_bps or shadow_bps) and not standing.release.candidate:
        raise _conflict(f"{standing.release.model} has no candidate.", "no_candidate", "Make a version its candidate.")
    return replace(standing, release=replace(standing.release, candidate_bps=candidate_bps, shadow_bps=shadow_bps))


def limited(standing: Standing, label: str, limits: Limits) -> Standing:
    """With these declared limits of a version. Raises PrsmError."""
    check_limits(limits)
    status = replace(_status(standing, label), limits=limits)
    return replace(standing, statuses={**standing.statuses, label: status})


def _led_by(release: Release, label: str, former: tuple[str, ...]) -> Release:
    """With another stable version; as a candidate it ceases to be one."""
    kept = tuple(each for each in former if each not in ("", label))[-MAX_FORMER:]
    release = replace(release, stable=label, former=kept)
    if label == release.candidate:
        release = replace(release, candidate="", candidate_bps=0, shadow_bps=0)
    return release


def _without(release: Release, label: str) -> Release:
    return replace(
        release,
        stable="" if release.stable == label else release.stable,
        aliases={alias: meant for alias, meant in release.aliases.items() if meant != label},
        former=tuple(each for each in release.former if each != label),
    )


def _status(standing: Standing, label: str) -> Status:
    status = standing.statuses.get(label)
    if status is None:
        raise PrsmError(
            f"{standing.release.model} has no version {label[:100]!r}.",
            kind=Kind.NOT_FOUND,
            code="unknown_version",
            remedy="See: prsm models versions.",
            param="version",
        )
    return status


def _check_served(release: Release, label: str, served: frozenset[str]) -> None:
    if label not in served:
        raise _conflict(
            f"No instance answers for {release.model}@{label}.",
            "not_served",
            f"Add one: prsm models add PROVIDER/NAME --model {release.model} --version {label}.",
        )


def _conflict(message: str, code: str, remedy: str = "") -> PrsmError:
    return PrsmError(message, kind=Kind.CONFLICT, code=code, remedy=remedy)
