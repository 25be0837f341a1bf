"""Networks in memory, loaded when they are first asked; the least lately used makes room."""

import threading
from collections import OrderedDict
from typing import Final

from prsm.core.errors import ConfigError
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import ModelFolder

MEMORY_PER_WEIGHT_BYTE: Final = 3
"""What a loaded network holds for each byte of its file, about: measured 2.7 to 2.9 (docs/benchmarks.md)."""


class Shelf:
    """Engines that together hold at most ``limit_bytes``, but for those still writing an answer when put away."""

    def __init__(self, limit_bytes: int, *, threads: int = 1) -> None:
        self._limit_bytes = limit_bytes
        self._threads = threads
        self._lock = threading.Lock()
        self._engines: OrderedDict[ModelFolder, Engine] = OrderedDict()

    @property
    def held(self) -> tuple[ModelFolder, ...]:
        """What is in memory, the least lately used first."""
        return tuple(self._engines)

    def check(self, model: ModelFolder) -> None:
        """Raises ConfigError where ``model`` alone would take more than there may be."""
        if _memory(model) > self._limit_bytes:
            raise ConfigError(
                f"{model.path} needs {_memory(model)} bytes of memory, and teachers may take {self._limit_bytes}.",
                remedy="Raise teachers_memory_bytes, or export the teacher with --int8.",
            )

    def engine(self, model: ModelFolder) -> Engine:
        """The engine of ``model``; loading one keeps others waiting. Raises ConfigError as ``ModelFolder.weights``."""
        with self._lock:
            engine = self._engines.pop(model, None)
            if engine is None:
                self.check(model)
                while sum(map(_memory, self._engines)) + _memory(model) > self._limit_bytes:
                    self._engines.popitem(last=False)
                engine = Engine(model.shape, model.weights(), threads=self._threads)
            self._engines[model] = engine
            return engine


def _memory(model: ModelFolder) -> int:
    return MEMORY_PER_WEIGHT_BYTE * model.weights_bytes
