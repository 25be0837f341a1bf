"""What counters grew by and where levels went, in bounded memory, and what outlives a restart of it.

Growth is kept by minutes for six hours and by hours for thirty days, a window is read to within one slot; the last ten
minutes are kept as they came. A counter that falls began anew. Times are seconds of the wall clock.
"""

import io
import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from prsm.monitoring.objectives.declared import Forecast, Objectives, Rate
from prsm.monitoring.objectives.selector import Sample, Selector, total

Sum = tuple[Selector, ...]
Labels = tuple[tuple[str, str], ...]
Points = Sequence[tuple[float, float]]

_MINUTE_S, _HOUR_S = 60.0, 3600.0
_FINE_S = 6 * _HOUR_S
_RECENT_S = 600.0
_SHORTEST_KEPT_S = 300.0
_MOST_TRACKS, _TRACK_POINTS = 64, 360


class History:
    """The history of one node, fed with all samples at once."""

    def __init__(self, objectives: Objectives, now_s: float) -> None:
        sums = [each for slo in objectives.slos for each in (slo.total, slo.part)]
        rates = [rule.condition for rule in objectives.alerts if isinstance(rule.condition, Rate)]
        sums += [each for rate in rates for each in (rate.value, rate.of) if each]
        self._column = {each: place for place, each in enumerate(dict.fromkeys(sums))}
        self._tracked = [rule.condition for rule in objectives.alerts if isinstance(rule.condition, Forecast)]
        self._last: npt.NDArray[np.float64] | None = None
        self._grown = np.zeros(len(self._column))
        self._recent: deque[tuple[float, npt.NDArray[np.float64]]] = deque()
        self._fine = _Ring(_MINUTE_S, 362, len(self._column), now_s)
        self._coarse = _Ring(_HOUR_S, 722, len(self._column), now_s)
        self._tracks: dict[tuple[Selector, Labels], deque[tuple[float, float]]] = {}

    def add(self, samples: Sequence[Sample], now_s: float) -> None:
        """Take in one reading of everything."""
        read = np.array([total(each, samples) or 0.0 for each in self._column])
        if self._last is not None:
            # What was counted before the first reading was seen by whoever read then, or by nobody.
            grown = np.where(read >= self._last, read - self._last, read)
            self._grown = self._grown + grown
            self._fine.add(grown, now_s)
            self._coarse.add(grown, now_s)
        self._last = read
        if self._recent and now_s < self._recent[-1][0]:  # the clock was set back: these times say nothing any more
            self._recent.clear()
            self._tracks.clear()
        self._recent.append((now_s, self._grown))
        while self._recent[0][0] < now_s - _RECENT_S:
            self._recent.popleft()
        for forecast in self._tracked:
            for sample in forecast.value.of(samples):
                self._follow(forecast.value, sample, now_s)

    def increase(self, of: Sum, window_s: float, now_s: float) -> float:
        """By how much a sum of counters grew within a window. Windows under five minutes do not outlive a restart."""
        column = self._column[of]
        if window_s >= _SHORTEST_KEPT_S:
            ring = self._fine if window_s <= _FINE_S else self._coarse
            return float(ring.total(window_s, now_s)[column])
        within = [grown[column] for at_s, grown in self._recent if at_s >= now_s - window_s]
        return float(within[-1] - within[0]) if within else 0.0

    def points(self, of: Selector, labels: Labels, window_s: float, now_s: float) -> Points:
        """A level as it was, a point a minute."""
        return [point for point in self._tracks.get((of, labels), ()) if point[0] >= now_s - window_s]

    def packed(self) -> bytes:
        """What is to outlive a restart."""
        room = io.BytesIO()
        names = np.array(["+".join(map(str, each)) for each in self._column])
        state: dict[str, Any] = self._fine.state("fine") | self._coarse.state("coarse")
        np.savez_compressed(room, names=names, **state)
        return room.getvalue()

    def unpack(self, packed: bytes, now_s: float) -> None:
        """Go on with what ``packed`` gave; sums that are not counted any more are dropped. Raises ValueError."""
        with np.load(io.BytesIO(packed), allow_pickle=False) as kept:
            names: list[str] = kept["names"].tolist()
            place = {name: number for number, name in enumerate(names)}
            ours = ["+".join(map(str, each)) for each in self._column]
            columns = [place.get(name) for name in ours]
            self._fine.restore(kept, "fine", columns, now_s)
            self._coarse.restore(kept, "coarse", columns, now_s)

    def _follow(self, of: Selector, sample: Sample, now_s: float) -> None:
        key = (of, tuple(sorted(sample.labels.items())))
        track = self._tracks.get(key)
        if track is None:
            if len(self._tracks) >= _MOST_TRACKS:
                return
            track = self._tracks[key] = deque(maxlen=_TRACK_POINTS)
        if not track or now_s - track[-1][0] >= _MINUTE_S:
            track.append((now_s, sample.value))


def line_ahead(points: Points, now_s: float, ahead_s: float) -> float | None:
    """Where the line of least squares through the points is in ``ahead_s``, as ``predict_linear``; None of too few.

    Ten points are wanted, for after a start the first few say nothing.
    """
    if len(points) < 10 or any(later[0] <= before[0] for before, later in pairwise(points)):
        return None
    at = np.array([point[0] - now_s for point in points])
    values = np.array([point[1] for point in points])
    spread = float(((at - at.mean()) ** 2).sum())
    slope = float(((at - at.mean()) * (values - values.mean())).sum()) / spread
    return float(values.mean() + slope * (ahead_s - at.mean()))


class _Ring:
    """Growth in the newest ``slots`` slots of ``slot_s``, of several sums at once."""

    def __init__(self, slot_s: float, slots: int, columns: int, now_s: float) -> None:
        self._slot_s = slot_s
        self._rows = np.zeros((slots, columns))
        self._epoch = int(now_s // slot_s)

    def add(self, grown: npt.NDArray[np.float64], now_s: float) -> None:
        self._turn(now_s)
        self._rows[self._epoch % len(self._rows)] += grown

    def total(self, window_s: float, now_s: float) -> npt.NDArray[np.float64]:
        self._turn(now_s)
        slots = min(math.ceil(window_s / self._slot_s), len(self._rows) - 1)
        epochs = np.arange(self._epoch - slots, self._epoch + 1)
        return self._rows[epochs % len(self._rows)].sum(axis=0)

    def state(self, name: str) -> dict[str, npt.NDArray[np.float64]]:
        return {f"{name}_rows": self._rows, f"{name}_epoch": np.array([float(self._epoch)])}

    def restore(
        self, kept: Mapping[str, npt.NDArray[np.float64]], name: str, columns: Sequence[int | None], now_s: float
    ) -> None:
        rows, epoch = kept[f"{name}_rows"], int(kept[f"{name}_epoch"][0])
        if len(rows) != len(self._rows) or epoch > now_s // self._slot_s:
            raise ValueError("the history is of another version, or of a later time than now")
        for ours, theirs in enumerate(columns):
            if theirs is not None:
                self._rows[:, ours] = rows[:, theirs]
        self._epoch = epoch
        self._turn(now_s)

    def _turn(self, now_s: float) -> None:
        epoch = int(now_s // self._slot_s)
        passed = min(epoch - self._epoch, len(self._rows))
        for step in range(passed):
            self._rows[(epoch - step) % len(self._rows)] = 0
        self._epoch = max(self._epoch, epoch)
