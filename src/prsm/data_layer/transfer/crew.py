"""A few threads that do one piece of work together, and end together."""

import mmap
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.transfer.cancellation import Cancellation

Tool = TypeVar("Tool")


def block_buffers(count: int) -> list[memoryview]:
    """Room for a block each. Pages that no block reaches are never made."""
    return [memoryview(mmap.mmap(-1, MAX_BLOCK_BYTES)) for _ in range(count)]


def work_together(work: Callable[[Tool], None], tools: Sequence[Tool], stop: Cancellation) -> None:
    """Call ``work`` in one thread for each tool (its buffer, say) and wait for all.

    The first that fails sets ``stop``, which makes the others end; what it raised is raised here when all have ended.
    With one tool no thread is started.
    """
    if len(tools) == 1:
        work(tools[0])
        return
    failures: list[BaseException] = []

    def run(tool: Tool) -> None:
        try:
            work(tool)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)
            stop.set()

    threads: list[threading.Thread] = []
    try:
        for tool in tools:
            thread = threading.Thread(target=run, args=(tool,), name="transfer")
            thread.start()
            threads.append(thread)
    except BaseException:
        stop.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
