"""Several processes train one network: the same weights in each, the same as one process would get, and none lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from safetensors.torch import load_file  # noqa: E402 - after the skip
from tests.support.small_training import Numbers, cross_entropy, network, plan  # noqa: E402 - needs torch

from prsm.teachers.training.launch import launch, threads_each  # noqa: E402 - after the skip
from prsm.teachers.training.loop import train  # noqa: E402 - needs torch
from prsm.teachers.training.run_folder import Ended, RunFolder  # noqa: E402 - after the skip

MODULE = "tests.support.small_training"
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def _alone(folder: Path, steps: int) -> Any:
    model = network()
    assert train(model, Numbers(4), cross_entropy, plan(steps), folder).state == "done"
    return model


def test_two_replicas_under_torchrun_are_bit_equal_and_learn_what_one_process_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", MODULE]
    subprocess.run([*command, str(tmp_path / "two"), "8"], env=ENV, check=True, capture_output=True)
    files = [(tmp_path / "two" / f"weights-{rank}.safetensors").read_bytes() for rank in (0, 1)]
    assert files[0] == files[1]
    one = _alone(tmp_path / "one", 8).weights()
    for name, tensor in load_file(tmp_path / "two" / "weights-0.safetensors").items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-5)
    two, alone = RunFolder(tmp_path / "two").reports(), RunFolder(tmp_path / "one").reports()
    assert [line["units"] for line in two] == [line["units"] for line in alone]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in alone], rel=1e-5)


def test_what_two_processes_saved_in_shards_one_goes_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert launch([sys.executable, "-m", MODULE, str(folder), "8", "--sharded"], 2, 1) == 0
    latest = RunFolder(folder).latest()
    assert latest is not None
    shards = sorted(path.name for path in (latest / "tensors").iterdir())
    assert len(shards) == 2
    assert all(name.endswith(".safetensors") for name in shards)

    loaded = network(seed=9)
    assert train(loaded, Numbers(4), cross_entropy, plan(8), folder).state == "done"
    gathered = load_file(folder / "weights-0.safetensors")
    assert all(torch.equal(tensor, gathered[name]) for name, tensor in loaded.weights().items())

    (folder / "run.json").unlink()
    RunFolder(folder).end(Ended(state="stopped"))
    longer = network(seed=9)
    assert train(longer, Numbers(4), cross_entropy, plan(12), folder).state == "done"
    expected = _alone(tmp_path / "alone", 12).weights()
    for name, tensor in longer.weights().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4)


RECIPE = """name = "small"
[model]
kind = "scratch"
layers = 1
width = 16
heads = 2
kv_heads = 1
hidden = 16
context_tokens = 32
[data]
kind = "text"
path = "TEXT"
rows = 2
context_tokens = 16
[plan]
steps = 1500
checkpoint_every_steps = 20
"""


def _started(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "text.txt").write_text("to be or not to be, that is the question; " * 50)
    (folder / "recipe.toml").write_text(RECIPE.replace("TEXT", str(folder / "text.txt")))
    command = [sys.executable, "-m", "prsm.teachers.training.main", str(folder / "recipe.toml")]
    return subprocess.Popen([*command, "--out", str(folder / "run"), "--processes", "2"], env=ENV)


def _first_checkpoint(started: subprocess.Popen[bytes], run: RunFolder, after: Path | None = None) -> None:
    while run.latest() in (None, after) and started.poll() is None:
        time.sleep(0.02)


def test_a_signal_stops_all_and_a_killed_process_ends_all(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with _started(tmp_path) as started:
        _first_checkpoint(started, run)
        started.terminate()
    assert started.returncode == 130
    stopped = run.ended()
    assert stopped is not None
    assert stopped.state == "stopped"
    with _started(tmp_path) as started:
        _first_checkpoint(started, run, after=run.latest())
        victim = int((run.path / "run.lock").read_text())
        os.kill(victim, signal.SIGKILL)
        assert started.wait(60) == 1
    with run.held():
        assert run.latest() is not None


def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with _started(tmp_path) as started:
        _first_checkpoint(started, run)
        started.kill()
    until = time.monotonic() + 60
    while run.ended() is None and time.monotonic() < until:
        time.sleep(0.05)
    ended = run.ended()
    assert ended is not None
    assert (ended.state, ended.reason) == ("stopped", "SIGTERM stopped it.")


def test_threads_are_shared_by_the_processes_of_a_machine() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_each(cores, 64) == 1
    assert threads_each(1, 64) == cores
    assert threads_each(2 * cores, 64) == 1
    assert threads_each(1, 1) == 1
