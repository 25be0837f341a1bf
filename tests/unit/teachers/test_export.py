"""A teacher of eight bits made from one of floats: smaller, whole, refused where it cannot be, and compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support.small_teachers import random_weights, small_shape, write_teacher

from prsm.core.errors import ConfigError
from prsm.teachers.export import agreement, example_prompts, export_int8, in_eight_bits, main
from prsm.teachers.questions import Questions
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.teacher_model import FolderTeacher

SCORES = [{"evaluation": "e", "right": 1, "items": 2}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "sums", small_shape(width=64, hidden=192), scores=SCORES)


def test_eight_bits_are_a_third_and_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--int8", "--prompts", "30"]) == 0
    exported = FolderTeacher.load(folder.with_name("sums-int8"))
    original = FolderTeacher.load(folder)
    assert exported.model.int8
    assert exported.model.weights_bytes < original.model.weights_bytes / 3
    assert exported.version != original.version
    assert exported.about.scores == (), "the exams were of other weights"
    assert any(list(exported.answer(f"{number} + 2", 5)) for number in range(20))
    printed = capsys.readouterr().out
    assert exported.version in printed
    assert "30 prompts" in printed
    assert json.loads((exported.model.path / "manifest.json").read_text())["sha256"].keys() >= {"model.safetensors"}


def test_what_cannot_be_exported_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "eight"
    export_int8(folder, target)
    with pytest.raises(ConfigError, match="there already"):
        export_int8(folder, target)
    with pytest.raises(ConfigError, match="eight bits already"):
        export_int8(target, tmp_path / "again")
    assert main([str(tmp_path / "none"), "--int8"]) == 1
    assert main([str(folder)]) == 2
    assert "config.json" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eight", "sums"], "nothing half-done is left"


def test_agreement_counts_what_differs() -> None:
    shape = small_shape()
    one, other = Engine(shape, random_weights(shape)), Engine(shape, random_weights(shape, seed=1))
    prompts = [[number] for number in range(10, 60)]
    assert agreement(one, one, prompts, 8) == (1, 1)
    assert agreement(one, other, prompts, 8)[0] < 0.2
    eight = Engine(shape, in_eight_bits(random_weights(shape)))
    assert 0.8 < agreement(one, eight, prompts, 8)[0] <= 1


def test_questions_are_drawn_from_the_forms(folder: Path, tmp_path: Path) -> None:
    drawn = example_prompts(folder, 50, seed=1)
    assert drawn == example_prompts(folder, 50, seed=1)
    assert all(map(Questions(["{integer:3} + {integer:3}"]).include, drawn))
    forms = ["Say {text}, {integer:2} times."]
    other = write_teacher(tmp_path / "other", questions=forms)
    assert all(map(Questions(forms).include, example_prompts(other, 50, seed=1)))


def test_the_graph_is_written_for_other_programs(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")
    assert main([str(folder), "--onnx", str(tmp_path / "model.onnx")]) == 0
    model = onnx.load(tmp_path / "model.onnx")
    table = next(entry for entry in model.graph.initializer if entry.name == "embedding")
    expected = random_weights(small_shape(width=64, hidden=192))["model.embed_tokens.weight"]
    assert np.array_equal(onnx.numpy_helper.to_array(table), np.asarray(expected))


def test_a_graph_that_cannot_be_written_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--onnx", str(tmp_path / "missing" / "model.onnx")]) == 1
    assert "missing" in capsys.readouterr().err
