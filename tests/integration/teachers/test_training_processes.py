"""Several processes train one network: the same weights in each, the same as one process would get, and none lost."""

import os
import shutil
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


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two processes under torchrun, which trained replicas and then shards."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", MODULE]
    subprocess.run([*command, str(folder)], env=ENV, check=True, capture_output=True)
    return folder


def test_two_replicas_are_bit_equal_and_learn_what_one_process_does(two: Path, tmp_path: Path) -> None:
    folder = two / "replicas"
    files = [(folder / f"weights-{rank}.safetensors").read_bytes() for rank in (0, 1)]
    assert files[0] == files[1]
    one = _alone(tmp_path, 8).weights()
    for name, tensor in load_file(folder / "weights-0.safetensors").items():
        torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-5)
    together, alone = RunFolder(folder).reports(), RunFolder(tmp_path).reports()
    assert [line["units"] for line in together] == [line["units"] for line in alone]
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=1e-5)


def test_what_two_processes_saved_in_shards_one_goes_on_with(two: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two / "shards", tmp_path / "run"))
    latest = RunFolder(folder).latest()
    assert latest is not None
    shards = [path.suffix for path in (latest / "tensors").iterdir()]
    assert shards == [".safetensors"] * 2

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


def test_a_signal_stops_all_processes_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question; " * 50)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("TEXT", str(tmp_path / "text.txt")))
    command = [sys.executable, "-m", "prsm.teachers.training.main", str(tmp_path / "recipe.toml")]
    run = RunFolder(tmp_path / "run")
    with subprocess.Popen([*command, "--out", str(run.path), "--processes", "2"], env=ENV) as started:
        while run.latest() is None and started.poll() is None:
            time.sleep(0.02)
        started.terminate()
    assert started.returncode == 130
    stopped, latest = run.ended(), run.latest()
    assert stopped is not None
    assert latest is not None
    assert stopped.state == "stopped"
    assert latest.name == f"step-{stopped.step}"


def _worker(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\nrank = os.environ['RANK']\n{code}"]


@pytest.mark.parametrize(
    ("death", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 1), ("sys.exit(0)", 1), ("sys.exit(130)", 1)]
)
def test_one_process_that_fails_ends_the_others(death: str, code: int) -> None:
    """The other one waits for ever, or fails too where the first did not."""
    waiting = "time.sleep(600)" if code == 3 or "kill" in death else "sys.exit(1)"
    assert launch(_worker(f"{death} if rank == '1' else {waiting}"), 2, 1) == code


def test_processes_end_with_their_launcher(tmp_path: Path) -> None:
    said = tmp_path / "said"
    worker = _worker(
        "from prsm.teachers.training.launch import watch_launcher\n"
        "import pathlib, signal\n"
        f"said = pathlib.Path({str(said)!r} + rank)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (said.write_text('stopped'), sys.exit(0)))\n"
        "watch_launcher(); said.write_text('here'); time.sleep(600)"
    )
    code = f"from prsm.teachers.training.launch import launch; launch({worker!r}, 2, 1)"
    files = [Path(f"{said}{rank}") for rank in (0, 1)]
    with subprocess.Popen([sys.executable, "-c", code], env=ENV) as launcher:
        _wait_until(files, "here")
        launcher.kill()
    _wait_until(files, "stopped")


def _wait_until(files: list[Path], word: str) -> None:
    until = time.monotonic() + 60
    while not all(file.exists() and file.read_text() == word for file in files):
        assert time.monotonic() < until, f"not all said {word!r}"
        time.sleep(0.02)


def test_threads_are_shared_by_the_processes_of_a_machine() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_each(cores, 64) == 1
    assert threads_each(1, 64) == cores
    assert threads_each(2 * cores, 64) == 1
    assert threads_each(1, 1) == 1
