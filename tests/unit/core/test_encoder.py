"""The encoder in eight bits against float32 vectors of the original model, which tools/build_encoder.py stores here."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prsm.core import encoder as encoder_module
from prsm.core.encoder import DIMENSION, MAX_TOKENS, TextEncoder
from prsm.core.errors import ConfigError, InvalidRequest

ASSETS = Path(encoder_module.__file__).parent / "assets" / "encoder"
MIXED = [
    "hello",
    "",
    "The quick brown fox jumps over the lazy dog. " * 30,
    "¿Dónde está la biblioteca?",
    "日本語",
    "hello",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


def test_vectors_stay_near_the_float32_model(encoder: TextEncoder) -> None:
    reference = np.load(Path(__file__).parent / "encoder_reference.npz")
    vectors = encoder.encode(reference["texts"].tolist())
    cosine = np.sum(vectors * reference["vectors"], axis=1)
    assert len(cosine) >= 20
    assert cosine.mean() > 0.9985
    assert cosine.min() > 0.99


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2 avx2 fma", True),
        ("fpu sse2 avx512f avx512_vnni", False),
        ("fpu sse2 avx_vnni", False),
        ("fp asimd dotprod", False),
    ],
)
def test_processors_that_would_cut_sums_are_known(flags: str, expected: bool) -> None:
    assert encoder_module.adds_in_16_bits(f"model name : any\nflags : {flags} end\n") is expected


def test_such_a_processor_gets_the_same_vectors(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu sse2 avx2 fma\n")
    monkeypatch.setattr(encoder_module, "_CPU", tmp_path / "cpuinfo")
    np.testing.assert_array_equal(TextEncoder.load().encode(MIXED), encoder.encode(MIXED))


def test_vectors_have_unit_length_and_the_callers_order(encoder: TextEncoder) -> None:
    vectors = encoder.encode(MIXED)
    assert vectors.shape == (len(MIXED), DIMENSION)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[-1], atol=1e-5)


def test_meaning_orders_the_neighbours(encoder: TextEncoder) -> None:
    question, near, far = encoder.encode(["What is 12 + 30?", "a model for arithmetic sums", "a recipe for apple pie"])
    assert question @ near > question @ far + 0.1


def test_a_vector_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    alone = np.concatenate([encoder.encode([text]) for text in MIXED])
    np.testing.assert_allclose(encoder.encode(MIXED), alone, atol=1e-4)


def test_same_text_same_bytes(encoder: TextEncoder) -> None:
    assert encoder.encode(MIXED).tobytes() == TextEncoder.load().encode(MIXED).tobytes()


def test_no_texts_give_no_vectors(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, DIMENSION)


def test_one_text_in_place_of_a_sequence_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidRequest):
        encoder.encode("hello")


def test_counts_tokens_with_markers_beyond_the_limit(encoder: TextEncoder) -> None:
    assert encoder.count_tokens("") == 2
    assert encoder.count_tokens("hello world") == 4
    assert encoder.count_tokens("word " * 1000) == 1002


def test_what_stands_beyond_the_limit_is_not_read(encoder: TextEncoder) -> None:
    kept = MAX_TOKENS - 2
    vectors = encoder.encode(["word " * kept, "word " * kept + "pie " * 500, "word " * (kept - 1) + "pie"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_surrogates(encoder: TextEncoder) -> None:
    joined, halves, plain, lone = encoder.encode(["so 😂", "so \ud83d\ude02", "so sad", "so \ud83d sad"])
    np.testing.assert_allclose(joined, halves, atol=1e-6)
    np.testing.assert_allclose(plain, lone, atol=1e-6)
    assert encoder.count_tokens("\udc00") == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), max_size=6))
def test_any_text_has_a_finite_unit_vector(encoder: TextEncoder, texts: list[str]) -> None:
    vectors = encoder.encode(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


async def test_threads_share_one_encoder(encoder: TextEncoder) -> None:
    expected = encoder.encode(MIXED)
    answers = await asyncio.gather(*(asyncio.to_thread(encoder.encode, MIXED) for _ in range(8)))
    assert all(np.array_equal(answer, expected) for answer in answers)


@given(st.lists(st.integers(2, MAX_TOKENS), max_size=200))
def test_batches_hold_each_text_once_within_the_bound(lengths: list[int]) -> None:
    batches = encoder_module._batches(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[i] for i in batch) <= encoder_module._MAX_BATCH_TOKENS for batch in batches)


def _flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip_a_byte, "model.onnx does not have the SHA-256"),
        (lambda folder: (folder / "NOTICE").write_text("mine"), "NOTICE does not have the SHA-256"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is not a manifest"),
        (
            lambda folder: (folder / "manifest.json").write_text(
                '{"model":"m","dimension":384,"max_tokens":256,"sha256":{}}'
            ),
            "does not name model.onnx, tokenizer.json",
        ),
    ],
)
def test_damaged_files_stop_the_start(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    folder = shutil.copytree(ASSETS, tmp_path / "encoder")
    damage(folder)
    with pytest.raises(ConfigError, match=says):
        TextEncoder.load(folder)


def test_loading_leaves_no_trace_of_a_telemetry_that_would_tell_others(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    load = "from prsm.core.encoder import TextEncoder; TextEncoder.load().encode(['a'])"
    subprocess.run([sys.executable, "-c", load], env=env, check=True)
    assert not list(tmp_path.rglob("*"))
