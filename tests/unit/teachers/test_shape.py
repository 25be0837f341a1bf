"""A teacher's shape and its config.json, and that transformers computes with its weights what this network does."""

from typing import Any

import pytest

from prsm.core.errors import ConfigError
from prsm.teachers.shape import Shape, read_config

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `train` is not installed")

from prsm.teachers.networks.decoder import Decoder  # noqa: E402 - needs torch

SIZES: dict[str, Any] = {
    "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "hidden": 48, "vocabulary": 100, "context_tokens": 64,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_a_config_is_read_back(tied: bool) -> None:
    shape = Shape(**SIZES, tied=tied, rope_theta=500.0)
    assert read_config(shape.config()) == shape
    assert shape.parameters() == sum(tensor.numel() for tensor in Decoder(shape).weights().values())


@pytest.mark.parametrize("name", ["layers", "width", "heads", "kv_heads", "hidden", "vocabulary", "context_tokens"])
@pytest.mark.parametrize("value", [0, 1_000_000])
def test_a_size_out_of_bounds_is_named(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=name):
        Shape(**SIZES | {name: value})


def test_heads_must_divide() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        Shape(**SIZES | {"heads": 3})
    with pytest.raises(ConfigError, match="multiple"):
        Shape(**SIZES | {"kv_heads": 3})


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"hidden_size": None},
        {"head_dim": 16},
        {"attention_bias": True},
        {"vocab_size": "9"},
        {"num_hidden_layers": True},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"rope_parameters": [1]},
        {"rope_parameters": {"rope_theta": "many"}},
        {"rms_norm_eps": 0},
    ],
)
def test_another_models_config_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_config(Shape(**SIZES).config() | change)


def test_the_base_of_positions_is_read_where_older_programs_keep_it() -> None:
    config = Shape(**SIZES).config() | {"rope_parameters": None, "rope_theta": 500}
    assert read_config(config).rope_theta == 500.0


@pytest.fixture(params=[1, 2, 4], ids="kv_heads={}".format)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    torch.manual_seed(7)
    return Decoder(Shape(**SIZES | {"kv_heads": request.param}))


def test_transformers_computes_the_same(decoder: Decoder) -> None:
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder.shape.config()))
    peer.load_state_dict(decoder.weights() | {"lm_head.weight": decoder.lm_head.weight})
    ids = torch.randint(0, 100, (3, 17))
    mask = torch.ones(3, 17, dtype=torch.bool)
    mask[0, :5] = False
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(decoder(ids), peer(ids).logits, rtol=1e-4, atol=1e-5)
    ours = decoder(ids, mask, positions=positions)[mask]
    theirs = peer(ids, attention_mask=mask.long(), position_ids=positions).logits[mask]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_cache_changes_nothing(decoder: Decoder) -> None:
    ids = torch.randint(0, 100, (2, 12))
    cache: list[Any] = []
    parts = [decoder(ids[:, :5], cache=cache), decoder(ids[:, 5:6], cache=cache), decoder(ids[:, 6:], cache=cache)]
    torch.testing.assert_close(torch.cat(parts, 1), decoder(ids), rtol=1e-4, atol=1e-5)


def test_weights_go_over(decoder: Decoder) -> None:
    other = Decoder(decoder.shape)
    other.load(decoder.weights())
    ids = torch.randint(0, 100, (1, 9))
    assert torch.equal(other(ids), decoder(ids))
    with pytest.raises(KeyError):
        other.load({})
