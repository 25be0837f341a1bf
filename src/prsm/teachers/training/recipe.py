"""A recipe: the few lines of TOML from which a model is trained, read into types; errors name the field. No torch."""

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError
from prsm.teachers.training.plan import Positive, Share, TrainingPlan

Several = Annotated[list[str], Meta(min_length=1)]


class Scratch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="scratch"):
    """A new small teacher of this shape (``shape.py``), over the alphabet of the small teachers."""

    layers: Positive
    width: Positive
    heads: Positive
    kv_heads: Positive
    hidden: Positive
    context_tokens: Positive


class Teacher(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="teacher"):
    """A small teacher's folder to go on from."""

    path: str


class Lora(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on the named modules, or on all linear ones."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: Share = 0.0
    modules: Several | Literal["all-linear"] = "all-linear"


class Transformers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="transformers"):
    """A model that transformers loads from safetensors: a folder, or a name on the hub at a revision."""

    name: str
    revision: str | None = None
    lora: Lora | None = None


class Text(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="text"):
    """A file of plain text; its last ``validation_share`` is kept from training."""

    path: str
    rows: Positive
    context_tokens: Positive
    validation_share: Annotated[float, Meta(ge=0, lt=1)] = 0.1


class Pairs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="pairs"):
    """Prompts and answers: JSON lines, or lines of text divided by ``separator``.

    ``reverse_answers`` writes answers backwards (Lee et al. 2023, arXiv:2307.03381). With ``row_tokens`` several pairs
    are packed into a row. Unless ``hold_out`` is false, prompts that are held out are validated on only.
    """

    path: str
    rows: Positive
    row_tokens: Positive | None = None
    separator: str | None = None
    reverse_answers: bool = False
    hold_out: bool = True


class Preferences(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="preferences"):
    """JSON lines of ``prompt``, ``chosen`` and ``rejected``.

    What is kept to validate on goes by the hash of its prompt: one prompt in twenty, as of all data (``hash``), or one
    in two (``half``).
    """

    path: str
    rows: Positive
    hold_out: Literal["hash", "half", "nothing"] = "hash"


class Tasks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="tasks"):
    """Demonstrations of named tasks at some of their levels, or at all, without those that are held out."""

    names: Several
    rows: Positive
    row_tokens: Positive | None = None
    levels: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)] | None = None


class NextToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="next_token"):
    """What comes next: language modelling, and SFT on pairs."""


class Dpo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dpo"):
    """Direct preference optimisation, away from the model that is given."""

    beta: Annotated[float, Meta(gt=0)] = 0.1
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0


class Reward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="reward"):
    """A reward model."""


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that makes a model: where it begins, what it learns from, what is made small, and how."""

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9.-]{0,63}$")]
    model: Scratch | Teacher | Transformers
    data: Text | Pairs | Preferences | Tasks
    plan: TrainingPlan
    objective: NextToken | Dpo | Reward = NextToken()
    sharded: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.data, Preferences) == isinstance(self.objective, NextToken):
            raise ValueError("preferences are learnt by dpo or reward, everything else by next_token")
        if self.sharded and isinstance(self.model, Transformers) and self.model.lora:
            raise ValueError("adapters are too small to be sharded")


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with ``changes`` such as ``plan.steps=10``. Raises ConfigError naming file and field."""
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in changes:
            _change(stated, change)
        return msgspec.convert(stated, Recipe)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error}", param=str(path)) from error
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        field = where.strip("`").lstrip(".") or "recipe"
        raise ConfigError(f"The recipe {path} is wrong at {field}: {what}.", param=field) from error


def file_sha256(path: Path, param: str) -> str:
    """What names a file's content in a run's record. Raises ConfigError of ``param`` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}.", param=param) from error


def _change(stated: dict[str, Any], change: str) -> None:
    """Set one dotted field; what is no value of TOML is a string."""
    names, equals, value = change.partition("=")
    *outer, last = names.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"A change is FIELD=VALUE, not {change!r}.", param="--set")
    inner: dict[str, Any] = stated
    for name in outer:
        found: object = inner.setdefault(name, {})
        if not isinstance(found, dict):
            raise ConfigError(f"The recipe has no field {names.strip()}.", param=names.strip())
        inner = cast("dict[str, Any]", found)
    try:
        inner[last] = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        inner[last] = value.strip()
