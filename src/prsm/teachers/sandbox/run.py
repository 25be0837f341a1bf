"""Runs a program that is not trusted, within walls that the kernel holds, and tells how it ended.

The program gets a new temporary folder, an environment of three names, pipes, and nothing else (see ``walls.py``).
Where a wall cannot be built, ``SandboxRefused`` says which, and nothing was run.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from prsm.teachers.sandbox import walls
from prsm.teachers.sandbox.seams import Ended, Limits, Outcome, SandboxRefused

PYTHON: Final = (sys.executable, "-I", "-S", "-B")
"""The interpreter of this node, without its packages."""
_WALLS: Final = str(Path(walls.__file__).resolve())
_LOOK_EVERY_S: Final = 0.05
_BUILT_WITHIN_S: Final = 30.0
_NOTIFICATION_BYTES: Final = 80
_RECEIVE: Final = 0xC0502100
_ATTEMPTS: Final[Mapping[int, Ended]] = {
    number: "network" if what == "network" else "process"
    for what, calls in walls.NOTIFIED.items()
    for number in calls.values()
}


def run(
    command: Sequence[str], limits: Limits, *, stdin: bytes = b"", files: Mapping[str, bytes] | None = None
) -> Outcome:
    """Run ``command`` (its first word a whole path) on ``stdin`` in a folder that holds ``files`` by plain names.

    Raises SandboxRefused where this machine cannot hold it, ValueError for a file's name with a folder in it.
    """
    with tempfile.TemporaryDirectory(prefix="prsm-sandbox-") as name:
        folder = Path(name).resolve()
        for file, content in (files or {}).items():
            if Path(file).name != file:
                raise ValueError("a file of a sandbox has a plain name")
            (folder / file).write_bytes(content)
        with _started(command, limits, folder) as (process, listener):
            watch = _Watch(limits, folder, listener, time.monotonic() + limits.wall_s)
            ended = watch.until_ended(process, stdin)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        return Outcome(ended or _named(status, watch.stderr), status, bytes(watch.stdout), bytes(watch.stderr))


@dataclass(slots=True)
class _Watch:
    """What one running program said so far, and what it is stopped for."""

    limits: Limits
    folder: Path
    listener: int
    ends_s: float
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)

    def until_ended(self, process: subprocess.Popen[bytes], stdin: bytes) -> Ended | None:
        """Feed it and hear it out until both its outputs are closed; what it must be stopped for, if anything."""
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a program is watched through three pipes")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self.stdout)
            selector.register(process.stderr, selectors.EVENT_READ, self.stderr)
            selector.register(self.listener, selectors.EVENT_READ)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            left, hearing = memoryview(stdin), 2
            while hearing:
                for key, _ in selector.select(_LOOK_EVERY_S):
                    if key.fd == self.listener:
                        if attempted := self._attempted():
                            return attempted
                        selector.unregister(self.listener)
                    elif key.fileobj is process.stdin:
                        left = _written(process.stdin, left)
                        if not left:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif not _heard(key.fd, key.data):
                        selector.unregister(key.fileobj)
                        hearing -= 1
                if over := self._over():
                    return over
        return None

    def _attempted(self) -> Ended | None:
        """What the program tried and must not; None where the listener only tells of its end."""
        notification = bytearray(_NOTIFICATION_BYTES)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, notification)
        except OSError:  # nobody is left who asks
            return None
        return _ATTEMPTS[struct.unpack_from("=i", notification, 16)[0]]

    def _over(self) -> Ended | None:
        """Which limit is passed of those that only we can watch."""
        excess = len(self.stdout) + len(self.stderr) - self.limits.output_bytes
        if excess > 0:
            longer = max(self.stdout, self.stderr, key=len)
            del longer[max(len(longer) - excess, 0) :]
            return "output"
        if time.monotonic() > self.ends_s:
            return "wall"
        return "folder" if _size_bytes(self.folder) > self.limits.folder_bytes else None


@contextlib.contextmanager
def _started(command: Sequence[str], limits: Limits, folder: Path) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The program within its walls, and the listener of its filter; it has ended when this is left."""
    if sys.platform != "linux":
        raise SandboxRefused("The sandbox needs Linux.", code="sandbox_unavailable")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(  # noqa: S603 - the command is the caller's, and it is walled in
            [*PYTHON, _WALLS, str(theirs.fileno())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=folder, env={}, pass_fds=(theirs.fileno(),), start_new_session=True,
        )  # fmt: skip
        theirs.close()
        with process:
            try:
                ours.settimeout(_BUILT_WITHIN_S)
                ours.send(json.dumps(_spec(command, limits, folder)).encode())
                listener = _listener(ours)
                try:
                    yield process, listener
                finally:
                    os.close(listener)
            finally:
                process.kill()


def _listener(channel: socket.socket) -> int:
    """The listener that the walls hand over when they stand. Raises SandboxRefused with what could not be built."""
    try:
        said, listeners, _, _ = socket.recv_fds(channel, 4096, 1)
    except OSError as error:
        raise SandboxRefused(f"The sandbox did not begin: {error}.") from error
    if not listeners:
        raise SandboxRefused(f"Nothing was run: {said.decode() or 'the sandbox ended before its walls stood'}.")
    return listeners[0]


def _spec(command: Sequence[str], limits: Limits, folder: Path) -> dict[str, Any]:
    prefixes = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)}
    return {
        "command": list(command),
        "environment": {"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"},
        "folder": str(folder),
        "readable": ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", *sorted(prefixes)],
        "limits": {
            "CPU": limits.cpu_s,
            "AS": limits.memory_bytes,
            "FSIZE": max(limits.folder_bytes, 1),
            "NOFILE": limits.open_files,
            "CORE": 0,
        },
    }


def _named(status: int, stderr: bytes | bytearray) -> Ended:
    """How a program ended that was not stopped. That memory lacked is known where Python says so."""
    if status in {-signal.SIGXCPU, -signal.SIGKILL}:  # we did not kill it: past the soft limit comes the hard one
        return "cpu"
    if status == -signal.SIGXFSZ:
        return "folder"
    if status and stderr.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"):
        return "memory"
    return "failed" if status else "done"


def _written(pipe: IO[bytes], left: memoryview) -> memoryview:
    """What is left of the input; nothing where nobody reads it any more."""
    try:
        return left[os.write(pipe.fileno(), left[: 1 << 16]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]


def _heard(output: int, said: bytearray) -> bool:
    """Read once; whether there may be more."""
    read = os.read(output, 1 << 16)
    said += read
    return bool(read)


def _size_bytes(folder: Path) -> int:
    """What a folder holds, also where it changes meanwhile."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, file)).st_size  # noqa: PTH118 - many, often
    return total
