"""Any causal model or encoder that transformers loads from safetensors, as a network that the loop trains.

Code that comes with a model is never run, and pickles are never opened.
"""

# torch, transformers and peft are in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prsm.core.errors import ConfigError
from prsm.teachers.training.recipe import Lora, Transformers

_SAFELY: Final[dict[str, Any]] = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
_TASKS: Final = {"LanguageModel": "CAUSAL_LM", "RewardNetwork": "SEQ_CLS"}


class LanguageModel(nn.Module):
    """A causal model called as ``network(ids, mask, positions=...)``; gives logits."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor, mask: Tensor | None = None, *, positions: Tensor | None = None) -> Tensor:
        """Logits (rows, tokens, vocabulary); a mask of (rows, tokens, tokens) says who sees whom."""
        if mask is not None and mask.ndim == 3:
            hidden = torch.finfo(torch.float32).min
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, hidden)[:, None]
        return self.body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits


class RewardNetwork(nn.Module):
    """A causal model or an encoder with a scalar head, called as ``network(ids, last)``; gives a reward a row."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        """Rewards (rows,) of ``ids`` (rows, tokens), whose answers end at ``last`` (rows,)."""
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] <= last[:, None]
        ids = ids.masked_fill(~mask, self.body.config.pad_token_id)
        return self.body(input_ids=ids, attention_mask=mask.long()).logits[:, 0]


def load_language_model(model: Transformers) -> tuple[LanguageModel, Any]:
    """The causal model, in float32, and its tokenizer. Raises ConfigError where transformers cannot load it safely."""
    return _loaded(AutoModelForCausalLM, LanguageModel, model)


def load_reward_network(model: Transformers) -> tuple[RewardNetwork, Any]:
    """The model with a scalar head, new where it had none, and its tokenizer; raises as above."""
    return _loaded(AutoModelForSequenceClassification, RewardNetwork, model, num_labels=1, ignore_mismatched_sizes=True)


def save_hub_model(network: nn.Module, tokenizer: Any, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write a folder that transformers loads. Adapters are merged into it, and kept beside it in ``adapter/``.

    ``weights`` are the network's own by name, where it does not hold them whole itself.
    """
    body: Any = network.body
    own = {name.removeprefix("body."): tensor for name, tensor in weights.items()} if weights else None
    if isinstance(body, PeftModel):
        body.save_pretrained(str(folder.parent / "adapter"), state_dict=own)
        body, own = body.merge_and_unload(), None
    body.save_pretrained(str(folder), state_dict=own)
    tokenizer.save_pretrained(str(folder))


def _loaded(kind: Any, wrapper: Any, model: Transformers, **extra: Any) -> tuple[Any, Any]:
    try:
        revision = model.revision or "main"
        body = kind.from_pretrained(model.name, revision=revision, **_SAFELY, **extra)
        tokenizer = AutoTokenizer.from_pretrained(model.name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The model {model.name} cannot be loaded: {reason}", param="model.name") from error
    if body.config.pad_token_id is None:
        body.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    if model.lora:
        body = _adapted(body, model.lora, _TASKS[wrapper.__name__])
    return wrapper(body), tokenizer


def _adapted(body: Any, lora: Lora, task: str) -> Any:
    modules = lora.modules if lora.modules == "all-linear" else list(lora.modules)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules, task_type=task
    )
    return get_peft_model(body, config)
