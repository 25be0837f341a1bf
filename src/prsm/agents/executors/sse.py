"""Server-sent events (WHATWG HTML, section 9.2), fed byte by byte or megabyte by megabyte, with the same result.

Only the data of events comes out: every model provider repeats the event's name inside it. Lines are cut on bytes and
left undecoded, so a character split over two reads needs no care; decoding is the JSON reader's business.
"""

from prsm.agents.seams import UpstreamError

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Collects lines into events. An event larger than ``max_event_bytes`` raises UpstreamError."""

    __slots__ = ("_after_cr", "_data", "_data_size", "_max_event_bytes", "_started", "_tail", "_tail_size")

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail: list[bytes] = []
        self._tail_size = 0
        self._data: list[bytes] = []
        self._data_size = 0
        self._after_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ``chunk`` completes."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf_only(chunk)
        events: list[bytes] = []
        if b"\n" in chunk:
            if self._tail:
                self._tail.append(chunk)
                chunk = b"".join(self._tail)
                self._tail = []
                self._tail_size = 0
            plain = None if self._data else _plain_events(chunk)
            if plain is not None:
                *events, chunk = plain
                self._started = True
            else:
                lines = chunk.split(b"\n")
                chunk = lines.pop()
                events = self._events(lines)
        if chunk:
            self._tail.append(chunk)
            self._tail_size += len(chunk)
        if self._tail_size + self._data_size > self._max_event_bytes:
            raise UpstreamError(
                f"The model provider sent an event of more than {self._max_event_bytes} bytes.",
                retryable=False,
                code="upstream_too_large",
            )
        return events

    def close(self) -> list[bytes]:
        """What an upstream that omits the last empty line left behind, as if it had sent it."""
        return self.feed(b"\n\n")

    def _events(self, lines: list[bytes]) -> list[bytes]:
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b" ", 5) else line[5:])
                self._data_size += len(line) + 1
            elif not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_size = 0
            elif line == b"data":
                data.append(b"")
                self._data_size += len(line) + 1
        return events

    def _with_lf_only(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _plain_events(chunk: bytes) -> list[bytes] | None:
    """The data of each event and what follows the last; None unless all are one line of ``data: ``, as is usual."""
    whole, _, rest = chunk.rpartition(b"\n\n")
    if b"\n" in rest or not whole.startswith(b"data: "):
        return None
    events = whole[6:].split(b"\n\ndata: ")
    return [*events, rest] if whole.count(b"\n") == 2 * (len(events) - 1) else None
