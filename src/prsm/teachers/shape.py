"""The sizes of a small teacher and its ``config.json``: the decoder of Llama, so that other programs run it too.

Pre-norm with RMS norms, rotary positions (halves rotated, as transformers does), gated SiLU feed-forward, no biases
(Touvron et al. 2023, arXiv:2302.13971); fewer key heads than query heads where asked (arXiv:2305.13245).
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from msgspec import Struct

from prsm.core.errors import ConfigError

_LIMITS: Final = {
    "layers": 64, "width": 4096, "heads": 64, "kv_heads": 64, "hidden": 16_384, "vocabulary": 65_536,
    "context_tokens": 8_192,
}  # fmt: skip
_NAMES: Final = {
    "layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads", "hidden": "intermediate_size", "vocabulary": "vocab_size",
    "context_tokens": "max_position_embeddings",
}  # fmt: skip


class Shape(Struct, frozen=True, kw_only=True):
    """A decoder's sizes; ``tied`` shares the embedding with the output head. ConfigError names what is too large."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    context_tokens: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    tied: bool = True

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"A teacher's {name} must be 1 to {limit}.", param=name)
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ConfigError(
                "A teacher's width must be an even multiple of its heads, and these a multiple of its kv_heads.",
                param="heads",
            )

    @property
    def head_width(self) -> int:
        """Components of one head's queries, keys and values."""
        return self.width // self.heads

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weights file by name, with its shape, as transformers names them."""
        width, keys = self.width, self.kv_heads * self.head_width
        named: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, width)}
        for layer in range(self.layers):
            sizes = {
                "input_layernorm": (width,),
                "self_attn.q_proj": (width, width),
                "self_attn.k_proj": (keys, width),
                "self_attn.v_proj": (keys, width),
                "self_attn.o_proj": (width, width),
                "post_attention_layernorm": (width,),
                "mlp.gate_proj": (self.hidden, width),
                "mlp.up_proj": (self.hidden, width),
                "mlp.down_proj": (width, self.hidden),
            }
            named |= {f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()}
        named["model.norm.weight"] = (width,)
        if not self.tied:
            named["lm_head.weight"] = (self.vocabulary, width)
        return named

    def parameters(self) -> int:
        """How many weights there are."""
        total = 0
        for size in self.tensors().values():
            total += size[0] * (size[1] if len(size) > 1 else 1)
        return total

    def config(self) -> dict[str, Any]:
        """``config.json``, as transformers reads it."""
        return {name: getattr(self, ours) for ours, name in _NAMES.items()} | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tied,
            "bos_token_id": None,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "dtype": "float32",
        }


def read_config(config: Mapping[str, Any]) -> Shape:
    """The shape that a ``config.json`` states. Raises ConfigError where it is not such a decoder or lacks a size."""
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        raise ConfigError("The config.json is not of a Llama decoder without biases.", param="model_type")
    if config.get("hidden_act", "silu") != "silu" or config.get("rope_scaling"):
        raise ConfigError("The config.json asks for another activation or stretched positions.", param="hidden_act")
    missing = [name for name in _NAMES.values() if type(config.get(name)) is not int]
    if missing:
        raise ConfigError(f"The config.json has no whole number {missing[0]}.", param=missing[0])
    sizes: dict[str, int] = {ours: config[name] for ours, name in _NAMES.items()}
    shape = Shape(
        **sizes,
        rope_theta=_number(_rope(config), "rope_theta", 10_000.0),
        norm_epsilon=_number(config, "rms_norm_eps", 1e-5),
        tied=config.get("tie_word_embeddings", False) is True,
    )
    if config.get("head_dim") not in (None, shape.head_width):
        raise ConfigError("The config.json has a head_dim of its own, which these teachers have not.", param="head_dim")
    return shape


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the base of the positions stands: in ``rope_parameters``, before transformers 5 in the config itself."""
    rope: Any = config.get("rope_parameters")
    if rope is None:
        return config
    if not isinstance(rope, dict) or cast("dict[str, Any]", rope).get("rope_type", "default") != "default":
        raise ConfigError("The config.json asks for stretched positions.", param="rope_parameters")
    return cast("dict[str, Any]", {"rope_theta": config.get("rope_theta")} | rope)


def _number(config: Mapping[str, Any], name: str, otherwise: float) -> float:
    given: Any = config.get(name)
    value = otherwise if given is None else given
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ConfigError(f"The config.json's {name} is no number above 0.", param=name)
    return float(value)
