"""What the node starts for each kind of run: a recipe in, a folder with a model out, a wrong recipe told there."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support.drawn_teachers import write_teacher

from prsm.teachers.distillation.job import Standing, begun, ended, read_job, settled, write_job
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.training.run_folder import RunFolder

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

RLVR = """
teacher = "{teacher}"
name = "little"
[tasks]
addition = 1
[rlvr]
max_tokens = 8
prompts = 4
group = 2
redraws = 0
[plan]
steps = 2
"""
DISTIL = """
[teachers]
one = "{teacher}"
[tasks]
addition = 1
[limits]
parameter_share = 0.9
[amounts]
measured_prompts = 4
lessons_per_family = 8
max_tokens = 8
batch = 4
[plan]
steps = 2
"""


def carry_out(module: str, recipe: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "recipe.toml"
    path.write_text(recipe)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", module, str(path), "--out", str(folder / "run")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=240, env=env, check=False)


def test_a_teacher_is_mended_by_verified_answers(tmp_path: Path) -> None:
    recipe = RLVR.format(teacher=write_teacher(tmp_path / "teacher"))
    done = carry_out("prsm.teachers.rlvr_job", recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "run")
    said = run.ended()
    assert (said and said.state, run.record()["recipe"]["name"]) == ("done", "little")
    assert ModelFolder.open(run.model).shape == ModelFolder.open(tmp_path / "teacher").shape
    assert run.reports()[-1]["cpu_s"] > 0


def test_a_distillation_whose_teacher_knows_nothing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    recipe = DISTIL.format(teacher=write_teacher(tmp_path / "teacher"))
    done = carry_out("prsm.teachers.distillation.main", recipe, tmp_path)
    said = RunFolder(tmp_path / "run").ended()
    assert done.returncode == 1, done.stderr
    assert said
    assert said.state == "failed"
    assert "addition" in said.reason
    assert not (tmp_path / "run" / "model").exists()
    assert len(RunFolder(tmp_path / "run").record()["code"]["sha256"]) == 64, "which code began it is known"


def test_a_distillation_that_was_refused_or_not_settled_says_again_how_it_ended(tmp_path: Path) -> None:
    recipe = DISTIL.format(teacher=write_teacher(tmp_path / "teacher"))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    job = begun("run", "hold", 1000, 1000, at)
    for kept, state in (
        (settled(ended(job, Standing.REFUSED, "It says what it must not.", at)), "failed"),
        (ended(job, Standing.EXHAUSTED, "The budget is used up.", at), "stopped"),
    ):
        write_job(tmp_path / "run", kept)
        done = carry_out("prsm.teachers.distillation.main", recipe, tmp_path)
        said = RunFolder(tmp_path / "run").ended()
        assert said, done.stderr
        assert (said.state, said.reason) == (state, kept.reason)
        assert read_job(tmp_path / "run") == (kept if kept.is_settled else settled(kept))


@pytest.mark.parametrize("module", ["prsm.teachers.rlvr_job", "prsm.teachers.distillation.main"])
@pytest.mark.parametrize("recipe", ["", "= no TOML", 'teacher = "nowhere"\n[tasks]\naddition = "many"\n'])
def test_a_wrong_recipe_is_told_in_the_folder(module: str, recipe: str, tmp_path: Path) -> None:
    done = carry_out(module, recipe, tmp_path)
    said = RunFolder(tmp_path / "run").ended()
    assert done.returncode == 2, done.stderr
    assert said
    assert (said.state, bool(said.reason)) == ("failed", True)
    assert "Traceback" not in done.stderr
