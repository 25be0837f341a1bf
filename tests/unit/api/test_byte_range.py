"""Which bytes a Range header asks for (RFC 9110, 14.1.2 and 14.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.api.byte_range import Span, Unsatisfiable, byte_range


@pytest.mark.parametrize(
    ("header", "size", "span"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=0-", 10, (0, 10)),
        ("bytes=3-5", 10, (3, 6)),
        ("bytes=3-500", 10, (3, 10)),
        ("bytes=-4", 10, (6, 10)),
        ("bytes=-40", 10, (0, 10)),
        ("Bytes = 9-9", 10, (9, 10)),
    ],
)
def test_one_range_is_cut_to_what_there_is(header: str, size: int, span: tuple[int, int]) -> None:
    assert byte_range(header, size) == Span(*span)


@pytest.mark.parametrize(
    "header", [None, "", "bytes=-", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=5-3", "bytes=0-1x", "bytes=٣-٤"]
)
def test_what_is_no_single_range_means_the_whole(header: str | None) -> None:
    assert byte_range(header, 10) is None


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=11-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end_is_refused(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        byte_range(header, size)


@given(st.integers(0, 50), st.integers(0, 50), st.binary(min_size=1, max_size=40))
def test_a_span_gives_the_bytes_the_header_names(first: int, last: int, body: bytes) -> None:
    try:
        span = byte_range(f"bytes={first}-{last}", len(body))
    except Unsatisfiable:
        assert first >= len(body)
        return
    if span is None:
        assert last < first
        return
    assert body[span.start : span.stop] == body[first : last + 1]
    assert span.content_range(len(body)) == f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
