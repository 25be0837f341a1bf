"""What a node shows of itself as a whole: one state that every worker has, though one of them evaluates.

The worker that evaluates writes it to a file of the home where there are others; those read it there.
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from prsm.monitoring.alerting.states import Alert
from prsm.monitoring.capacity import forecast, scaling
from prsm.monitoring.capacity.forecast import Hit
from prsm.monitoring.capacity.scaling import Scaling
from prsm.monitoring.capacity.traffic import LoadPoint, Traffic, TrafficNow
from prsm.monitoring.objectives.evaluation import Budget
from prsm.monitoring.objectives.selector import Sample

_MINUTES = 360
_MINUTE_S = 60.0
_MOST_LEVELS = 64
_FILE = "state.json"


class Level(Struct):
    """Something that may be used up: how much of it was used, a point a minute, and how much there is."""

    limit: float
    points: list[tuple[float, float]]


class State(Struct):
    """As the worker that evaluates knows it. ``at_s`` 0: nothing was evaluated yet."""

    at_s: float
    alerts: list[Alert]
    budgets: list[Budget]
    traffic: TrafficNow
    load: list[LoadPoint]
    levels: dict[str, Level]
    sinks: dict[str, str]
    """Ways to tell of alerts, and why the last message did not go; empty where it did."""


class Capacity(Struct):
    """How much the node carries: the law, or why there is none to be seen; and what is used up when."""

    in_work: float
    per_s: float
    scaling: Scaling | str
    levels: dict[str, tuple[float, float, Hit | None]]
    """Used, limit, and when it is reached."""


_NOTHING = State(0.0, [], [], Traffic().now(), [], {}, {})


class Tracks:
    """Levels by minute, for six hours."""

    def __init__(self) -> None:
        self._points: dict[str, deque[tuple[float, float]]] = {}
        self._limits: dict[str, float] = {}

    def add(self, levels: Mapping[str, tuple[float, float]], now_s: float) -> None:
        """Take in what is used of what there is."""
        for name, (used, limit) in levels.items():
            if not (math.isfinite(used) and math.isfinite(limit)):
                continue  # not known while what has it is away
            points = self._points.get(name)
            if points is None:
                if len(self._points) >= _MOST_LEVELS:
                    continue
                points = self._points[name] = deque(maxlen=_MINUTES)
            self._limits[name] = limit
            if not points or now_s - points[-1][0] >= _MINUTE_S:
                points.append((now_s, used))

    def levels(self) -> dict[str, Level]:
        """All of them."""
        return {name: Level(self._limits[name], list(points)) for name, points in self._points.items()}


def used_levels(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """What may be used up, from the gauges: used, and how much there is."""
    of = {sample.name: sample.value for sample in samples if not sample.labels}
    disks = {sample.labels["disk"]: sample.value for sample in samples if sample.name == "prsm_disk_size_bytes"}
    free = {sample.labels["disk"]: sample.value for sample in samples if sample.name == "prsm_disk_free_bytes"}
    found = {f"disk of {name}": (size - free[name], size) for name, size in disks.items() if name in free}
    resident = of.get("prsm_resident_bytes", 0.0)
    found["memory"] = (resident, resident + of.get("prsm_memory_available_bytes", 0.0))
    for name, used, limit in _PAIRS:
        if used in of and limit in of:
            found[name] = (of[used], of[limit])
    return found


_PAIRS = (
    ("database pool", "prsm_database_pool_used", "prsm_database_pool_max"),
    ("database connections", "prsm_database_connections", "prsm_database_connections_max"),
    ("open files", "prsm_open_files", "prsm_open_files_max"),
)
LEVEL_FAMILIES = (
    "prsm_disk_size_bytes", "prsm_disk_free_bytes", "prsm_resident_bytes", "prsm_memory_available_bytes",
    *(name for pair in _PAIRS for name in pair[1:]),
)  # fmt: skip


def write_state(folder: Path, state: State) -> None:
    """Replace the file that other workers read."""
    new = folder / f"{_FILE}.new"
    new.write_bytes(msgspec.json.encode(state))
    new.replace(folder / _FILE)


def read_state(folder: Path) -> State:
    """What was written last; nothing where nothing was."""
    try:
        return msgspec.json.decode((folder / _FILE).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.MsgspecError):
        return _NOTHING


async def capacity(state: State) -> Capacity:
    """The capacity that a state shows; in a thread, for it fits curves."""
    return await asyncio.to_thread(_capacity, state)


def _capacity(state: State) -> Capacity:
    law = scaling.fit([point.in_work for point in state.load], [point.per_s for point in state.load])
    levels = {
        name: (level.points[-1][1], level.limit, forecast.hit(level.points, level.limit))
        for name, level in state.levels.items()
        if level.points
    }
    if isinstance(law, Scaling) and law.peak_per_s.value < float("inf"):
        asked = [(point.at_s, point.per_s) for point in state.load]
        levels["requests per second"] = (asked[-1][1], law.peak_per_s.value, forecast.hit(asked, law.peak_per_s.value))
    return Capacity(state.traffic.in_work, state.traffic.requests_per_s, law, levels)
