"""The same objectives and levels as PromQL, for Prometheus. Pure text; each node (``instance``) is judged by itself."""

from collections.abc import Sequence

from prsm.monitoring.objectives.declared import Condition, Forecast, Level, Rate, Share, Slo
from prsm.monitoring.objectives.selector import Selector

_BY = "sum by (instance)"


def bad_share(slo: Slo, window: str) -> str:
    """The share of bad events over a window; nothing where there were none at all."""
    part, all_events = _sum(slo.part, window, slo.total[0]), _sum(slo.total, window, slo.total[0])
    return f"{part} / {all_events}" if slo.bad else f"1 - {part} / {all_events}"


def events(slo: Slo, window: str) -> str:
    """How many events there were in a window."""
    return _sum(slo.total, window, slo.total[0], "increase")


def condition(given: Condition) -> str:
    """The expression that has a series for each alert."""
    match given:
        case Level():
            return f"{given.value} {_limit(given)}"
        case Share():
            return f"{given.part} / {given.whole} {_limit(given)}"
        case Rate():
            window = duration(given.window_s)
            grown = _sum(given.value, window, given.value[0])
            if not given.of:
                return f"{grown} > {given.above:g}"
            of = _sum(given.of, window, given.of[0])
            return f"{grown} > {given.above:g} and {grown} / {of} > {given.share_above:g}"
        case Forecast():
            line = f"predict_linear({given.value}[{duration(given.window_s)}], {given.ahead_s})"
            return f"{line} < {given.below:g} and {given.value} / {given.whole} < {given.share_below:g}"


def duration(seconds: float) -> str:
    """Seconds as Prometheus writes them."""
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds % unit_s == 0:
            return f"{seconds / unit_s:g}{unit}"
    return f"{seconds:g}s"


def _limit(given: Level | Share) -> str:
    return f"> {given.above:g}" if given.above is not None else f"< {given.below:g}"


def _sum(selectors: Sequence[Selector], window: str, always: Selector, function: str = "rate") -> str:
    """The sum of counters. One that was never counted has no series: it is zero where ``always`` has one."""
    zero = f"0 * {_BY} ({function}({always}[{window}]))"
    summed = [
        f"{_BY} ({function}({each}[{window}]))"
        if each == always
        else f"({_BY} ({function}({each}[{window}])) or {zero})"
        for each in selectors
    ]
    return f"({' + '.join(summed)})" if len(summed) > 1 else summed[0]
