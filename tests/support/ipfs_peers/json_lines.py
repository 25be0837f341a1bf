"""A program in a child process that is asked by JSON lines: one object a line in, one out, matched by ``id``.

The child ends when its standard input does, so it does not outlive a test session that was killed.
"""

import json
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_END_S = 15


class PeerError(Exception):
    """What the program answered instead of a result."""


class JsonLinesProcess:
    """A started program. ``ask`` may be called from several threads."""

    def __init__(self, command: Sequence[str | Path], *, log: Path) -> None:
        """Start it; what it says on standard error goes to ``log``."""
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=log.parent,  # libraries may drop files of their own
            )
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._asked = 0
        self._reader = threading.Thread(target=self._read, name=f"answers of {self._process.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, method: str, *, timeout_s: float = 60, **arguments: object) -> Any:
        """The result of one call. Raises PeerError with the program's own words, TimeoutError."""
        with self._lock:
            self._asked += 1
            answer = self._waiting[self._asked] = Future()
            if self._process.poll() is not None:
                raise PeerError(f"The process ended with {self._process.returncode}: {self._last_words()}")
            line = json.dumps({"id": self._asked, "method": method, "arguments": arguments})
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            raise TimeoutError(f"No answer to {method} within {timeout_s} s.") from None

    def close(self) -> None:
        """End it: by the end of its input, and by force where that does not do."""
        self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise PeerError(f"It did not end by itself: {self._last_words()}") from None
        finally:
            self._reader.join(_END_S)
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"])
            if "error" in answer:
                waiting.set_exception(PeerError(answer["error"]))
            else:
                waiting.set_result(answer["result"])
        for waiting in self._waiting.values():
            waiting.set_exception(PeerError(f"The process ended: {self._last_words()}"))

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-1000:]
