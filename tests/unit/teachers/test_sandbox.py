"""What a program in the sandbox can and cannot do, tried by programs that do it."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prsm.teachers.sandbox.run import PYTHON, run
from prsm.teachers.sandbox.seams import Limits, Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def _ran(code: str, stdin: bytes = b"", **limits: float) -> Outcome:
    return run([*PYTHON, "program.py"], Limits(**limits), stdin=stdin, files={"program.py": code.encode()})  # type: ignore[arg-type]


def test_a_program_reads_and_answers() -> None:
    outcome = _ran("import sys, json, threading\nprint(json.load(sys.stdin)['n'] + 1)\n", b'{"n": 41}')
    assert (outcome.ended, outcome.status, outcome.stdout, outcome.stderr) == ("done", 0, b"42\n", b"")


def test_much_input_is_read_while_it_answers() -> None:
    said = b"x" * 300_000
    outcome = _ran("import sys\nfor _ in range(3): sys.stdout.write(sys.stdin.read(100_000))", said)
    assert (outcome.ended, outcome.stdout) == ("done", said)


def test_a_program_that_fails_says_why() -> None:
    outcome = _ran("raise SystemExit('no')")
    assert (outcome.ended, outcome.status, outcome.stderr) == ("failed", 1, b"no\n")


def test_its_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRSM_SECRET", "hidden")
    assert _ran("import os; print(sorted(os.environ))").stdout == b"['HOME', 'LANG', 'TMPDIR']\n"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', {port}))",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/x')",
        "import socket\ntry: socket.socket()\nexcept OSError: pass\nprint('went on')",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/')",
    ],
    ids=["tcp", "unix", "caught", "http"],
)
def test_an_attempt_at_the_network_ends_it(code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        outcome = _ran(code.replace("{port}", str(server.getsockname()[1])))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert (outcome.ended, outcome.stdout) == ("network", b"")


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import multiprocessing as m; m.get_context('fork').Process(target=print).start()",
    ],
    ids=["fork bomb", "subprocess", "multiprocessing"],
)
def test_a_process_of_its_own_ends_it(code: str) -> None:
    assert _ran(code).ended == "process"


def test_threads_are_allowed() -> None:
    code = "import threading\nt = threading.Thread(target=print, args=('there',)); t.start(); t.join()"
    assert _ran(code).stdout == b"there\n"


def test_memory_is_bounded() -> None:
    outcome = _ran("x = []\nwhile True: x.append(bytearray(1 << 20))", memory_bytes=1 << 27)
    assert outcome.ended == "memory"


def test_an_endless_loop_ends_by_its_processor_time() -> None:
    began = time.monotonic()
    outcome = _ran("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", cpu_s=1, wall_s=60)
    assert outcome.ended == "cpu"
    assert time.monotonic() - began < 50


def test_a_program_that_only_waits_ends_by_the_clock() -> None:
    assert _ran("import time; time.sleep(60)", wall_s=1.0).ended == "wall"


def test_output_is_bounded() -> None:
    outcome = _ran("while True: print('x' * 10_000)", output_bytes=100_000)
    assert outcome.ended == "output"
    assert len(outcome.stdout) + len(outcome.stderr) == 100_000


@pytest.mark.parametrize(
    "code",
    [
        "open('big', 'wb').write(bytes(1 << 21))",
        "import itertools\nfor n in itertools.count(): open(str(n), 'wb').write(bytes(1 << 16))",
    ],
    ids=["one file", "many files"],
)
def test_its_folder_is_bounded(code: str) -> None:
    assert _ran(code, folder_bytes=1 << 20).ended in {"folder", "failed"}


def test_it_writes_in_its_folder_and_nothing_stays(tmp_path: Path) -> None:
    outcome = _ran("import os; open('x', 'w').write('1'); os.mkdir('d'); os.rename('x', 'd/y'); print(os.getcwd())")
    assert outcome.ended == "done"
    assert not Path(outcome.stdout.decode().strip()).exists()


@pytest.mark.parametrize(
    "code",
    [
        "open('{outside}/secret').read()",
        "open('{outside}/new', 'w')",
        "import os; os.listdir('{outside}')",
        "import os; os.link('{outside}/secret', 'mine')",
        "import os; os.symlink('{outside}/secret', 'mine'); open('mine').read()",
        "import os; os.unlink('{outside}/secret')",
        "import os; os.truncate('{outside}/secret', 0)",
        "import os; os.chmod('{outside}/secret', 0o777)",
        "import os; os.utime('{outside}/secret', (0, 0))",
        "import os; os.rename('{outside}/secret', '{outside}/gone')",
        "open('/etc/passwd').read()",
        "open('/proc/{pid}/environ', 'rb').read()",
        "import os; os.kill({pid}, 0)",
        "import os; os.kill(-1, 9)",
        "import os; os.kill(0, 9)",
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nassert l.unshare(0x10000000) == 0",
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nassert l.ptrace(16, {pid}, 0, 0) == 0",
        "import os; os.execv('{outside}/secret', ['x'])",
        "import os; os.memfd_create('x')",
    ],
)
def test_it_does_not_reach_outside(tmp_path: Path, code: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("#!/bin/sh\necho secret\n")
    secret.chmod(0o755)
    before = secret.stat()
    attempt = code.replace("{outside}", str(tmp_path)).replace("{pid}", str(os.getpid())).replace("\n", "\n    ")
    outcome = _ran(f"try:\n    {attempt}\nexcept (OSError, AssertionError): print('held')\nelse: print('escaped')")
    assert (outcome.ended, outcome.stdout) == ("done", b"held\n")
    after = secret.stat()
    assert (after.st_mode, after.st_mtime, after.st_size) == (before.st_mode, before.st_mtime, before.st_size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


_SIGNALS = """
import ctypes, fcntl, os, socket, struct
def call(number, *arguments):
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def sends(reader, writer):
    fcntl.fcntl(reader, fcntl.F_SETFL, fcntl.fcntl(reader, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(writer, b"x")
pid, pipe, pair = {pid}, os.pipe(), [end.detach() for end in socket.socketpair()]
info = struct.pack("=iiii", 9, 0, -1, 0) + bytes(112)
try:
    {attempt}
    print("escaped")
except PermissionError:
    print("held")
"""


@pytest.mark.parametrize(
    "attempt",
    [
        "fcntl.fcntl(pipe[0], 8, pid); sends(*pipe)",
        "fcntl.fcntl(pipe[0], 15, struct.pack('=ii', 1, pid)); sends(*pipe)",
        "fcntl.fcntl(pipe[0], 10, 9)",
        "fcntl.ioctl(pair[0], 0x8901, struct.pack('=i', pid)); sends(*pair)",
        "fcntl.ioctl(pair[0], 0x8902, struct.pack('=i', pid)); sends(*pair)",
        "call(129, pid, 9, info)",
        "call(297, pid, pid, 9, info)",
        "call(200, pid, 9)",
        "call(234, pid, pid, 9)",
        "call(434, pid, 0)",
        "call(424, 0, 9, None, 0)",
        "call(101, 16, pid, 0, 0)",
        "call(311, pid, None, 0, None, 0, 0)",
        "call(302, pid, 0, struct.pack('=qq', 0, 0), None)",
    ],
    ids=[
        *("F_SETOWN", "F_SETOWN_EX", "F_SETSIG", "FIOSETOWN", "SIOCSPGRP", "rt_sigqueueinfo", "rt_tgsigqueueinfo"),
        *("tkill", "tgkill", "pidfd_open", "pidfd_send_signal", "ptrace", "process_vm_writev", "prlimit64"),
    ],
)
def test_it_has_no_way_to_signal_another_process(attempt: str) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        try:
            outcome = _ran(_SIGNALS.format(pid=other.pid, attempt=attempt))
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.1)
        finally:
            other.kill()
    assert (outcome.ended, outcome.stdout, outcome.stderr) == ("done", b"held\n", b"")


def test_it_may_still_ask_of_its_files_what_it_needs() -> None:
    code = "import fcntl, os, termios\nr, w = os.pipe()\nos.set_blocking(r, False)\nos.write(w, b'abc')\n"
    code += "print(int.from_bytes(fcntl.ioctl(r, termios.FIONREAD, bytes(4)), 'little'), fcntl.fcntl(r, fcntl.F_GETFD))"
    assert _ran(code).stdout == b"3 1\n"


def test_many_run_side_by_side() -> None:
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda n=n: outcomes.append(_ran(f"print({n})"))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.stdout for outcome in outcomes) == [b"0\n", b"1\n", b"2\n", b"3\n"]
