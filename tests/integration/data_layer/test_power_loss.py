"""The power goes at any moment of an add, a fetch, a renewal or a removal, and the disk keeps what it likes.

Whatever it keeps, each object that can be seen is whole, and each that somebody was told of is there.
"""

import sys
from pathlib import Path

import pytest
from tests.support.power_loss import Disk, can_trace, traced

from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.object_index import kind_on_disk
from prsm.data_layer.store.scrub import scrub

pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not here, or may not watch")

PROGRAM = """
import io, os, sys
from pathlib import Path
from prsm.data_layer.codec.unixfs_dag import Profile
from prsm.data_layer.store.ingest import Intake
from prsm.data_layer.store.object_files import ObjectFiles, Verified
from prsm.data_layer.store.object_index import read_block, read_index
from prsm.data_layer.store.parts import begin

profile = Profile("tiny", chunk_bytes=64, max_links=3)

def say(word, cid):
    os.write(2, f"{word} {cid}\\n".encode())

def take_in(files, number, **how):
    with Intake(files, profile) as intake:
        return intake.file(io.BytesIO(bytes([number]) * (number * 40)).readinto, **how).cid

def take_in_tree(files):
    items = [(f"{number}/{number}", io.BytesIO(bytes([number]) * 50).readinto) for number in range(5)]
    with Intake(files, profile) as intake:
        return [each.cid for each in intake.tree(items)]

def fetch(files, there, cid, **how):
    blocks = {place.cid: read_block(there, cid, place) for place in read_index(there, cid).places()}
    with begin(files, cid) as part:
        while part.wanted:
            for wanted in part.wanted:
                part.feed(Verified(wanted, blocks[wanted]))
        for leaf in part.missing():
            part.put(leaf, Verified(leaf.cid, blocks[leaf.cid]))
        part.publish(**how)

there = ObjectFiles(Path(sys.argv[2]), keep_free_bytes=0)
folder = Path(sys.argv[1])
"""
DEEDS = {
    "add": "for n in (1, 9): say('KEPT', take_in(files, n))",
    "add a tree": "for cid in take_in_tree(files): say('KEPT', cid)",
    "fetch": "for cid in (take_in(there, 1), take_in(there, 9)): fetch(files, there, cid); say('KEPT', cid)",
    "renew": """
for n in (1, 9):
    say('KEPT', take_in(files, n))
    take_in(files, n, replace=True)
    fetch(files, there, take_in(there, n), replace=True)
""",
    "remove": """
for n in (1, 9):
    cid = take_in(files, n)
    say('GONE', cid)
    files.remove(cid)
    say('KEPT', take_in(files, n))
""",
}
OPEN = "files = ObjectFiles(folder / 'storage', keep_free_bytes=0)\n"


def program(deed: str, tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM + OPEN + deed, str(tmp_path / "disk"), str(tmp_path / "there")]


def check(disk: Disk, after: str, scratch: Path) -> int:
    """Whether every state that the disk may be in now holds what was promised; answers how many there are."""
    kept: dict[str, None] = {}
    for word, cid in (line.split() for line in disk.said):
        kept[cid] = None
        if word == "GONE":
            del kept[cid]
    count = 0
    for state in disk.states(seed=len(after)):
        count += 1
        disk.materialize(state, scratch)
        files = ObjectFiles(scratch / "storage", keep_free_bytes=0)
        seen = {found.cid: kind_on_disk(files, found.cid) for found in files.listing()}
        for cid, kind in seen.items():
            assert kind is None or scrub(files, cid).whole, f"after {after}: {cid} is not whole"
        lost = [cid for cid in kept if seen.get(Cid.parse(cid)) is None]
        assert not lost, f"after {after}: {lost} were promised"
    return count


@pytest.mark.parametrize("deed", DEEDS)
def test_nothing_that_is_seen_is_not_whole_and_nothing_that_was_promised_is_lost(deed: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    trace = traced(program(DEEDS[deed], tmp_path), tmp_path / "trace")
    disk = Disk(tmp_path / "disk", "storage/objects")
    states = sum(check(disk, moment, tmp_path / "scratch") for moment in disk.moments(trace))
    assert states > 40
    assert any(line.startswith("KEPT") for line in disk.said)


@pytest.mark.parametrize("when", range(5, 12))
def test_who_finds_what_a_killed_process_published_may_promise_it(when: int, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", "storage/objects")
    killed = traced(program(DEEDS["add"], tmp_path), tmp_path / "killed", f"fsync:signal=SIGKILL:when={when}")
    after = traced(program(DEEDS["add"], tmp_path), tmp_path / "after")
    assert sum(check(disk, moment, tmp_path / "scratch") for moment in disk.moments(killed)) > 0
    assert sum(check(disk, moment, tmp_path / "scratch") for moment in disk.moments(after)) > 0
    assert any(line.startswith("KEPT") for line in disk.said)
