"""Small objects of one piece of work, published side by side: waiting for the disk is most of their time.

The disk takes the syncs of several threads together; one after another, each object would wait for its own.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

_THREADS = 16
_MOST_WAITING = 2 * _THREADS  # each holds its files open


class Publishing:
    """Publications under way, for any thread; as a context it ends when all of them have."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._changed = threading.Condition()
        self._under_way = 0
        self._error: BaseException | None = None

    def soon(self, publish: Callable[[], object], held: ExitStack) -> None:
        """Call this in another thread, as soon as not too many others wait for it, and close ``held`` after it.

        Raises what an earlier one did; then this one is not published.
        """
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way < _MOST_WAITING)
                self._check()
                self._pool = self._pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="publish")
                self._under_way += 1
        except BaseException:
            held.close()
            raise
        self._pool.submit(self._publish, publish, held)

    def wait(self) -> None:
        """Wait until all that were given are published. Raises what one of them did."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)
            self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def _check(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _publish(self, publish: Callable[[], object], held: ExitStack) -> None:
        error: BaseException | None = None
        try:
            with held:
                publish()
        except BaseException as caught:  # noqa: BLE001 - raised again in the thread that waits
            error = caught
        with self._changed:
            self._under_way -= 1
            self._error = self._error or error
            self._changed.notify_all()
