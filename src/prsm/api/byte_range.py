"""HTTP range requests (RFC 9110, 14): which bytes of a body of known size are asked for. Pure; sends nothing.

One range is served; several in one request, another unit or a malformed header mean the whole body, as the RFC allows.
"""

import re
from dataclasses import dataclass

_ONE = re.compile(r"bytes\s*=\s*(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """How many bytes these are."""
        return self.stop - self.start

    def content_range(self, size_bytes: int) -> str:
        """The value of ``Content-Range`` for a part of ``size_bytes``."""
        return f"bytes {self.start}-{self.stop - 1}/{size_bytes}"


class Unsatisfiable(Exception):
    """The range begins behind the last byte: status 416, with ``Content-Range: bytes */size``."""


def byte_range(header: str | None, size_bytes: int) -> Span | None:
    """The one range that is asked for, cut to what there is; None: send everything. Raises Unsatisfiable."""
    asked = _ONE.fullmatch(header.strip()) if header else None
    if asked is None or asked.groups() == ("", ""):
        return None
    first, last = asked.groups()
    if not first:
        if int(last) == 0:
            raise Unsatisfiable
        return Span(max(0, size_bytes - int(last)), size_bytes) if size_bytes else None
    start, stop = int(first), size_bytes if not last else int(last) + 1
    if stop <= start and last:
        return None
    if start >= size_bytes:
        raise Unsatisfiable
    return Span(start, min(stop, size_bytes))
