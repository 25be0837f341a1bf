"""Ray Tune finds and stops early behind the same seam as Optuna."""

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from tests.support.tuning_objectives import STEPS, valley

from prsm.core.errors import ConfigError
from prsm.teachers.tuning.ray_search import RaySearch
from prsm.teachers.tuning.seams import Study
from prsm.teachers.tuning.space import Choice, FloatRange, IntRange, Range

SPACE: dict[str, Range] = {
    "x": FloatRange(low=0.001, high=1, log=True),
    "n": IntRange(low=1, high=20),
    "kind": Choice(of=("right", "wrong")),
}


def test_a_search_finds_and_prunes() -> None:
    study = Study(name="valley", trials=8, max_steps=STEPS, sampler="random", seed=2)
    found = RaySearch().run(study, SPACE, valley)
    assert len(found.trials) == 8
    whole = [trial for trial in found.trials if trial.value is not None]
    assert found.best.value == min(trial.value for trial in whole if trial.value is not None)
    assert found.best.value == pytest.approx(valley(found.best.values, lambda _step, _value: None))
    assert all(trial.steps < STEPS for trial in found.trials if trial.value is None)
    assert 0 < len(whole) < 8


def test_what_only_optuna_does_is_refused() -> None:
    with pytest.raises(ConfigError, match="draws at random"):
        RaySearch().run(Study(name="valley", trials=1, max_steps=STEPS), SPACE, valley)
