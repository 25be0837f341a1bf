"""What was seen of one instance: how its calls ended, how soon it began to speak, how fast, and what is under way.

Every figure fades as time passes, so it tells of the last minutes; a call is counted when it ends. Times are handed in.
"""

import math
from enum import IntEnum

from prsm.agents.liveness.sketch import Sketch
from prsm.agents.seams import UpstreamError
from prsm.core.errors import InvalidRequest, Kind

HALF_LIFE_S = 120.0
RECENT_HALF_LIFE_S = 10.0
"""Of the second count of calls and failures: what begins to fail after hours of answers is found in seconds."""
PEAK_FADE_S = 15.0
"""How long a peak of waiting is remembered where nothing new is seen, so that a slow instance is tried again."""
NOMINAL_TOKENS = 64
"""A longer whole answer counts, where instances are compared by waiting, as if it had so many tokens."""
_SMOOTHING = 0.2
_MOST_HALVINGS = 500.0


class Ending(IntEnum):
    """How a call ended. REFUSED is the caller's doing and says nothing of the instance; all others but OK are its own.

    UNREACHABLE: no connection, or closed before an answer. DENIED: the provider will not serve this node (key, credit,
    model unknown there).
    """

    OK = 0
    TIMEOUT = 1
    RATE_LIMITED = 2
    SERVER_ERROR = 3
    MALFORMED = 4
    CUT_OFF = 5
    UNREACHABLE = 6
    DENIED = 7
    REFUSED = 8

    @property
    def blames_instance(self) -> bool:
        """Whether it counts against the instance."""
        return self is not Ending.OK and self is not Ending.REFUSED


ERRORS = tuple(ending for ending in Ending if ending is not Ending.OK)
_BY_CODE = {
    "upstream_timeout": Ending.TIMEOUT,
    "upstream_rate_limited": Ending.RATE_LIMITED,
    "overloaded": Ending.RATE_LIMITED,
    "upstream_cut_off": Ending.CUT_OFF,
    "empty_stream": Ending.CUT_OFF,
    "upstream_bad_answer": Ending.MALFORMED,
    "upstream_odd": Ending.MALFORMED,
    "upstream_too_large": Ending.MALFORMED,
    "upstream_unreachable": Ending.UNREACHABLE,
    "upstream_untrusted": Ending.UNREACHABLE,
    "upstream_reset": Ending.UNREACHABLE,
    "upstream_key_refused": Ending.DENIED,
    "upstream_no_credit": Ending.DENIED,
    "upstream_unknown_model": Ending.DENIED,
}
_OURS = frozenset({"upstream_busy", "upstream_aborted"})
"""The node's own limit or doing."""


def ending_of(error: BaseException) -> Ending | None:
    """How a call that raised ``error`` ended; None where that tells nothing (cancelled, or the node's own doing)."""
    if isinstance(error, InvalidRequest):
        return Ending.REFUSED
    if not isinstance(error, UpstreamError) or error.code in _OURS:
        return None
    if error.blames_caller:
        return Ending.REFUSED
    known = _BY_CODE.get(error.code)
    return known or (Ending.TIMEOUT if error.kind is Kind.TIMEOUT else Ending.SERVER_ERROR)


class Observed:
    """One instance, or one model where ``merge`` has gathered its instances. For one event loop."""

    __slots__ = (
        "_counts", "_landmark_s", "_peak_s", "_peaked_s", "_recent", "_recent_failed", "_recent_s", "first_pieces",
        "first_seen_s", "first_smooth_s", "in_flight", "last_error", "last_error_s", "last_ok_s", "last_s",
        "pace_smooth", "paces",
    )  # fmt: skip

    def __init__(self, now_s: float) -> None:
        self.in_flight = 0
        self.first_seen_s = now_s
        self.last_s = self.last_ok_s = self.last_error_s = -math.inf
        self.last_error: Ending | None = None
        self.first_smooth_s = self.pace_smooth = 0.0
        self._peak_s: float | None = None
        self._peaked_s = now_s
        self._landmark_s = self._recent_s = now_s
        self.forget()

    def forget(self) -> None:
        """Drop what was seen; what is under way, and the last times, stay."""
        self._counts = [0.0] * len(Ending)
        self._recent = self._recent_failed = 0.0
        self.first_pieces = Sketch(HALF_LIFE_S)
        self.paces = Sketch(HALF_LIFE_S)

    def first_piece(self, waited_s: float, now_s: float) -> None:
        """An answer's first piece came, ``waited_s`` after the question."""
        self.first_pieces.add(waited_s, now_s)
        before_s = self.first_smooth_s or waited_s
        self.first_smooth_s = before_s + _SMOOTHING * (waited_s - before_s)
        self.waited(waited_s, now_s)

    def pace(self, tokens: int, took_s: float, now_s: float) -> None:
        """``tokens`` came within ``took_s``."""
        if tokens > 0 and took_s > 0:
            tokens_s = tokens / took_s
            self.paces.add(tokens_s, now_s)
            before = self.pace_smooth or tokens_s
            self.pace_smooth = before + _SMOOTHING * (tokens_s - before)

    def ended(self, ending: Ending, now_s: float) -> None:
        """One call ended."""
        halvings = (now_s - self._landmark_s) / HALF_LIFE_S
        if halvings > _MOST_HALVINGS:
            self._counts = self.counts(now_s)
            self._landmark_s = now_s
            halvings = 0.0
        self._counts[ending] += 2.0**halvings
        self.last_s = now_s
        if ending is Ending.OK:
            self.last_ok_s = now_s
        else:
            self.last_error, self.last_error_s = ending, now_s
            if ending is Ending.REFUSED:
                return
        left = _left(self._recent_s, now_s)
        self._recent = self._recent * left + 1
        self._recent_failed = self._recent_failed * left + (ending is not Ending.OK)
        self._recent_s = now_s

    def waited(self, seconds: float, now_s: float) -> None:
        """A wait, for comparing instances: one longer than remembered counts at once, a shorter one by and by.

        (Peak EWMA: Finagle's load balancer.)
        """
        peak_s = self._peak_s
        if peak_s is None or seconds >= peak_s:
            self._peak_s = seconds
        else:
            kept = math.exp(min(0.0, self._peaked_s - now_s) / PEAK_FADE_S)
            self._peak_s = peak_s * kept + seconds * (1 - kept)
        self._peaked_s = now_s

    def still_waiting(self, seconds: float, now_s: float) -> None:
        """A call was given up after ``seconds`` without an answer: it would have taken longer."""
        if seconds > (self.latency_s(now_s) or 0.0):
            self._peak_s, self._peaked_s = seconds, now_s

    def latency_s(self, now_s: float) -> float | None:
        """The wait to expect, lower the longer nothing was seen; None while nothing was."""
        if self._peak_s is None:
            return None
        return self._peak_s * math.exp(min(0.0, self._peaked_s - now_s) / PEAK_FADE_S)

    def counts(self, now_s: float) -> list[float]:
        """Calls by ``Ending`` as of ``now_s``, each counted as what is left of it."""
        left = 2.0 ** min((self._landmark_s - now_s) / HALF_LIFE_S, _MOST_HALVINGS)
        return [count * left for count in self._counts]

    def availability(self) -> float | None:
        """Share of the calls that the instance answered, of those it could have; None where there were none."""
        counts = self._counts
        told = sum(counts) - counts[Ending.REFUSED]
        return counts[Ending.OK] / told if told > 0 else None

    def recent(self, now_s: float) -> tuple[float, float]:
        """Calls and failures of the last seconds, each counted as what is left of it."""
        left = _left(self._recent_s, now_s)
        return self._recent * left, self._recent_failed * left

    def success(self, now_s: float) -> float:
        """Share of the calls that the instance answers, near one as long as little is known of it (Laplace)."""
        counts = self._counts
        left = 2.0 ** min((self._landmark_s - now_s) / HALF_LIFE_S, _MOST_HALVINGS)
        return (counts[0] * left + 1) / ((sum(counts) - counts[Ending.REFUSED]) * left + 1)

    def rate_s(self, now_s: float) -> float:
        """Calls per second that ended lately: what a steady rate would have to be for these counts."""
        return sum(self.counts(now_s)) * math.log(2) / HALF_LIFE_S

    def merge(self, other: "Observed", now_s: float) -> None:
        """Add what was seen of ``other``, as of ``now_s``."""
        both = zip(self.counts(now_s), other.counts(now_s), strict=True)
        self._counts, self._landmark_s = [ours + theirs for ours, theirs in both], now_s
        self.in_flight += other.in_flight
        self.first_pieces.merge(other.first_pieces)
        self.paces.merge(other.paces)
        self.last_s = max(self.last_s, other.last_s)
        self.last_ok_s = max(self.last_ok_s, other.last_ok_s)
        self.first_seen_s = min(self.first_seen_s, other.first_seen_s)
        if other.last_error_s > self.last_error_s:
            self.last_error, self.last_error_s = other.last_error, other.last_error_s


def _left(then_s: float, now_s: float) -> float:
    return 2.0 ** (min(0.0, then_s - now_s) / RECENT_HALF_LIFE_S)
