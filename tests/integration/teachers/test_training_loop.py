"""A training run survives what happens to it: kills at any moment, signals, losses that are no numbers, readers."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from tests.support.small_training import Numbers, cross_entropy, digest, network, with_noise  # noqa: E402

from prsm.core.errors import ConfigError  # noqa: E402 - after the skip
from prsm.teachers.training.loop import train  # noqa: E402 - needs torch
from prsm.teachers.training.objective import Batch, Loss  # noqa: E402 - needs torch
from prsm.teachers.training.plan import TrainingPlan  # noqa: E402 - after the skip
from prsm.teachers.training.run_folder import RunFolder, RunInUse  # noqa: E402 - after the skip

KILLS = int(os.environ.get("PRSM_TEST_TRAINING_KILLS", "1"))
PLAN: dict[str, Any] = {
    "steps": 40, "rate": 3e-3, "warmup_steps": 5, "decay": "cosine", "accumulate": 2, "checkpoint_every_steps": 7,
    "report_every_steps": 5,
}  # fmt: skip


def _trained(folder: Path, objective: Any = with_noise, **changes: Any) -> tuple[Any, Any]:
    model = network()
    return train(model, Numbers(), objective, TrainingPlan(**PLAN | changes), folder), model


def _child(folder: Path, optimizer: str) -> subprocess.Popen[bytes]:
    """The same run in a process of its own, slow enough to be killed in its midst."""
    code = (
        "import sys, time; from pathlib import Path; from tests.integration.teachers import test_training_loop as t\n"
        "def slow(network, batch):\n    time.sleep(0.01)\n    return t.with_noise(network, batch)\n"
        "t._trained(Path(sys.argv[1]), slow, optimizer=sys.argv[2])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), optimizer], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def _until(what: Callable[[], Any], child: subprocess.Popen[bytes]) -> None:
    while not what() and child.poll() is None:
        time.sleep(0.005)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_killed_at_random_moments_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, optimizer: str
) -> None:
    _, undisturbed = _trained(tmp_path / "whole", optimizer=optimizer)
    chance = random.Random(KILLS)
    killed = RunFolder(tmp_path / "killed")
    for _ in range(KILLS):
        before = killed.checkpoints()[-1:]
        with _child(killed.path, optimizer) as child:
            _until(lambda before=before: killed.checkpoints()[-1:] != before, child)
            time.sleep(chance.uniform(0, 0.2))
            child.kill()
        assert child.wait() in (-signal.SIGKILL, 0)
    ended, model = _trained(killed.path, optimizer=optimizer)
    assert ended.state == "done"
    pairs = zip(model.parameters(), undisturbed.parameters(), strict=True)
    worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
    assert worst == 0
    assert _figures(killed) == _figures(RunFolder(tmp_path / "whole"))


def _figures(folder: RunFolder) -> list[tuple[Any, ...]]:
    return [(line["step"], line["units"], line["loss"], line["grad_norm"], line["rate"]) for line in folder.reports()]


def test_a_signal_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with _child(folder.path, "adamw") as child:
        _until(folder.latest, child)
        child.terminate()
    stopped = folder.ended()
    assert stopped is not None
    assert (stopped.state, stopped.reason) == ("stopped", "SIGTERM stopped it.")
    latest = folder.latest()
    assert latest is not None
    assert latest.name == f"step-{stopped.step}"
    _, model = _trained(folder.path)
    assert digest(model) == digest(_trained(tmp_path / "whole")[1])


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    ended, _ = _trained(tmp_path, cross_entropy, steps=150, rate=0.02, weight_decay=0.01)
    losses = [line["loss"] for line in RunFolder(tmp_path).reports()]
    assert ended.state == "done"
    assert losses[0] > 2.8
    assert losses[-1] < 2.2
    assert len(RunFolder(tmp_path).checkpoints()) == 2


def test_a_run_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    _, first = _trained(tmp_path)
    untouched = RunFolder(tmp_path).reports()
    model = network(seed=5)
    ended = train(model, Numbers(), _fails, TrainingPlan(**PLAN), tmp_path)
    assert ended.state == "done"
    assert digest(model) == digest(first)
    assert RunFolder(tmp_path).reports() == untouched


def _fails(model: Any, batch: Batch) -> Loss:
    raise ZeroDivisionError("by design")


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_weights(tmp_path: Path, poison: float) -> None:
    calls = 0

    def poisoned(model: Any, batch: Batch) -> Loss:
        nonlocal calls
        calls += 1
        loss = cross_entropy(model, batch)
        return Loss(loss.total * (poison if calls > 20 else 1), loss.count)

    ended, model = _trained(tmp_path, poisoned)
    assert (ended.state, ended.step) == ("failed", 10)
    assert ended.reason == "The loss is not a finite number. Update 11 was not made."
    assert all(p.isfinite().all() for p in model.parameters())


def test_an_objective_that_raises_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _trained(tmp_path, _fails)
    ended = RunFolder(tmp_path).ended()
    assert ended is not None
    assert (ended.state, ended.reason) == ("failed", "ZeroDivisionError: by design")


def test_batches_of_an_update_add_up_exactly_as_one(tmp_path: Path) -> None:
    """Four rows twice are eight rows at once, though the halves count unlike many targets."""

    def uneven(model: Any, batch: Batch) -> Loss:
        kept = batch["ids"][:, :1] < 10
        logits = model(batch["ids"]).log_softmax(-1).gather(2, batch["targets"][..., None])[..., 0]
        return Loss(-(logits * kept).sum(), kept.sum() * 8)

    plan = PLAN | {"steps": 10}
    halves, whole = network().double(), network().double()
    train(halves, Numbers(4), uneven, TrainingPlan(**plan), tmp_path / "a")
    train(whole, Numbers(8), uneven, TrainingPlan(**plan | {"accumulate": 1}), tmp_path / "b")
    for a, b in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_where_nothing_counts_the_weights_stay(tmp_path: Path) -> None:
    def nothing(model: Any, batch: Batch) -> Loss:
        return Loss(model(batch["ids"]).sum() * 0, torch.tensor(0))

    ended, model = _trained(tmp_path, nothing)
    assert ended.state == "done"
    assert digest(model) == digest(network())
    assert RunFolder(tmp_path).reports()[0]["loss"] is None


def test_a_watcher_stops_it_and_figures_of_validation_are_written(tmp_path: Path) -> None:
    told: list[Any] = []

    def watch(line: Any) -> str | None:
        told.append(line)
        return "enough" if line["step"] >= 10 else None

    def validate(model: Any) -> dict[str, float]:
        assert not model.training
        return {"validation_loss": 1.5}

    plan = TrainingPlan(**PLAN | {"validate_every_steps": 4})
    ended = train(network(), Numbers(), cross_entropy, plan, tmp_path, watch=watch, validate=validate)
    assert (ended.state, ended.reason, ended.step) == ("stopped", "enough", 10)
    assert [line["step"] for line in told] == [4, 5, 8, 10]
    assert [line.get("validation_loss") for line in told] == [1.5, None, 1.5, None]
    assert RunFolder(tmp_path).reports() == told


def test_another_plan_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    _trained(tmp_path)
    with pytest.raises(ConfigError, match=r"another plan\.rate"):
        _trained(tmp_path, rate=1e-4)


def test_one_process_a_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path).held(), pytest.raises(RunInUse, match=f"process {os.getpid()}"):
        _trained(tmp_path)


def test_what_a_kill_left_half_is_swept_and_a_torn_line_is_not_read(tmp_path: Path) -> None:
    _trained(tmp_path)
    folder = RunFolder(tmp_path)
    whole = folder.reports()
    with folder.metrics.open("a") as file:
        file.write('{"step": 4')
    (folder.path / "checkpoints" / ".step-99").mkdir()
    (folder.path / "checkpoints" / "step-98").mkdir()
    latest = folder.latest()
    assert latest is not None
    assert latest.name == "step-40"
    assert folder.reports() == whole
    with folder.held():
        assert not folder.partial(99).exists()


def test_checkpoints_are_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    _trained(tmp_path)
    latest = RunFolder(tmp_path).latest()
    assert latest is not None
    for path in filter(Path.is_file, latest.rglob("*")):
        assert path.suffix in (".safetensors", ".json")
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_time_bounds_a_run(tmp_path: Path) -> None:
    ended, _ = _trained(tmp_path, steps=10**6, cpu_minutes=0.002)
    assert ended.state == "done"
    assert 0 < ended.step < 10**6
    assert RunFolder(tmp_path).reports()[-1]["cpu_s"] < 5


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    ended, model = _trained(tmp_path, cross_entropy, precision="bfloat16", steps=20)
    assert ended.state == "done"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert digest(model) != digest(_trained(tmp_path / "other", cross_entropy, steps=20)[1])


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(network(), Numbers(), cross_entropy, TrainingPlan(**PLAN), tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], pytest.approx(line["loss"])) for line in RunFolder(tmp_path).reports()]
    assert losses == expected
