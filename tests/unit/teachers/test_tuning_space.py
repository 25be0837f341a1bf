"""Search spaces are read from TOML, refused by the name of the field, and put into recipes."""

from typing import Any

import pytest

from prsm.core.errors import ConfigError
from prsm.teachers.tuning.space import Choice, FloatRange, IntRange, placed, read_space

SPACE = """
[plan.rate]
kind = "float"
low = 1e-4
high = 1e-1
log = true

[plan.warmup_steps]
kind = "int"
low = 0
high = 100
step = 20

["plan.optimizer"]
kind = "choice"
of = ["adamw", "muon"]
"""


def test_a_space_is_read() -> None:
    assert read_space(SPACE) == {
        "plan.rate": FloatRange(low=1e-4, high=1e-1, log=True),
        "plan.warmup_steps": IntRange(low=0, high=100, step=20),
        "plan.optimizer": Choice(of=("adamw", "muon")),
    }


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[a.b]\nkind = "float"\nlow = 1\nhigh = 1', "a.b is wrong: low is not below high"),
        ('[a.b]\nkind = "float"\nlow = 0.0\nhigh = 1\nlog = true', "a.b is wrong: a logarithm"),
        ('[a.b]\nkind = "int"\nlow = 1\nhigh = 9\nlog = true\nstep = 2', "a.b is wrong: log and step"),
        ('[a.b]\nkind = "int"\nlow = 1.5\nhigh = 9', "a.b is wrong: .*low"),
        ('[a.b]\nkind = "choice"\nof = []', "a.b is wrong: .*of"),
        ('[a.b]\nkind = "choice"\nof = [1, 1]', "a.b is wrong: a value stands twice"),
        ('[a.b]\nkind = "normal"\nlow = 1', "a.b is wrong: .*kind"),
        ('[a.b]\nkind = "int"\nlow = 1\nhigh = 2\nhi = 3', "a.b is wrong: .*hi"),
        ("[a]\nb = 3", "a.b is wrong"),
        ("", "empty"),
        ("[a", "no TOML"),
    ],
)
def test_a_wrong_space_is_named(table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_space(table)


def test_values_are_placed_in_a_copy() -> None:
    recipe: dict[str, Any] = {"name": "x", "plan": {"rate": 0.1, "steps": 10}}
    changed = placed(recipe, {"plan.rate": 0.5, "shape.layers": 2, "name": "y"})
    assert changed == {"name": "y", "plan": {"rate": 0.5, "steps": 10}, "shape": {"layers": 2}}
    assert recipe == {"name": "x", "plan": {"rate": 0.1, "steps": 10}}
    with pytest.raises(ConfigError, match="lies below name"):
        placed(recipe, {"name.first": 1})
