"""What may be used up, from the gauges; and a state that other workers read from a file."""

import math
from pathlib import Path

import msgspec
import pytest

from prsm.monitoring.capacity.traffic import LoadPoint
from prsm.monitoring.objectives.selector import Sample
from prsm.node.status import Level, Tracks, capacity, read_state, used_levels, write_state

GAUGES = [
    Sample("prsm_disk_size_bytes", {"disk": "home"}, 100.0),
    Sample("prsm_disk_free_bytes", {"disk": "home"}, 40.0),
    Sample("prsm_disk_size_bytes", {"disk": "gone"}, 100.0),
    Sample("prsm_resident_bytes", {}, 10.0),
    Sample("prsm_memory_available_bytes", {}, 30.0),
    Sample("prsm_database_pool_used", {}, 2.0),
    Sample("prsm_database_pool_max", {}, 10.0),
]


def test_used_is_size_less_free_and_memory_is_ours_of_what_is_ours_or_free() -> None:
    assert used_levels(GAUGES) == {"disk of home": (60, 100), "memory": (10, 40), "database pool": (2, 10)}


def test_a_level_is_kept_by_minutes_and_what_is_not_known_is_left_out() -> None:
    tracks = Tracks()
    for turn in range(30):
        tracks.add({"memory": (float(turn), 100.0), "database connections": (math.nan, 60.0)}, 10.0 * turn)
    assert tracks.levels() == {"memory": Level(100.0, [(60.0 * minute, 6.0 * minute) for minute in range(5)])}


async def test_a_state_is_the_same_when_it_was_read_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    nothing = read_state(tmp_path)
    assert nothing.at_s == 0
    state = msgspec.structs.replace(
        nothing,
        at_s=5.0,
        load=[LoadPoint(60.0 * turn, 5.0 + turn, 1.0 + turn) for turn in range(20)],
        levels={"memory": Level(100.0, [(60.0 * turn, float(turn)) for turn in range(20)])},
    )
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    found = await capacity(read_state(tmp_path))
    used, limit, hit = found.levels["memory"]
    assert (used, limit) == (19, 100)
    assert hit
    assert hit.in_s == pytest.approx(81 * 60)
    (tmp_path / "state.json").write_bytes(b"{")
    assert read_state(tmp_path).at_s == 0
