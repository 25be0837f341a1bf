"""js-ipfs 0.66, which speaks Kubo's RPC, as a daemon in a process of its own that answers from its own blocks only.

It is heavy and no longer developed, so tests with it run only where ``PRSM_TEST_JS_IPFS=1`` says so. Where it differs
from Kubo: a block it lacks is status 500 with "Not Found"; ``block/put`` overlooks ``cid-codec`` and takes ``format``
with ``version``; CIDs are answered in base58btc unless ``cid-base=base32`` is asked; ``dag/import`` has no ``stats``.
"""

import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.npm import install, node

_FOLDER = Path(__file__).parent / "js_ipfs"
_START_S = 60
_END_S = 15


@contextmanager
def running() -> Iterator[str]:
    """The base URL of an empty daemon's RPC (``/api/v0/...`` stands under it). Skips the test where it is unwanted."""
    if os.environ.get("PRSM_TEST_JS_IPFS") != "1":
        pytest.skip("js-ipfs is started with PRSM_TEST_JS_IPFS=1")
    install(_FOLDER)
    with tempfile.TemporaryFile() as log:
        command = [node(), _FOLDER / "daemon.mjs"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            started, _, _ = select.select([process.stdout], [], [], _START_S)
            url = process.stdout.readline().decode().strip() if started else ""
            log.seek(0)
            assert url, f"js-ipfs did not start: {log.read()[-2000:].decode()}"
            yield url
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
