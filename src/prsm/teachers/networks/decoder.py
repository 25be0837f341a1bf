"""The small teachers' network in torch (extra ``train``): what ``shape.py`` describes, trainable and with a cache.

Parameters bear the names that transformers gives them, so that weights go over in both directions unchanged.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from prsm.teachers.shape import Shape

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values so far of each layer: (batch, kv heads, tokens, head width)."""


class Decoder(nn.Module):
    """A Llama decoder. Freshly made it is initialised from torch's global generator."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Body(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.apply(self._begin)

    def forward(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (batch, tokens, vocabulary) after each of ``ids`` (batch, tokens).

        ``mask`` (batch, past + tokens) is false where there is padding, which must be on one side only. ``positions``
        (batch, tokens) count from 0 where not given, also behind a ``cache``, which is extended in place (one pair a
        layer; begin with ``[]``). With packed sequences give ``mask`` of (batch, tokens, tokens): who sees whom.
        """
        return self.lm_head(self.model(ids, mask, positions, cache))

    def weights(self) -> dict[str, Tensor]:
        """The tensors of ``model.safetensors``, a tied head not twice."""
        names = self.shape.tensors()
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the tensors of a weights file; raises KeyError or RuntimeError where they are of another shape."""
        own = {name: weights[name] for name in self.shape.tensors()}
        if self.shape.tied:
            own["lm_head.weight"] = own["model.embed_tokens.weight"]
        self.load_state_dict(own)

    def _begin(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = 0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5
            nn.init.normal_(module.weight, std=scale)
        if isinstance(module, _Layer):  # residual branches begin small: the first steps are those of a shallow network
            for branch in (module.self_attn.o_proj, module.mlp.down_proj):
                nn.init.normal_(branch.weight, std=(branch.weight.shape[1] * 2 * self.shape.layers) ** -0.5)


class _Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList([_Layer(shape) for _ in range(shape.layers)])
        self.norm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)

    def forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Cache | None) -> Tensor:
        past = cache[0][0].shape[2] if cache else 0
        tokens = ids.shape[1]
        if positions is None:
            positions = torch.arange(past, past + tokens, device=ids.device)[None]
        seen = _seen(tokens, past, mask, ids.device)
        turns = _turns(positions, self.shape)
        x = self.embed_tokens(ids)
        for index, layer in enumerate(self.layers):
            x, pair = layer(x, turns, seen, cache[index] if cache and past else None)
            if cache is not None:
                cache[index : index + 1] = [pair]
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=shape.norm_epsilon)
        self.mlp = _FeedForward(shape)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], seen: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        mixed, pair = self.self_attn(self.input_layernorm(x), turns, seen, past)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), pair


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, keys, bias=False)
        self.v_proj = nn.Linear(shape.width, keys, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], seen: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, tokens, width = x.shape
        q, k, v = (
            projection(x).view(batch, tokens, -1, self.shape.head_width).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _turned(q, turns), _turned(k, turns)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        grouped = self.shape.kv_heads != self.shape.heads
        causal = seen is None and tokens > 1
        mixed = fn.scaled_dot_product_attention(q, k, v, seen, is_causal=causal, enable_gqa=grouped)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, width)), (k, v)


class _FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(fn.silu(self.gate_proj(x)) * self.up_proj(x))


def _seen(tokens: int, past: int, mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Who sees whom, (batch, 1, tokens, past + tokens); None where causality alone says it and nothing is cached."""
    if mask is not None and mask.ndim == 3:
        return mask[:, None]
    if mask is None and (past == 0 or tokens == 1):
        return None
    causal = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)
    if mask is None:
        return causal[None, None]
    itself = torch.eye(tokens, past + tokens, dtype=torch.bool, device=device).roll(past, 1)  # no row without any
    return (causal & mask[:, None, :].bool() | itself)[:, None]


def _turns(positions: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    half = torch.arange(0, shape.head_width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None, :, None].float() * shape.rope_theta ** (-half / shape.head_width)
    twice = torch.cat([angles, angles], -1)
    return twice.cos(), twice.sin()


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * turns[0] + torch.cat([-second, first], -1) * turns[1]).to(x.dtype)
