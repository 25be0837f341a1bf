"""The Protocols of storage, and the one vocabulary of what can go wrong with a place that blocks come from."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol

from prsm.core.errors import Kind, PrsmError
from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.cid import Cid


class Fault(StrEnum):
    """What follows from a failure at an endpoint."""

    RETRY = "retry"
    """Passing: the same endpoint may answer later (reset, time-out, 429, 500, 503)."""
    OTHER_REPLICA = "other_replica"
    """This endpoint does not have it or will not give it (404, 410, 451, redirect): ask another."""
    BAN = "ban"
    """It lied (wrong bytes, too many bytes) or leads to a forbidden address: ask it no more for a long while."""
    FATAL = "fatal"
    """No endpoint can help (the content itself breaks a rule, the caller cancelled)."""
    LOCAL_DISK = "local_disk"
    """Our own disk failed or is full: nothing an endpoint does can help."""


class StorageFault(PrsmError):
    """Something failed while blocks moved; ``fault`` says what follows from it, ``endpoint`` where it happened."""

    kind = Kind.UPSTREAM
    code = "storage_fault"

    def __init__(
        self,
        message: str,
        *,
        fault: Fault,
        endpoint: str = "",
        kind: Kind | None = None,
        code: str | None = None,
        remedy: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, kind=kind, code=code, remedy=remedy, retry_after_s=retry_after_s)
        self.fault = fault
        self.endpoint = endpoint


class Pace(Protocol):
    """How fast bytes may move; bound to one class of traffic (see ``transfer/throttle.py``)."""

    def take(self, size_bytes: int) -> None:
        """Block until ``size_bytes`` may move. Raises StorageFault (FATAL) when the transfer was cancelled."""
        ...


class BlockSource(Protocol):
    """A place that gives blocks by CID: a gateway, an own node, later a peer. Used from several threads at once.

    It need not be trusted: whoever asks checks the hash.
    """

    @property
    def name(self) -> str:
        """What people see in messages, metrics and ``prsm storage status``; never a secret."""
        ...

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        """Put the block's bytes into ``into``; answers how many. ``deadline_s`` is of ``time.monotonic``.

        Raises StorageFault; BAN for more bytes than ``into`` has room for.
        """
        ...

    def probe(self, deadline_s: float) -> float:
        """Seconds that a healthy answer takes now. Raises StorageFault."""
        ...

    def close(self) -> None:
        """End open connections; a fetch that runs fails soon after."""
        ...


class BlockSink(Protocol):
    """An own node that takes blocks and keeps them (Kubo's RPC)."""

    @property
    def name(self) -> str:
        """What people see; never a secret."""
        ...

    def has(self, cid: Cid, *, deadline_s: float) -> bool:
        """Whether the node has this block itself (it must not look for it elsewhere). Raises StorageFault."""
        ...

    def put(self, blocks: Iterable[Block], *, deadline_s: float, pace: Pace) -> int:
        """Store blocks (at most a few MiB at a time); answers how many bytes. Raises StorageFault."""
        ...

    def pin(self, cid: Cid, *, deadline_s: float) -> None:
        """Keep everything under ``cid``. Raises StorageFault."""
        ...

    def unpin(self, cid: Cid, *, deadline_s: float) -> None:
        """Keep it no more; one that is not pinned is no error. Raises StorageFault."""
        ...


class Breakers(Protocol):
    """The node's circuit breakers, by key (``safety/circuit_breaker.py: BreakerBoard``)."""

    def allow(self, key: str, *, now_s: float | None = None) -> bool:
        """Whether a call may go ahead; True is followed by ``record`` or ``release``."""
        ...

    def record(self, key: str, *, ok: bool, admitted_s: float | None = None) -> None:
        """How an admitted call ended."""
        ...

    def release(self, key: str, *, admitted_s: float | None = None) -> None:
        """An admitted call ended without saying anything about the endpoint."""
        ...

    def trip(self, key: str, reason: str) -> None:
        """Open until ``reset``."""
        ...

    def reset(self, key: str) -> None:
        """Close."""
        ...
