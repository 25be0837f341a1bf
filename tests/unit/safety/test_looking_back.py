"""The pace of looks at a stream: nothing said goes unseen, and the cost of all looks is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.safety.looking_back import Pace, Schedule

PACES = st.builds(Pace, st.integers(1, 50), st.integers(1, 50), st.integers(0, 80))


@given(PACES, st.lists(st.text(st.sampled_from("abcdefgh "), max_size=70)))
def test_everything_said_is_seen_in_order_with_what_stood_before(pace: Pace, pieces: list[str]) -> None:
    schedule, said, seen = Schedule(pace), "", 0
    looks = []
    for piece in pieces:
        said += piece
        if look := schedule.add(piece):
            looks.append((look, len(said)))
        assert schedule.said - schedule.seen < max(pace.first_chars, pace.every_chars)
    if last := schedule.end():
        looks.append((last, len(said)))
    for look, until in looks:
        assert look.text == said[look.start : until]
        assert look.start == max(0, seen - pace.look_back_chars)
        seen = until
    assert seen == len(said)
    assert schedule.end() is None


@given(PACES, st.lists(st.text(st.just("a"), max_size=70)))
def test_the_cost_is_bounded(pace: Pace, pieces: list[str]) -> None:
    schedule = Schedule(pace)
    looks = [look for piece in pieces if (look := schedule.add(piece))]
    looks += [look] if (look := schedule.end()) else []
    total = sum(len(look.text) for look in looks)
    bound = schedule.said * (1 + pace.look_back_chars / pace.every_chars) + pace.look_back_chars
    assert total <= bound


def test_a_pace_must_move() -> None:
    with pytest.raises(ValueError, match="pace"):
        Pace(every_chars=0)
