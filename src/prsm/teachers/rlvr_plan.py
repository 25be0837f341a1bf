"""What a recipe says about learning from verified answers. No torch here: recipes are read where there is none."""

import tomllib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError
from prsm.teachers.curriculum import CurriculumPlan
from prsm.teachers.training.plan import Positive, Share, TrainingPlan


class RlvrPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers are drawn and what is learnt from them.

    ``prompts`` groups of ``group`` answers make a rollout, which is learnt from in ``minibatches`` updates. Groups
    without a difference are dropped and others drawn, at most ``redraws`` times; what then lacks counts as groups that
    teach nothing, so that a rest of few groups takes small steps. An answer that does not end within ``max_tokens`` is
    ``"wrong"``, or ``"left_out"`` of the loss (it still counts in its group's mean). Advantages are in units of the
    group's deviation (GRPO) or not (Liu et al. 2025, arXiv:2503.20783). Ratios of probabilities are clipped to
    1 - ``clip_low`` and 1 + ``clip_high``. ``kl`` weighs the distance to the reference, where there is one.
    """

    max_tokens: Positive
    prompts: Positive = 32
    group: Annotated[int, Meta(ge=2)] = 8
    minibatches: Positive = 1
    redraws: Annotated[int, Meta(ge=0)] = 4
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    overlong: Literal["wrong", "left_out"] = "wrong"
    by_deviation: bool = True
    clip_low: Share = 0.2
    clip_high: Annotated[float, Meta(ge=0)] = 0.28
    kl: Annotated[float, Meta(ge=0)] = 0.0


class RlvrRecipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is said of a run: its ``tasks`` by name, each with how many of its levels are practised, and how."""

    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9.-]{0,63}$")]
    tasks: Annotated[dict[str, Positive], Meta(min_length=1)]
    rlvr: RlvrPlan
    plan: TrainingPlan
    curriculum: CurriculumPlan = CurriculumPlan()


def read_rlvr_recipe(text: str) -> RlvrRecipe:
    """The recipe that a TOML text states. Raises ConfigError naming the field."""
    try:
        return msgspec.convert(tomllib.loads(text), RlvrRecipe)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        field = str(error).partition("`$")[2].strip("`.") or "recipe"
        raise ConfigError(f"The recipe is wrong: {error}.", param=field) from error
