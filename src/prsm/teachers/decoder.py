"""Runs a small decoder-only transformer on numpy alone: float32, greedy, one token at a time over a KV cache.

Weights come from a safetensors file that is checked (size, names, shapes, finite values) before the first use;
nothing is unpickled, and nothing here knows what the tokens mean.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from prsm.core.errors import ConfigError

Array: TypeAlias = NDArray[np.float32]
Locate: TypeAlias = Callable[[int], tuple[int, ...]]
"""Gives the structural position of each token in turn; it is called once per token, in order."""

_NORM_EPSILON = float(np.finfo(np.float32).eps)
_LIMITS = {"layers": 64, "width": 4096, "heads": 64, "hidden": 16384, "vocabulary": 65536, "context_tokens": 8192}


@dataclass(frozen=True, slots=True)
class Shape:
    """The network's sizes. ``features`` are the sizes of the position tables summed into each embedding."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    features: tuple[int, ...]
    context_tokens: int

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            if not 1 <= getattr(self, name) <= limit:
                raise ConfigError(f"The teacher's {name} must be 1 to {limit}.", remedy=_REMEDY, param=name)
        if self.width % self.heads:
            raise ConfigError("The teacher's width is not a multiple of its heads.", remedy=_REMEDY, param="heads")

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the weights file by name, with its shape."""
        width = self.width
        named: dict[str, tuple[int, ...]] = {
            "embed": (self.vocabulary, width),
            "norm": (width,),
            "head": (self.vocabulary, width),
        }
        named |= {f"features.{index}": (size, width) for index, size in enumerate(self.features)}
        for layer in range(self.layers):
            sizes = {"norm1": (width,), "qkv": (3 * width, width), "out": (width, width)}
            sizes |= {"norm2": (width,), "up": (self.hidden, width), "down": (width, self.hidden)}
            named |= {f"layers.{layer}.{name}": size for name, size in sizes.items()}
        return named


def load_weights(data: bytes, shape: Shape) -> dict[str, Array]:
    """The tensors of a safetensors file as float32, exactly those ``shape`` asks for; ConfigError on anything else."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ConfigError(f"The weights are not a valid safetensors file ({error}).", remedy=_REMEDY) from None
    expected = shape.tensors()
    if tensors.keys() != expected.keys():
        wrong = sorted(tensors.keys() ^ expected.keys())[0]
        raise ConfigError(f"The weights and their config disagree about the tensor {wrong!r}.", remedy=_REMEDY)
    weights: dict[str, Array] = {}
    for name, size in expected.items():
        tensor = tensors[name]
        if tensor.shape != size or tensor.dtype.name not in ("float16", "float32"):
            raise ConfigError(f"The tensor {name} is {tensor.dtype}{tensor.shape}, not {size}.", remedy=_REMEDY)
        weights[name] = tensor.astype(np.float32)
        if not np.isfinite(weights[name]).all():
            raise ConfigError(f"The tensor {name} holds values that are not finite.", remedy=_REMEDY)
    return weights


class Decoder:
    """A loaded network. It holds no state of a generation, so one instance may serve any number of threads."""

    def __init__(self, shape: Shape, weights: dict[str, Array]) -> None:
        self.shape = shape
        self._embed = weights["embed"]
        self._features = [weights[f"features.{index}"] for index in range(len(shape.features))]
        self._layers = [_layer(weights, index, shape) for index in range(shape.layers)]
        self._head = _fused(weights["head"], weights["norm"])

    def generate(self, prompt: Sequence[int], locate: Locate, *, max_tokens: int, end: int) -> Iterator[int]:
        """Greedy tokens after ``prompt``, each as soon as it is known; stops before ``end`` or after ``max_tokens``.

        Raises ValueError when the prompt is empty or the context cannot hold it.
        """
        room = self.shape.context_tokens - len(prompt)
        if not prompt or room < 0:
            raise ValueError(f"a prompt has 1 to {self.shape.context_tokens} tokens, not {len(prompt)}")
        budget = min(max_tokens, room)
        cache = _Cache(self.shape, len(prompt) + budget)
        fresh = list(prompt)
        for _ in range(budget):
            token = int(self._advance(fresh, [locate(index) for index in fresh], cache)[-1].argmax())
            if token == end:
                return
            yield token
            fresh = [token]

    def logits(self, ids: Sequence[int], locate: Locate) -> Array:
        """The scores after every token of ``ids`` in one pass without a cache: (tokens, vocabulary)."""
        return self._advance(ids, [locate(index) for index in ids], _Cache(self.shape, len(ids)))

    def _advance(self, ids: Sequence[int], positions: list[tuple[int, ...]], cache: "_Cache") -> Array:
        x = self._embed[list(ids)]
        for table, column in zip(self._features, zip(*positions, strict=True), strict=True):
            x = x + table[list(column)]
        for layer, (keys, values) in zip(self._layers, cache.layers, strict=True):
            x = x + _attend(_normal(x) @ layer.qkv, keys, values, cache.length) @ layer.out
            hidden = np.maximum(_normal(x) @ layer.up, 0.0)
            x = x + (hidden * hidden) @ layer.down
        cache.length += len(ids)
        return _normal(x) @ self._head


_REMEDY = "Reinstall the package, or train the teacher again with `python -m prsm.teachers.arithmetic.recipe`."


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's matrices, transposed for row vectors, with the norms' gains folded in."""

    qkv: Array
    out: Array
    up: Array
    down: Array


class _Cache:
    """Keys and values of the tokens so far, per layer: (heads, tokens, head width)."""

    __slots__ = ("layers", "length")

    def __init__(self, shape: Shape, tokens: int) -> None:
        size = (shape.heads, tokens, shape.width // shape.heads)
        self.layers = [(np.empty(size, np.float32), np.empty(size, np.float32)) for _ in range(shape.layers)]
        self.length = 0


def _layer(weights: dict[str, Array], index: int, shape: Shape) -> _Layer:
    named = {name: weights[f"layers.{index}.{name}"] for name in ("norm1", "qkv", "out", "norm2", "up", "down")}
    qkv = _fused(named["qkv"], named["norm1"])
    qkv[:, : shape.width] *= np.float32((shape.width // shape.heads) ** -0.5)
    return _Layer(qkv, _transposed(named["out"]), _fused(named["up"], named["norm2"]), _transposed(named["down"]))


def _fused(matrix: Array, gain: Array) -> Array:
    return _transposed(matrix * gain)


def _transposed(matrix: Array) -> Array:
    return np.ascontiguousarray(matrix.T)


def _normal(x: Array) -> Array:
    square = np.einsum("td,td->t", x, x)[:, None] / np.float32(x.shape[1])
    return x / np.sqrt(square + np.float32(_NORM_EPSILON))


def _attend(qkv: Array, keys: Array, values: Array, past: int) -> Array:
    fresh, width = qkv.shape[0], qkv.shape[1] // 3
    heads = keys.shape[0]
    q, k, v = qkv.reshape(fresh, 3, heads, width // heads).transpose(1, 2, 0, 3)
    total = past + fresh
    keys[:, past:total], values[:, past:total] = k, v
    scores = q @ keys[:, :total].transpose(0, 2, 1)
    if fresh > 1:
        scores = scores + np.triu(np.full((fresh, total), -np.inf, np.float32), past + 1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return (shares @ values[:, :total]).transpose(1, 0, 2).reshape(fresh, width)
