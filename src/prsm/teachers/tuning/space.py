"""What may vary in a recipe, as typed TOML over dotted fields, and putting values in their places. Pure rules.

[plan.rate]  # a table a field, named in full
kind = "float"
low = 1e-4
high = 1e-1
log = true
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError

Value = str | int | float | bool
Values = Mapping[str, Value]
"""A value for each dotted field of a space."""


class FloatRange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="float"):
    """Any number from ``low`` to ``high``, evenly, or evenly by its logarithm."""

    low: float
    high: float
    log: bool = False


class IntRange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="int"):
    """``low``, ``low + step``, ... to ``high`` at most; with ``log`` each whole number, evenly by its logarithm."""

    low: int
    high: int
    step: Annotated[int, Meta(ge=1)] = 1
    log: bool = False


class Choice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="choice"):
    """One of some values that have no order."""

    of: Annotated[tuple[Value, ...], Meta(min_length=1)]


Range = FloatRange | IntRange | Choice
Space = Mapping[str, Range]


def read_space(toml: str) -> dict[str, Range]:
    """The space in a TOML text, by dotted field. Raises ConfigError, which names the field."""
    try:
        tables = msgspec.toml.decode(toml)
    except msgspec.DecodeError as error:
        raise ConfigError(f"The search space is no TOML: {error}.") from error
    space = {name: _range(name, table) for name, table in _leaves("", tables)}
    if not space:
        raise ConfigError("The search space is empty.", remedy='Give a field, for instance [plan.rate] with a "kind".')
    return space


def placed(recipe: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """A copy of a recipe (nested tables) with each dotted field at its value; tables that are missing are made.

    Raises ConfigError for a field below something that is no table.
    """
    whole: dict[str, Any] = msgspec.to_builtins(recipe)
    for name, value in values.items():
        *above, last = name.split(".")
        table: dict[str, Any] = whole
        for part in above:
            below: Any = table.setdefault(part, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{name} lies below {part}, which is no table.", param=name)
            table = cast("dict[str, Any]", below)
        table[last] = value
    return whole


def _leaves(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = f"{prefix}{key}"
        below = cast("dict[str, Any]", value) if isinstance(value, dict) else {"kind": ""}
        found += [(name, value)] if isinstance(below.get("kind"), str) else _leaves(f"{name}.", below)
    return found


def _range(name: str, table: Any) -> Range:
    try:
        found = msgspec.convert(table, Range)
    except msgspec.ValidationError as error:
        raise ConfigError(f"The range of {name} is wrong: {error}.", param=name) from error
    wrong = _what_is_wrong(found)
    if wrong:
        raise ConfigError(f"The range of {name} is wrong: {wrong}.", param=name)
    return found


def _what_is_wrong(found: Range) -> str:
    if isinstance(found, Choice):
        return "" if len(set(found.of)) == len(found.of) else "a value stands twice"
    if not found.low < found.high:
        return "low is not below high"
    if found.log and found.low <= 0:
        return "a logarithm needs a low above 0"
    if isinstance(found, IntRange) and found.log and found.step != 1:
        return "log and step exclude each other"
    return ""
