"""The event parser gives the same events however the bytes are split, and follows the standard's corner cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.agents.executors.sse import SseParser
from prsm.agents.seams import UpstreamError

LINE_ENDS = ("\n", "\r\n", "\r")
text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """The bytes of a stream of events, and the data of each."""
    end = draw(st.sampled_from(LINE_ENDS))
    lines: list[str] = []
    expected: list[bytes] = []
    for _ in range(draw(st.integers(0, 5))):
        data = draw(st.lists(text, min_size=1, max_size=3))
        for value in data:
            noise = draw(st.sampled_from(["", ": comment", "event: x", "id: 7", "retry: 10", "data-like: no", "other"]))
            lines.extend([noise] if noise else [])
            lines.append(f"data: {value}")
        lines.append("")
        expected.append("\n".join(data).encode())
    return "".join(line + end for line in lines).encode(), expected


@given(streams(), st.data())
def test_any_split_gives_the_same_events(stream: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    raw, expected = stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    parser = SseParser()
    events: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        events.extend(parser.feed(raw[start:end]))
    assert events + parser.close() == expected


@given(st.binary(max_size=200))
def test_any_bytes_by_one_and_at_once_agree(raw: bytes) -> None:
    whole, single = SseParser(), SseParser()
    events = whole.feed(raw) + whole.close()
    assert [e for i in range(len(raw)) for e in single.feed(raw[i : i + 1])] + single.close() == events


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data:x\n\n", [b"x"]),
        (b"data:  x\n\n", [b" x"]),
        (b"data\n\n", [b""]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"\xef\xbb\xbfdata: x\n\n", [b"x"]),
        (b"data: \xef\xbb\xbfx\n\n", [b"\xef\xbb\xbfx"]),
        (b": only a comment\n\n\n\n", []),
        (b"event: ping\n\n", []),
        (b"datax: no\n\ndata: [DONE]\n\n", [b"[DONE]"]),
    ],
)
def test_corner_cases_of_the_standard(raw: bytes, expected: list[bytes]) -> None:
    assert SseParser().feed(raw) == expected


def test_an_unfinished_event_comes_at_close_only() -> None:
    parser = SseParser()
    assert parser.feed(b"data: [DONE]") == []
    assert parser.close() == [b"[DONE]"]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 50 + b"\n", b"x" * 50, b"data\n" * 10])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    parser = SseParser(max_event_bytes=1_000)
    fed: list[bytes] = []

    def feed_on() -> None:
        for _ in range(30):
            parser.feed(piece)
            fed.append(piece)

    with pytest.raises(UpstreamError, match="1000 bytes"):
        feed_on()
    assert 900 <= len(b"".join(fed)) <= 1_000


def test_many_events_within_the_limit_pass() -> None:
    parser = SseParser(max_event_bytes=100)
    for _ in range(100):
        assert parser.feed(b"data: " + b"x" * 80 + b"\n\n") == [b"x" * 80]
