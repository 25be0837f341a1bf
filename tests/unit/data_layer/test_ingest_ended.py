"""Ingest that is ended from outside: kill -9 at any moment, and a disk that is full."""

import io
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.store.ingest import Intake
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import kind_on_disk
from prsm.data_layer.store.scrub import scrub

ROUNDS = int(os.environ.get("PRSM_TEST_INGEST_KILLS", "12"))

# Objects of many sizes, each removed again by the next round, so that publishing never stops.
WRITER = """
import io, random, sys
from pathlib import Path
from prsm.data_layer.store.ingest import Intake
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.codec.unixfs_dag import PROFILES
files = ObjectFiles(Path(sys.argv[1]), keep_free_bytes=0)
draw = random.Random(int(sys.argv[2]))
print("ready", flush=True)
with Intake(files, PROFILES["kubo-v1"]) as intake:
    while True:
        size = draw.choice((0, 1, 1000, 262145, 3_000_000))
        stored = intake.file(io.BytesIO(draw.randbytes(size)).readinto)
        if draw.random() < 0.5:
            stored = intake.tree([("one", io.BytesIO(draw.randbytes(size)).readinto), ("void", None)])[-1]
        if draw.random() < 0.5:
            files.remove(stored.cid)
"""


def check_visible(files: ObjectFiles) -> int:
    """Every object that anyone can see is whole; answers how many there are."""
    seen = 0
    for found in list(files.listing()):
        if kind_on_disk(files, found.cid) is None:
            assert found.payload_bytes is None
            continue
        assert scrub(files, found.cid).whole
        seen += 1
    return seen


def test_a_kill_leaves_nothing_visible_or_all_of_it(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    seen = 0
    for number in range(ROUNDS):
        argv = [sys.executable, "-c", WRITER, str(files.folder), str(number)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(random.Random(number).uniform(0, 0.4))
            writer.kill()
        seen = check_visible(files)
        files.sweep()
        assert list((files.folder / "incoming").iterdir()) == []
    assert seen > 0


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    script = """
import io, os, resource, sys
from pathlib import Path
from prsm.data_layer.store.ingest import ingest
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.seams import StorageFault
from prsm.data_layer.codec.unixfs_dag import PROFILES
files = ObjectFiles(Path(sys.argv[1]), keep_free_bytes=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
try:
    ingest(io.BytesIO(os.urandom(9_000_000)).readinto, files, PROFILES["unixfs-v1-2025"])
except StorageFault as fault:
    print(fault.fault, fault.code, bool(fault.remedy))
ingest(io.BytesIO(b"small enough").readinto, files, PROFILES["unixfs-v1-2025"])
"""
    folder = tmp_path / "storage"
    run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=True, text=True)
    assert run.stdout == "local_disk disk_full True\n"
    files = ObjectFiles(folder, keep_free_bytes=0)
    assert check_visible(files) == 1
    assert list((folder / "incoming").iterdir()) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    files = ObjectFiles(tmp_path / "storage", keep_free_bytes=0)
    left = 200

    def zeros(into: memoryview) -> int:
        nonlocal left
        left -= 1
        return len(into) if left >= 0 else 0

    with Intake(files, PROFILES["unixfs-v1-2025"]) as intake:
        intake.file(io.BytesIO(bytes(20 << 20)).readinto)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        intake.file(zeros)
    assert left < 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
