"""How a transfer is stopped from outside: a flag that wakes whoever waits, so that nobody need poll it."""

import itertools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Self

from prsm.data_layer.seams import Fault, StorageFault


class Cancelled(StorageFault):
    """The caller ended the work; what was fetched until then stays for a later run."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The transfer was cancelled.", fault=Fault.FATAL)


class Cancellation:
    """A flag that is set once, from any thread; with a ``parent`` it is also set when the parent is."""

    def __init__(self, parent: Self | None = None) -> None:
        self._parent = parent
        self._set = False
        self._lock = threading.Lock()
        self._wakers: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()

    def is_set(self) -> bool:
        """Whether the work shall end."""
        return self._set or (self._parent is not None and self._parent.is_set())

    def set(self) -> None:
        """End the work: everybody under ``waking`` is woken, once."""
        with self._lock:
            self._set = True
            wakers = list(self._wakers.values())
            self._wakers.clear()
        for wake in wakers:
            with suppress(OSError):  # a socket that is shut down twice; the others must be woken all the same
                wake()

    def check(self) -> None:
        """Raises Cancelled when the flag is set."""
        if self.is_set():
            raise Cancelled

    def pause(self, seconds: float) -> None:
        """Wait so long. Raises Cancelled as soon as the flag is set."""
        event = threading.Event()
        with self.waking(event.set):
            event.wait(seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Generator[None]:
        """Call ``wake`` (short, from any thread) when the flag is set in here, at once if it is already."""
        if self._parent is not None:
            with self._parent.waking(wake), self._registered(wake):
                yield
        else:
            with self._registered(wake):
                yield

    @contextmanager
    def _registered(self, wake: Callable[[], None]) -> Generator[None]:
        number = next(self._numbers)
        with self._lock:
            late = self._set
            if not late:
                self._wakers[number] = wake
        if late:
            wake()
        try:
            yield
        finally:
            with self._lock:
                self._wakers.pop(number, None)
