"""Students that transformers builds: any causal language model from a config, trained by the room's one loop.

Models are read from safetensors alone and run no code of theirs; accelerate spreads large ones over the devices.
"""

# torch and transformers are in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import END_ID, PAD_ID, VOCABULARY
from prsm.teachers.distillation.backends.torch_decoder import best_device, learnt, scored
from prsm.teachers.distillation.folder import write_alphabet
from prsm.teachers.distillation.recipe import Method
from prsm.teachers.distillation.seams import Floats, Ints, Learnt, LessonSource
from prsm.teachers.shape import Shape
from prsm.teachers.training.hub_model import LanguageModel
from prsm.teachers.training.plan import TrainingPlan


class TransformersModel:
    """The back end ``transformers``."""

    name = "transformers"

    def build(self, shape: Shape, seed: int) -> "TransformersStudent":
        """A fresh Llama of this shape."""
        return self.build_from(AutoConfig.for_model(**shape.config()), seed)

    def build_from(self, config: PretrainedConfig, seed: int) -> "TransformersStudent":
        """A fresh model of any causal kind."""
        torch.manual_seed(seed)
        return TransformersStudent(AutoModelForCausalLM.from_config(config).to(best_device()))

    def load(self, folder: Path) -> "TransformersStudent":
        """The model in a folder."""
        try:
            model = AutoModelForCausalLM.from_pretrained(  # nosec B615 - a folder
                folder, use_safetensors=True, trust_remote_code=False, device_map="auto", dtype="auto"
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"There is no causal model of safetensors in {folder}: {error}.") from error
        return TransformersStudent(model)


class TransformersStudent:
    """A model of transformers that writes, is scored and learns."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # What its folder says of penalties and the like would be added to what is asked, and is for readers.
        model.generation_config = GenerationConfig(eos_token_id=END_ID, pad_token_id=PAD_ID)
        self._network = LanguageModel(model)

    @property
    def parameters(self) -> int:
        """How many weights it has, shared ones once."""
        return self.model.num_parameters()

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """What it writes after each prompt."""
        longest = max(map(len, prompts))
        padded = torch.tensor([[PAD_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self.model.device
        how = GenerationConfig(
            max_new_tokens=max_tokens, do_sample=temperature > 0, temperature=temperature or 1.0, top_k=0,
            eos_token_id=END_ID, pad_token_id=PAD_ID,
        )  # fmt: skip
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            rows: Any = self.model.generate(  # pyright: ignore[reportCallIssue]
                padded.to(device), attention_mask=mask.to(device), generation_config=how
            )
        return [_until_end(row) for row in rows[:, longest:].tolist()]

    def scores(self, ids: Ints, temperature: float) -> Floats:
        """What it thinks comes next."""
        return scored(self._network, ids, temperature)

    def learn(
        self, source: LessonSource, method: Method, plan: TrainingPlan, folder: Path, stop: Callable[[], bool]
    ) -> Learnt:
        """Train by the room's loop."""
        return learnt(self._network, source, method, plan, folder, stop)

    def export(self, folder: Path) -> None:
        """Write the folder as transformers does, with the alphabet beside it."""
        self.model.save_pretrained(folder, safe_serialization=True)
        if self.model.config.vocab_size == len(VOCABULARY):
            write_alphabet(folder)


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END_ID) + 1] if END_ID in ids else ids
