"""What a sandboxed program may use, how it ended, and why a machine may be refused."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from prsm.core.errors import PrsmError

Ended = Literal["done", "failed", "cpu", "wall", "memory", "output", "folder", "network", "process"]
"""``done``: exit status 0; ``failed``: another, or a signal; the others name the limit, or what was attempted."""


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of one program. ``folder_bytes`` are looked at while it runs, all others are held by the kernel."""

    cpu_s: Annotated[int, Meta(ge=1, le=3600)] = 5
    wall_s: Annotated[float, Meta(gt=0, le=3600)] = 10.0
    memory_bytes: Annotated[int, Meta(ge=1 << 25)] = 1 << 28
    output_bytes: Annotated[int, Meta(ge=0)] = 1 << 20
    folder_bytes: Annotated[int, Meta(ge=0)] = 1 << 24
    open_files: Annotated[int, Meta(ge=8, le=1024)] = 64


class Outcome(Struct, frozen=True):
    """How a program ended and what it said, at most ``output_bytes`` of both together."""

    ended: Ended
    status: int
    """As ``subprocess`` gives it: below 0 for a signal."""
    stdout: bytes
    stderr: bytes

    @property
    def is_over_limit(self) -> bool:
        """Whether it used too much of something, rather than failing or trying what is forbidden."""
        return self.ended in {"cpu", "wall", "memory", "output", "folder"}


class SandboxRefused(PrsmError):
    """This machine cannot hold a program in bounds; nothing was run."""
