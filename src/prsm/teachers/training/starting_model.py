"""Where a recipe's model begins: a network that can be trained, how its texts are spelt, how it is written down."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.training.preference import RewardModel
from prsm.teachers.training.recipe import Recipe, Reward, Scratch, Teacher, Transformers, file_sha256
from prsm.teachers.training.small_teacher import (
    Vectors,
    fresh_teacher,
    load_teacher,
    save_reward_teacher,
    save_teacher,
)
from prsm.teachers.training.spelling import AlphabetSpelling, Spelling, TokenizerSpelling

Save = Callable[[Path, dict[str, Tensor] | None], None]
"""Write a folder that others load; weights by name are given where the network does not hold them whole itself."""


@dataclass(frozen=True, slots=True)
class StartingModel:
    """A network before its training; ``parents`` name what it was made of, for its lineage."""

    network: nn.Module
    spelling: Spelling
    save: Save
    parents: list[dict[str, Any]] = field(default_factory=list)


def starting_model(recipe: Recipe) -> StartingModel:
    """The model of a recipe, with a head for rewards where that is the objective. Raises ConfigError."""
    torch.manual_seed(recipe.plan.seed)
    rewards = isinstance(recipe.objective, Reward)
    if isinstance(recipe.model, Transformers):
        return _of_transformers(recipe.model, rewards=rewards)
    if isinstance(recipe.model, Teacher):
        folder = Path(recipe.model.path)
        weights = file_sha256(folder / "model.safetensors", "model.path")
        return _small(load_teacher(folder), [{"path": str(folder), "sha256": weights}], rewards=rewards)
    return _small(_fresh(recipe.model, recipe.plan.seed), [], rewards=rewards)


def _fresh(model: Scratch, seed: int) -> Decoder:
    sizes = {name: getattr(model, name) for name in model.__struct_fields__}
    return fresh_teacher(seed, **sizes)


def _small(decoder: Decoder, parents: list[dict[str, Any]], *, rewards: bool) -> StartingModel:
    network = RewardModel(Vectors(decoder), decoder.shape.width) if rewards else decoder
    write = save_reward_teacher if rewards else save_teacher

    def save(folder: Path, weights: dict[str, Tensor] | None) -> None:
        write(folder, decoder.shape, weights or network.state_dict())

    return StartingModel(network, AlphabetSpelling(), save, parents)


def _of_transformers(model: Transformers, *, rewards: bool) -> StartingModel:
    from prsm.teachers.training.hub_model import (  # transformers and peft take seconds to import
        load_language_model,
        load_reward_network,
        save_hub_model,
    )

    network, tokenizer = load_reward_network(model) if rewards else load_language_model(model)

    def save(folder: Path, weights: dict[str, Tensor] | None) -> None:
        save_hub_model(network, tokenizer, folder, weights)

    parents = [{"name": model.name, "revision": model.revision}]
    return StartingModel(network, TokenizerSpelling(tokenizer), save, parents)
