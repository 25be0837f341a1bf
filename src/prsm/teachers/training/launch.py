"""Starts the processes of one run on this machine and waits for them, as ``torchrun`` would.

They meet at a store of this process, so that no port is guessed; a signal goes to all of them, and they stop by
themselves when this process is gone. Several machines are ``torchrun``'s business.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

_LIFELINE: Final = "PRSM_LAUNCHER_LIFELINE"
_GRACE_S: Final = 30.0


def threads_each(processes: int, threads: int) -> int:
    """How many threads a process may compute with: the plan's, but together no more than there are cores."""
    return max(1, min(threads, len(os.sched_getaffinity(0)) // processes))


def launch(command: Sequence[str], processes: int, threads: int) -> int:
    """Run ``command`` so often, each told its rank by the environment; the first exit code that is not 0."""
    # Heavy: only for several processes.
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage] - its documented place

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    lifeline, held = os.pipe()
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(threads_each(processes, threads)),
        _LIFELINE: str(lifeline),
    }
    workers = [_worker(command, rank, shared, lifeline) for rank in range(processes)]
    os.close(lifeline)
    before = {number: signal.signal(number, _to_all(workers)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _waited(workers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(held)


def watch_launcher() -> None:
    """In a started process: stop as by SIGTERM once the launcher is gone, however it went."""
    if _LIFELINE not in os.environ:
        return
    lifeline = int(os.environ[_LIFELINE])

    def wait() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _worker(command: Sequence[str], rank: int, shared: Mapping[str, str], lifeline: int) -> subprocess.Popen[bytes]:
    told = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    # A session of its own: Ctrl-C reaches it once, through the launcher.
    return subprocess.Popen(command, env=told, pass_fds=[lifeline], start_new_session=True)  # noqa: S603


def _to_all(workers: Sequence[subprocess.Popen[bytes]]) -> Any:
    def forward(number: int, _: object) -> None:
        for worker in workers:
            worker.send_signal(number)

    return forward


def _waited(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; when one fails the others, which wait for it, are told to stop, and killed where they do not."""
    failed, deadline = 0, 0.0
    while None in (codes := [worker.poll() for worker in workers]):
        time.sleep(0.05)
        if not failed and (wrong := [code for code in codes if code not in (None, 0, 130)]):
            failed, deadline = wrong[0], time.monotonic() + _GRACE_S
            print(f"A process of the run ended with {failed}; the others are stopped.", file=sys.stderr)
            _to_all(workers)(signal.SIGTERM, None)
        if failed and time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
    failed = failed or next((code for code in codes if code not in (0, 130)), 0)
    if failed:
        return failed if failed > 0 else 1
    return 130 if 130 in codes else 0
