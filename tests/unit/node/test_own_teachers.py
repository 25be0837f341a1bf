"""The teachers of a node: what stands in its folder is offered, what is broken there is named, memory is bounded."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.small_teachers import small_shape, write_teacher

from prsm.core.config import Settings
from prsm.core.encoder import TextEncoder
from prsm.core.errors import ConfigError
from prsm.node.built_in import built_in, statement_of
from prsm.node.teachers import Teachers
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.runtime.shelf import MEMORY_PER_WEIGHT_BYTE, Shelf

SHIPPED = ["arithmetic", "letters", "letters-numerals", "numerals", "scholar"]
SCORE = {"evaluation": "sums#seed=1", "right": 970, "items": 1000}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_a_node_without_a_folder_has_the_shipped_teachers(settings: Settings) -> None:
    teachers = Teachers.open(settings)
    assert (list(teachers.by_name), list(teachers.domains)) == (SHIPPED, SHIPPED)
    assert teachers.readiness() == {"ok": True, "count": len(SHIPPED)}


def test_what_stands_in_the_folder_is_offered_at_its_price(settings: Settings) -> None:
    folder = settings.home / "teachers"
    write_teacher(folder / "sums", scores=[SCORE], data=["made-here"], input_price_micro=7)
    write_teacher(folder / "any", seed=1, questions=None, domain="anything")
    write_teacher(folder / ".coming", seed=2)
    teachers = Teachers.open(settings)
    assert set(teachers.by_name) == {*SHIPPED, "sums", "any"}
    assert set(teachers.domains) == {*SHIPPED, "sums"}, "one that takes anything is asked by name only"
    _, models = built_in(settings, TextEncoder.load(), teachers, "node:1")
    sums = next(model for model in models if model.name == "local/sums")
    other = next(model for model in models if model.name == "local/any")
    assert (sums.input_price_micro, sums.output_price_micro) == (7, settings.teachers_output_price_micro)
    assert other.input_price_micro == settings.teachers_input_price_micro
    assert (sums.version, sums.licence, sums.max_output_tokens) == (teachers.by_name["sums"].version, "MIT", 20)
    stated = statement_of(sums, teachers)
    assert [(score.evaluation, score.value_ppm, score.items) for score in stated.scores] == [
        ("sums#seed=1", 970_000, 1000)
    ]
    assert stated.data == ("made-here",)
    assert stated.weights_cid.startswith("b")
    assert list(teachers.by_name["sums"].answer("1 + 2", 5))


@pytest.mark.parametrize("name", [*SHIPPED, "Sums", "minilm-l6", "a b"])
def test_a_name_that_cannot_be_is_refused(settings: Settings, name: str) -> None:
    write_teacher(settings.home / "teachers" / name)
    teachers = Teachers.open(settings)
    assert list(teachers.by_name) == SHIPPED
    assert list(teachers.broken) == [name]


def test_a_broken_folder_is_named_and_stops_nobody(settings: Settings) -> None:
    folder = settings.home / "teachers"
    write_teacher(folder / "sums")
    write_teacher(folder / "torn", seed=1)
    weights = folder / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    teachers = Teachers.open(settings)
    assert set(teachers.by_name) == {*SHIPPED, "sums"}
    part = teachers.readiness()
    assert (part["ok"], part["count"]) == (False, len(SHIPPED) + 1)
    assert part["error"].startswith("torn: The weights")


def test_folders_come_change_and_go(settings: Settings) -> None:
    folder = settings.home / "teachers"
    teachers = Teachers.open(settings)
    by_name, domains = teachers.by_name, teachers.domains
    write_teacher(folder / "sums")
    teachers.take(teachers.look())
    first = by_name["sums"].version
    shutil.rmtree(folder / "sums")
    write_teacher(folder / "sums", seed=1)
    teachers.take(teachers.look())
    assert first != by_name["sums"].version
    assert domains["sums"]("1 + 2")
    shutil.rmtree(folder / "sums")
    teachers.take(teachers.look())
    assert (list(by_name), list(domains)) == (SHIPPED, SHIPPED)


def test_another_folder_may_be_named(tmp_path: Path) -> None:
    write_teacher(tmp_path / "mine" / "sums")
    teachers = Teachers.open(Settings(home=tmp_path, teachers_folder=str(tmp_path / "mine")))
    assert "sums" in teachers.by_name


def test_the_least_used_network_makes_room(tmp_path: Path) -> None:
    models = [ModelFolder.open(write_teacher(tmp_path / str(seed), seed=seed)) for seed in range(3)]
    shelf = Shelf(2 * MEMORY_PER_WEIGHT_BYTE * models[0].weights_bytes)
    assert shelf.held == ()
    first = shelf.engine(models[0])
    shelf.engine(models[1])
    assert shelf.engine(models[0]) is first
    shelf.engine(models[2])
    assert shelf.held == (models[0], models[2])
    assert list(first.write([5], max_tokens=3, ends=()))


def test_a_teacher_that_is_too_large_is_broken(settings: Settings) -> None:
    write_teacher(settings.home / "teachers" / "large", small_shape(layers=6, width=256, hidden=1024))
    write_teacher(settings.home / "teachers" / "small")
    teachers = Teachers.open(settings.model_copy(update={"teachers_memory_bytes": 64 << 20}))
    assert list(teachers.broken) == ["large"]
    assert "teachers_memory_bytes" in teachers.broken["large"]
    assert "small" in teachers.by_name


def test_weights_that_change_are_not_answered_from(settings: Settings) -> None:
    folder = write_teacher(settings.home / "teachers" / "sums")
    teachers = Teachers.open(settings)
    write_teacher(folder, seed=1)
    with pytest.raises(ConfigError, match="changed"):
        list(teachers.by_name["sums"].answer("1 + 2", 5))
    (folder / "teacher.json").write_text(json.dumps({}))
    teachers.take(teachers.look())
    assert list(teachers.broken) == ["sums"]
