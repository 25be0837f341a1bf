"""A trainer that is killed while it names a checkpoint anew leaves a whole one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prsm.teachers.training.run_folder import STATE_FILE, RunFolder

_FILES = ("a.safetensors", "b.safetensors", STATE_FILE, "z.safetensors")

_TRAINER = """
import os, signal, sys
from pathlib import Path
from prsm.teachers.training.run_folder import RunFolder

folder, deadly, left = RunFolder(Path(sys.argv[1])), sys.argv[2], [2]

def killed(event, _):
    if event == deadly:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

def write(what):
    with folder.checkpoint(1) as path:
        for name in sys.argv[3:]:
            (path / name).write_text(what)

with folder.held():
    write("old")
    sys.addaudithook(killed)
    write("new")
"""


@pytest.mark.parametrize("deadly", ["os.remove", "os.rename"])
def test_a_kill_while_a_checkpoint_is_replaced_leaves_a_whole_one(tmp_path: Path, deadly: str) -> None:
    done = subprocess.run([sys.executable, "-c", _TRAINER, str(tmp_path), deadly, *_FILES], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    folder = RunFolder(tmp_path)
    with folder.held():
        latest = folder.latest()
        assert latest is not None
        assert sorted(path.name for path in latest.iterdir()) == sorted(_FILES)
        assert len({path.read_text() for path in latest.iterdir()}) == 1
        assert [path.name for path in latest.parent.iterdir()] == ["step-1"]


def test_what_a_killed_trainer_left_of_a_model_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".model-1").mkdir()
    with RunFolder(tmp_path).held():
        assert not (tmp_path / ".model-1").exists()
