"""Ids of version 7: their form, their order in time, and that none comes twice."""

import time
from datetime import UTC, timedelta
from uuid import RFC_4122

from prsm.core.clock import now, uuid7


def test_now_is_aware_and_utc() -> None:
    assert now().utcoffset() == timedelta(0)
    assert now().tzinfo is UTC


def test_ids_have_the_version_and_the_variant_of_rfc_9562() -> None:
    for _ in range(200):
        made = uuid7()
        assert (made.version, made.variant) == (7, RFC_4122)


def test_the_first_48_bits_are_the_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_of_later_milliseconds_sort_later_also_as_text() -> None:
    made = []
    for _ in range(5):
        made.append(uuid7())
        begun = time.time_ns() // 1_000_000
        while time.time_ns() // 1_000_000 == begun:
            pass
    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_all_other_bits_are_drawn() -> None:
    made = [uuid7().int for _ in range(2000)]
    assert len(set(made)) == len(made)
    fixed = 0xF << 76 | 0x3 << 62
    ever_set, always_set = 0, ~0
    for value in made:
        ever_set |= value
        always_set &= value
    free = (1 << 80) - 1 & ~fixed
    assert ever_set & free == free
    assert always_set & free == 0
