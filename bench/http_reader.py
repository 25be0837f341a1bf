"""Reads HTTP/1.1 responses from bytes: content-length and chunked bodies, nothing else, as fast as plain Python can.

It does no I/O and is strict: what it cannot read raises ValueError, so that a broken answer counts as an error.
"""

_LENGTH = b"\r\ncontent-length:"
_CHUNKED = b"\r\ntransfer-encoding: chunked"
_CLOSE = b"\r\nconnection: close"


class ResponseReader:
    """One response at a time; ``status``, ``body`` and ``closes`` are valid once ``feed`` returned True."""

    __slots__ = ("_in_body", "_length", "_pieces", "_rest", "closes", "status")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Make ready for the next response on the same connection."""
        self.status = 0
        self.closes = False
        self._in_body = False
        self._length = -1
        self._rest = b""
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """What of the body has arrived, without the chunk framing."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def feed(self, data: bytes) -> bool:
        """Take what arrived; True when the response is complete. Raises ValueError on what is no such response."""
        if self._rest:
            data = self._rest + data
        if not self._in_body:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                self._rest = data
                return False
            self._read_head(data[:head_end].lower())
            data = data[head_end + 4 :]
        return self._feed_chunks(data) if self._length < 0 else self._feed_length(data)

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"http/1.1 "):
            raise ValueError("not an HTTP/1.1 response")
        self.status = int(head[9:12])
        self.closes = _CLOSE in head
        at = head.find(_LENGTH)
        if at >= 0:
            self._length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        elif _CHUNKED not in head:
            raise ValueError("neither content-length nor chunked")
        self._in_body = True

    def _feed_length(self, data: bytes) -> bool:
        if len(data) < self._length:
            self._rest = data
            return False
        if len(data) > self._length:
            raise ValueError("more bytes than announced")
        self._pieces.append(data)
        return True

    def _feed_chunks(self, data: bytes) -> bool:
        at = 0
        while (line_end := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line_end], 16)
            if size == 0:
                if data.endswith(b"\r\n\r\n"):
                    return True
                break
            end = line_end + 2 + size
            if len(data) < end + 2:
                break
            if data[end : end + 2] != b"\r\n":
                raise ValueError("a chunk does not end where it said")
            self._pieces.append(data[line_end + 2 : end])
            at = end + 2
        self._rest = data[at:]
        return False
