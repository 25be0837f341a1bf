"""Runs first in the sandbox's process: gives up all it must not have, then becomes the program (Linux on x86-64).

Standard library only, for it is started by its path with ``python -I -S``. It reads one JSON object from the socket
that it is given, builds the walls, hands the listener of its system call filter back, and calls ``execve``. It says on
the socket what it could not build; then nothing is run.

- Landlock (kernel 5.13): no file but the interpreter's and the system's libraries, read only, and the work folder.
- seccomp: no socket, no further process (threads are allowed), no signal to others, no change of modes, owners or times
  of files (Landlock does not hold these), nothing that is newer than this list. Attempts at a socket or a process are
  reported to the listener, and whoever listens ends the program.
- capabilities dropped and ``no_new_privs`` set, so that a root's node is no exception; resource limits.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import socket
import struct
import sys
from typing import Any, Final

NOTIFIED: Final = {
    "network": {"socket": 41, "io_uring_setup": 425},
    "process": {"fork": 57, "vfork": 58, "clone": 56},
}
_DENIED: Final = {
    "shmget": 29, "semget": 64, "msgget": 68, "truncate": 76, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93,
    "lchown": 94, "ptrace": 101, "rt_sigqueueinfo": 129, "utime": 132, "setpriority": 141, "sched_setparam": 142,
    "sched_setscheduler": 144, "chroot": 161, "mount": 165, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "sched_setaffinity": 203, "utimes": 235,
    "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "inotify_init": 253,
    "fchownat": 260, "futimesat": 261, "fchmodat": 268, "unshare": 272, "utimensat": 280, "inotify_init1": 294,
    "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "sched_setattr": 314,
    "memfd_create": 319, "bpf": 321, "userfaultfd": 323, "pidfd_send_signal": 424, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "memfd_secret": 447, "process_mrelease": 448, "fchmodat2": 452,
}  # fmt: skip
_ONLY_ITSELF: Final = {"kill": 62, "tkill": 200, "tgkill": 234}
_NOT_FOR: Final = {
    "fcntl": (72, {"F_SETOWN": 8, "F_SETSIG": 10, "F_SETOWN_EX": 15}),
    "ioctl": (16, {"FIOSETOWN": 0x8901, "SIOCSPGRP": 0x8902}),
}
"""Commands by which a pipe or a socket sends any signal to any process as soon as something is to be read."""
_CLONE3: Final = 435
_NEWEST: Final = 462
"""mseal (Linux 6.10): what is numbered above is not known here. The 32-bit calls of x32 are above it too."""

_ARCHITECTURE: Final = 0xC000003E
_ALLOW, _NOTIFY, _ERROR, _KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_THREAD: Final = 0x00010000

_READ: Final = 0b1101
"""Landlock's rights to execute, to read files and to list folders."""
_FOLDER: Final = 0x7FFF & ~(1 << 6 | 1 << 9 | 1 << 11)
"""All rights but to make devices and sockets."""
_ON_FILES: Final = 0b111 | 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)


class _Missing(Exception):
    pass


def main(channel: socket.socket) -> None:
    """Build the walls and become the program; say on ``channel`` what failed."""
    spec: dict[str, Any] = json.loads(channel.recv(1 << 16))
    try:
        _check_machine()
        _limit(spec["limits"])
        _give_up_privileges()
        _landlock(spec["readable"], spec["folder"])
        listener = _seccomp()
        socket.send_fds(channel, [b"ready"], [listener])
        os.close(listener)
    except (_Missing, OSError) as error:
        channel.send(str(error).encode())
        return
    channel.close()
    os.execve(spec["command"][0], spec["command"], spec["environment"])  # noqa: S606 - this is what it is for


def _check_machine() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise _Missing("the sandbox knows the system calls of Linux on x86-64 only")


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value + (name == "CPU")))


def _give_up_privileges() -> None:
    _called(_libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    header = struct.pack("=Ii", 0x20080522, 0)
    _called(_libc.capset(header, bytes(24)), "dropping capabilities")


def _landlock(readable: list[str], folder: str) -> None:
    version = _syscall(444, None, 0, 1)
    if version < 1:
        raise _Missing("the kernel has no Landlock, so files outside the folder could be reached")
    handled = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}.get(version, 0xFFFF)
    ruleset = _called(_syscall(444, struct.pack("=Q", handled), 8, 0), "a Landlock ruleset")
    for path, rights in [*((path, _READ) for path in readable), ("/dev/null", 0b110), (folder, _FOLDER)]:
        with contextlib.suppress(FileNotFoundError):  # not every system has every folder
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = rights & handled & (-1 if os.path.isdir(path) else _ON_FILES)  # noqa: PTH112 - a bare start
            rule = struct.pack("=Qi", allowed, opened)
            _called(_syscall(445, ruleset, 1, rule, 0), f"a Landlock rule of {path}")
            os.close(opened)
    _called(_syscall(446, ruleset, 0), "Landlock")
    os.close(ruleset)


def _seccomp() -> int:
    """Install the filter; returns its listener."""
    program = _filter(os.getpid())
    code = ctypes.create_string_buffer(program)
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(code))
    return _called(_syscall(317, 1, 1 << 3, header), "a system call filter with a listener")


def _filter(pid: int) -> bytes:
    """Classic BPF over ``struct seccomp_data``: number at 0, architecture at 4, low half of argument n at 16 + 8 n."""
    steps = [_step(_LOAD, 4), _step(_EQUAL, _ARCHITECTURE, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    steps += [_step(_GREATER, _NEWEST, 0, 1), _step(_RETURN, _ERROR | errno.ENOSYS)]
    steps += _when(
        _CLONE3, [_step(_RETURN, _ERROR | errno.ENOSYS)]
    )  # its flags cannot be read here: libraries try clone
    refused = _step(_RETURN, _ERROR | errno.EPERM)
    for number in _DENIED.values():
        steps += _when(number, [refused])
    own = [_step(_LOAD, 16), _step(_EQUAL, pid, 0, 1), _step(_RETURN, _ALLOW), refused]
    for number in _ONLY_ITSELF.values():
        steps += _when(number, own)
    for number, commands in _NOT_FOR.values():
        wrong = [step for command in commands.values() for step in _when(command, [refused])]
        steps += _when(number, [_step(_LOAD, 24), *wrong, _step(_RETURN, _ALLOW)])
    thread = [_step(_LOAD, 16), _step(_ANY_BIT, _THREAD, 0, 1), _step(_RETURN, _ALLOW), _step(_RETURN, _NOTIFY)]
    for calls in NOTIFIED.values():
        for name, number in calls.items():
            steps += _when(number, thread if name == "clone" else [_step(_RETURN, _NOTIFY)])
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _when(number: int, steps: list[bytes]) -> list[bytes]:
    return [_step(_EQUAL, number, 0, len(steps)), *steps]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _syscall(number: int, *arguments: Any) -> int:
    return _libc.syscall(ctypes.c_long(number), *arguments)


def _called(result: int, what: str) -> int:
    if result < 0:
        raise _Missing(f"the kernel refuses {what}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
