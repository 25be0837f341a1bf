"""The numpy decoder: its KV cache changes nothing, and wrong weights are refused before use."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from prsm.core.errors import ConfigError
from prsm.teachers.decoder import Decoder, Shape, load_weights

SHAPE = Shape(layers=3, width=24, heads=3, hidden=40, vocabulary=17, features=(5, 7), context_tokens=32)
END = 16


def _weights(seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=size, scale=0.4).astype(dtype) for name, size in SHAPE.tensors().items()}


def _locator():
    count = -1

    def locate(token: int) -> tuple[int, int]:
        nonlocal count
        count += 1
        return count % 5, (token + count) % 7

    return locate


def _reference(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The network written a second time, plainly: one token at a time, every head a loop, no cache."""
    locate = _locator()
    x = np.array([weights["embed"][i] + sum(weights[f"features.{f}"][p] for f, p in enumerate(locate(i))) for i in ids])

    def norm(rows: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return rows / np.sqrt((rows**2).mean(-1, keepdims=True) + np.finfo(np.float32).eps) * gain

    size = SHAPE.width // SHAPE.heads
    for layer in range(SHAPE.layers):
        w = {name: weights[f"layers.{layer}.{name}"] for name in ("norm1", "qkv", "out", "norm2", "up", "down")}
        q, k, v = np.split(norm(x, w["norm1"]) @ w["qkv"].T, 3, axis=1)
        mixed = np.zeros_like(x)
        for head in range(SHAPE.heads):
            part = slice(head * size, (head + 1) * size)
            for at in range(len(ids)):
                scores = k[: at + 1, part] @ q[at, part] / np.sqrt(size)
                shares = np.exp(scores - scores.max())
                mixed[at, part] = shares / shares.sum() @ v[: at + 1, part]
        x = x + mixed @ w["out"].T
        x = x + np.maximum(norm(x, w["norm2"]) @ w["up"].T, 0) ** 2 @ w["down"].T
    return norm(x, weights["norm"]) @ weights["head"].T


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, END - 1), min_size=1, max_size=10))
def test_one_pass_equals_a_plain_reimplementation(seed: int, ids: list[int]) -> None:
    weights = _weights(seed)
    found = Decoder(SHAPE, weights).logits(ids, _locator())
    np.testing.assert_allclose(found, _reference(weights, ids), rtol=2e-3, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, END - 1), min_size=1, max_size=10))
def test_generation_with_the_cache_equals_recomputing_everything(seed: int, prompt: list[int]) -> None:
    decoder = Decoder(SHAPE, _weights(seed))
    generated = list(decoder.generate(prompt, _locator(), max_tokens=12, end=END))
    ids = list(prompt)
    for token in generated:
        logits = decoder.logits(ids, _locator())[-1]
        assert logits[token] >= logits.max() - 1e-3
        ids.append(token)
    assert len(generated) == 12 or decoder.logits(ids, _locator())[-1].argmax() == END


def test_the_context_bounds_a_generation() -> None:
    weights = _weights(1)
    weights["head"][END] = 0
    weights["head"][3] *= 10
    decoder = Decoder(SHAPE, weights)
    assert len(list(decoder.generate([1] * 30, _locator(), max_tokens=100, end=END))) <= 2
    with pytest.raises(ValueError, match="1 to 32 tokens"):
        list(decoder.generate([1] * 33, _locator(), max_tokens=1, end=END))
    with pytest.raises(ValueError, match="1 to 32 tokens"):
        list(decoder.generate([], _locator(), max_tokens=1, end=END))


def test_half_precision_weights_load_as_float32() -> None:
    weights = _weights(2, "float16")
    loaded = load_weights(save(weights), SHAPE)
    assert all(tensor.dtype == np.float32 for tensor in loaded.values())
    np.testing.assert_array_equal(loaded["head"], weights["head"].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("norm"), "'norm'"),
        (lambda w: w.update(extra=np.zeros(2, np.float32)), "'extra'"),
        (lambda w: w.update(norm=np.zeros(25, np.float32)), "norm is float32"),
        (lambda w: w.update(norm=np.zeros(24, np.int64)), "norm is int64"),
        (lambda w: w["head"].__setitem__((0, 0), np.nan), "not finite"),
        (lambda w: w["head"].__setitem__((0, 0), np.inf), "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, complaint: str) -> None:
    weights = _weights(3)
    change(weights)
    with pytest.raises(ConfigError, match=complaint):
        load_weights(save(weights), SHAPE)


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"])
def test_bytes_that_are_no_safetensors_file_are_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="not a valid safetensors file"):
        load_weights(data, SHAPE)


@pytest.mark.parametrize("field", ["layers", "width", "heads", "hidden", "vocabulary", "context_tokens"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_absurd_sizes_are_refused(field: str, value: int) -> None:
    sizes = {name: getattr(SHAPE, name) for name in Shape.__slots__}
    with pytest.raises(ConfigError, match=field):
        Shape(**(sizes | {field: value}))
