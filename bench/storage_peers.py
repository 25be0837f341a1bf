"""The peers of ``bench.storage``: other people's programs that do the same work, run and counted here.

CPU is user and system time of the program's process (``wait4``), so starting it counts; that is a few milliseconds.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def run_counted(command: Sequence[str | Path], output: IO[bytes] | int = subprocess.DEVNULL) -> dict[str, float]:
    """Run a program to its end; its wall and CPU seconds. Raises RuntimeError when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return {"wall_s": time.perf_counter() - start, "cpu_s": usage.ru_utime + usage.ru_stime}


def openssl_sha256_bytes_s(size_bytes: int, seconds: int) -> float:
    """Bytes per CPU second that ``openssl speed`` reaches on one thread (its own figures count user time)."""
    command = ["openssl", "speed", "-mr", "-seconds", str(seconds), "-bytes", str(size_bytes), "-evp", "sha256"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"^\+F:\d+:sha256:([\d.]+)", done.stdout, re.MULTILINE | re.IGNORECASE)
    if match is None:
        raise RuntimeError(f"openssl said: {done.stdout[-500:]}")
    return float(match[1])


def dd_durable(source: Path, target: Path, piece: str) -> dict[str, float]:
    """Copy with ``dd`` in pieces of this size and wait until the data is on the disk."""
    return run_counted(["dd", f"if={source}", f"of={target}", f"bs={piece}", "conv=fdatasync"])


def curl_blocks(urls: Sequence[str], folder: Path, *, durable: bool) -> dict[str, float]:
    """One curl over one connection that writes all blocks, in order, to one file: the object's own bytes."""
    config, target = folder / "curl.conf", folder / "curl.out"
    config.write_text("".join(f'url = "{url}"\n' for url in urls))
    with target.open("wb") as file:
        figures = run_counted(["curl", "-sf", "-K", config], output=file)
    if durable:
        synced = run_counted(["sync", "-d", target])
        figures = {name: figures[name] + synced[name] for name in figures}
    figures["bytes"] = target.stat().st_size
    target.unlink()
    return figures


def curl_parallel(urls: Sequence[str], folder: Path, parallel: int) -> dict[str, float]:
    """One curl with several connections at once; each block goes to a file of its own."""
    config, target = folder / "curl.conf", folder / "blocks"
    target.mkdir()
    config.write_text("".join(f'url = "{url}"\noutput = "{target}/{number}"\n' for number, url in enumerate(urls)))
    figures = run_counted(["curl", "-sf", "-Z", "--parallel-max", str(parallel), "-K", config])
    figures["bytes"] = sum(path.stat().st_size for path in target.iterdir())
    for path in target.iterdir():
        path.unlink()
    target.rmdir()
    return figures


@contextmanager
def even_start(folder: Path, size_bytes: int) -> Iterator[None]:
    """Begin with nothing of an earlier measurement on its way to the disk, and with memory that is really there."""
    os.sync()
    warm(folder, size_bytes)
    yield
    for path in sorted(folder.rglob("*"), reverse=True):
        path.chmod(0o700)
        path.rmdir() if path.is_dir() else path.unlink()


def warm(folder: Path, size_bytes: int) -> None:
    """Touch as much memory as will be written, by a file that goes again.

    A virtual machine gives free memory back to its host within two seconds, and whoever touches it next pays for
    getting it again, up to 2 s of system time per GiB. So this comes right before the clock starts.
    """
    file_of_zeros, zeros = folder / "warm", bytes(256 * 1024)
    with file_of_zeros.open("wb", buffering=0) as file:
        for _ in range(size_bytes // len(zeros)):
            file.write(zeros)
    file_of_zeros.unlink()
