"""Windows leave no token out, and a text beyond the limit is refused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.safety.detectors.ngrams import BUCKETS, buckets
from prsm.safety.detectors.windows import MAX_CHARS, TextTooLong, refuse_too_long, windows


@given(st.integers(0, 3_000), st.integers(2, 300), st.data())
def test_windows_cover_every_token_and_overlap(tokens: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    found = windows(tokens, size, overlap)
    assert found[0].start == 0
    assert found[-1].end == tokens
    assert all(each.end - each.start <= size for each in found)
    assert all(after.start == before.end - overlap for before, after in pairwise(found))
    assert len(found) <= max(1, -(-max(0, tokens - overlap) // (size - overlap)))


def test_windows_must_move() -> None:
    with pytest.raises(ValueError, match="overlap"):
        windows(10, 5, 5)


def test_too_long_a_text_is_refused_by_name() -> None:
    refuse_too_long("a" * MAX_CHARS)
    with pytest.raises(TextTooLong, match="cannot be screened"):
        refuse_too_long("a" * (MAX_CHARS + 1))


@given(st.text(max_size=200))
def test_buckets_are_sorted_distinct_and_in_range(text: str) -> None:
    found = buckets(text.encode("utf-8", "ignore").decode())
    assert (found[1:] > found[:-1]).all()
    assert len(found) == 0 or (found[0] >= 0 and found[-1] < BUCKETS)


def test_buckets_tell_texts_apart_and_not_cases() -> None:
    assert set(buckets("Hello there")) == set(buckets("hello  THERE"))
    assert len(set(buckets("good morning")) & set(buckets("nice evening"))) < len(buckets("good morning")) / 2
