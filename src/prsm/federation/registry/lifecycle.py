"""What may become of a version: draft, candidate, live, deprecated, retired; and when it is moved without being asked.

Pure: the time comes in. A draft and a retired version answer nobody; the others answer whoever names them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.money import BASIS_POINTS

MAX_REASON_CHARS: Final = 1000
MAX_NOTICE: Final = timedelta(days=3653)
LEAST_RATINGS: Final = 10
"""Before a version is moved for its quality: a few bad words in a row may be one blip, which no interval knows of."""


class State(StrEnum):
    """Where a version stands in its life."""

    DRAFT = "draft"
    CANDIDATE = "candidate"
    LIVE = "live"
    DEPRECATED = "deprecated"
    RETIRED = "retired"


OFFERED: Final = frozenset({State.CANDIDATE, State.LIVE, State.DEPRECATED})
"""The states in which a version is asked."""

_MOVES: Final[Mapping[State, frozenset[State]]] = {
    State.DRAFT: frozenset({State.CANDIDATE, State.RETIRED}),
    State.CANDIDATE: frozenset({State.DRAFT, State.LIVE, State.DEPRECATED, State.RETIRED}),
    State.LIVE: frozenset({State.DEPRECATED}),
    State.DEPRECATED: frozenset({State.LIVE, State.RETIRED}),
    State.RETIRED: frozenset(),
}
_HINTS: Final[Mapping[State, str]] = {
    State.DRAFT: "A draft is made a candidate first, or retired.",
    State.CANDIDATE: "A candidate is promoted, taken back to a draft, deprecated or retired.",
    State.LIVE: "A live version is deprecated before it is retired, so that callers have notice.",
    State.DEPRECATED: "A deprecated version is promoted again, or retired.",
    State.RETIRED: "What is retired stays so: register another version.",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator asks of a version while it answers, in basis points; None: nothing is asked.

    Availability and errors are not judged before ``least_requests`` were observed, quality not before LEAST_RATINGS
    and only where it is certain that it is too low.
    """

    availability_bps: int | None = None
    error_bps: int | None = None
    quality_bps: int | None = None
    least_requests: int = 100


@dataclass(frozen=True, slots=True)
class Observed:
    """How a version did lately over ``requests``; shares in basis points, None where it is not known.

    ``quality_bps`` is the mean of ``ratings`` since it is what it is, ``quality_most_bps`` the most that it may truly
    be: wrong with a chance of at most 5 % however often it is looked at.
    """

    requests: int
    availability_bps: int | None = None
    error_bps: int | None = None
    ratings: int = 0
    quality_bps: int | None = None
    quality_most_bps: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """Where a version stands, since when and why; a deprecated one may have a date on which it retires."""

    state: State
    since: datetime
    reason: str = ""
    retire_at: datetime | None = None
    limits: Limits = Limits()


def why_not(state: State, to: State) -> str:
    """Why a version cannot go from ``state`` to ``to``; empty when it can."""
    if state is to:
        return f"It is {to} already."
    return "" if to in _MOVES[state] else f"It cannot go from {state} to {to}. {_HINTS[state]}"


def moved(status: Status, to: State, at: datetime, reason: str, retire_at: datetime | None = None) -> Status:
    """The status after a move. Raises PrsmError (CONFLICT) when there is no such move, InvalidRequest for a bad date.

    Deprecating again what is deprecated changes its date of retirement.
    """
    check_reason(reason)
    again = status.state is to is State.DEPRECATED and retire_at != status.retire_at
    if not again and (refusal := why_not(status.state, to)):
        raise PrsmError(refusal, kind=Kind.CONFLICT, code="state_not_reachable", param="state")
    if retire_at is not None and to is not State.DEPRECATED:
        raise InvalidRequest("Only a deprecated version has a date on which it retires.", param="retire_at")
    if retire_at is not None and (retire_at.tzinfo is None or not at <= retire_at <= at + MAX_NOTICE):
        raise InvalidRequest(
            f"retire_at needs a time zone, and lies within {MAX_NOTICE.days} days from now.", param="retire_at"
        )
    return Status(to, at, reason, retire_at, status.limits)


def breach(limits: Limits, observed: Observed) -> str:
    """Which declared limit is broken, as a reason to read; empty when none is."""
    if observed.requests >= limits.least_requests:
        over = f"over {observed.requests} requests"
        least, seen = limits.availability_bps, observed.availability_bps
        if least is not None and seen is not None and seen < least:
            return f"availability {_percent(seen)} is below the declared {_percent(least)} {over}"
        most, seen = limits.error_bps, observed.error_bps
        if most is not None and seen is not None and seen > most:
            return f"errors {_percent(seen)} are above the declared {_percent(most)} {over}"
    return _poor(limits.quality_bps, observed)


def is_due(status: Status, at: datetime) -> bool:
    """Whether a deprecated version's day has come."""
    return status.state is State.DEPRECATED and status.retire_at is not None and status.retire_at <= at


def check_limits(limits: Limits) -> None:
    """Raise InvalidRequest, naming the field, for a limit that is out of range."""
    for name in ("availability_bps", "error_bps", "quality_bps"):
        value: int | None = getattr(limits, name)
        if value is not None and not 0 <= value <= BASIS_POINTS:
            raise InvalidRequest(f"{name} is from 0 to {BASIS_POINTS} basis points.", param=name)
    if not 1 <= limits.least_requests <= 10**9:
        raise InvalidRequest("least_requests is from 1 to 1,000,000,000.", param="least_requests")


def check_reason(reason: str) -> None:
    """Raise InvalidRequest unless the reason can be kept."""
    if len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise InvalidRequest(f"A reason is one line of at most {MAX_REASON_CHARS} characters.", param="reason")


def _poor(least: int | None, observed: Observed) -> str:
    mean, most = observed.quality_bps, observed.quality_most_bps
    if least is None or mean is None or most is None or observed.ratings < LEAST_RATINGS or most >= least:
        return ""
    return (
        f"quality {_percent(mean)} over {observed.ratings} ratings is at most {_percent(most)} (95 % at all times), "
        f"below the declared {_percent(least)}"
    )


def _percent(bps: int) -> str:
    return f"{bps / 100:g} %"
