"""Every back end makes a student of the same kind: it learns by each method, resumes, and is served by one runtime."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from tests.support.distillation_backends import PROMPTS, SHAPE, check_backend

from prsm.teachers.distillation.backends.choosing import open_backend


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_back_end_in_this_process(name: str, tmp_path: Path) -> None:
    _judge(check_backend(name, tmp_path))


def test_tensorflow_in_a_process_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="the extra `tensorflow` is not installed")
    command = [sys.executable, "-m", "tests.support.distillation_backends", "tensorflow", str(tmp_path)]
    own = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    _judge(json.loads(done.stdout.splitlines()[-1]))


def _judge(found: dict[str, Any]) -> None:
    for method, (before, after) in found["losses"].items():
        assert after < 0.5 * before, method
    assert found["score"] == 1.0
    assert found["served"] == found["written"]
    assert found["largest_difference"] < 1e-3
    assert found["resumed_difference"] == 0
    assert found["stopped_at"] < found["steps"]
    assert found["loss_difference"] < 1e-4
    assert found["same_again"]
    assert found["same_loss_again"]


def test_how_a_folder_wants_to_be_sampled_changes_nothing_that_its_model_writes(tmp_path: Path) -> None:
    backend = open_backend("transformers")
    backend.build(SHAPE, 0).export(tmp_path)
    plain = backend.load(tmp_path)
    tastes = {"do_sample": True, "temperature": 0.2, "top_p": 0.1, "repetition_penalty": 5.0, "eos_token_id": 3}
    (tmp_path / "generation_config.json").write_text(json.dumps(tastes))
    tasting = backend.load(tmp_path)
    for temperature in (0.0, 1.0):
        asked = {"max_tokens": 20, "temperature": temperature, "seed": 1}
        assert tasting.write(PROMPTS, **asked) == plain.write(PROMPTS, **asked)
