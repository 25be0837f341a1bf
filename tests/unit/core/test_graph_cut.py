"""A part cut out of the encoder computes what it computed within the whole; what grows out of it changes no vector."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from prsm.core import encoder as encoder_module
from prsm.core.encoder import MAX_TOKENS, TextEncoder
from prsm.core.errors import InvalidRequest
from prsm.core.graph_cut import cut

MODEL = (Path(encoder_module.__file__).parent / "assets" / "encoder" / "model.onnx").read_bytes()
MIDDLE = "encoder.layer.2.output.LayerNorm"
AXES = ("batch", "tokens", "384")


def test_head_and_tail_together_are_the_whole() -> None:
    head, tail = cut(MODEL, {}, {MIDDLE: AXES}), cut(MODEL, {MIDDLE: AXES}, {"embedding": ("batch", "384")})
    assert len(head) < len(MODEL)
    assert len(tail) < len(MODEL) / 3
    sessions = [onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"]) for part in (MODEL, head, tail)]
    fed = {"input_ids": np.array([[101, 7592, 2088, 102]]), "attention_mask": np.ones((1, 4), np.int64)}
    (whole,) = sessions[0].run(["embedding"], fed)
    (middle,) = sessions[1].run([MIDDLE], fed)
    (joined,) = sessions[2].run(["embedding"], {MIDDLE: middle, "attention_mask": fed["attention_mask"]})
    np.testing.assert_allclose(joined, whole, atol=5e-3)


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        cut(MODEL, {}, {"nowhere": AXES})


def test_a_branch_reads_rows_by_text_and_by_token() -> None:
    encoder = TextEncoder.load()
    branch = encoder.branch(b"", {"embedding": ("batch", "384"), MIDDLE: AXES})
    texts = ["hello world", "", "a longer text of several words"]
    rows = [encoder.tokens(text).ids for text in texts]
    read = branch.read(rows)
    np.testing.assert_allclose(np.array(read["embedding"]), encoder.encode(texts), atol=5e-3)
    assert [states.shape for states in read[MIDDLE]] == [(len(row), 384) for row in rows]
    with pytest.raises(InvalidRequest):
        branch.read([[7] * (MAX_TOKENS - 1)])


def test_tokens_stand_for_characters_of_the_text() -> None:
    encoder = TextEncoder.load()
    text = "Zürich \ud83d\ude02 is nice \ud800!"
    tokens = encoder.tokens(text)
    assert len(tokens.ids) == len(tokens.offsets)
    assert tokens.offsets[-1] == (len(text) - 1, len(text))
    assert encoder.tokens("").ids == []
