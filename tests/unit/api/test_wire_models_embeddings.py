"""Lists of models and embeddings, read back by both SDKs."""

import base64
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from tests.unit.api.wire_sdk import Served

from prsm.agents.call import Embeddings, Usage
from prsm.api.wire import models, openai_embeddings
from prsm.core.errors import InvalidRequest

MAX = 1 << 20
ENTRIES = [
    models.ModelEntry(
        id=f"maker/m{number}",
        created=datetime(2026, 1, 2, tzinfo=UTC),
        owned_by="maker",
        context_tokens=8192,
        max_output_tokens=1024,
        prsm={"input_price_micro": 5},
    )
    for number in range(5)
]


def test_the_openai_sdk_lists_and_retrieves() -> None:
    listed = Served(models.openai_list(ENTRIES)).openai().models.list()
    assert [model.id for model in listed] == [entry.id for entry in ENTRIES]
    one = Served(models.openai_model(ENTRIES[0])).openai().models.retrieve("maker/m0")
    assert (one.owned_by, one.created) == ("maker", 1767312000)
    assert one.model_extra == {"prsm": {"input_price_micro": 5}}


def test_the_anthropic_sdk_lists_and_retrieves() -> None:
    page = Served(models.anthropic_list(ENTRIES, limit=2)).anthropic().models.list()
    assert [model.id for model in page.data] == ["maker/m0", "maker/m1"]
    assert (page.has_more, page.last_id) == (True, "maker/m1")
    one = Served(models.anthropic_model(ENTRIES[0])).anthropic().models.retrieve("maker/m0")
    assert (one.display_name, one.max_input_tokens) == ("maker/m0", 8192)
    assert one.created_at == datetime(2026, 1, 2, tzinfo=UTC)


def test_pages_forward_and_back_cover_the_list() -> None:
    def ids(body: bytes) -> tuple[list[str], bool]:
        page = msgspec.json.decode(body)
        return [model["id"][-1] for model in page["data"]], page["has_more"]

    assert ids(models.anthropic_list(ENTRIES, limit=2, after_id="maker/m1")) == (["2", "3"], True)
    assert ids(models.anthropic_list(ENTRIES, limit=2, after_id="maker/m3")) == (["4"], False)
    assert ids(models.anthropic_list(ENTRIES, limit=2, before_id="maker/m3")) == (["1", "2"], True)
    assert ids(models.anthropic_list(ENTRIES, limit=2, before_id="maker/m2")) == (["0", "1"], False)
    assert ids(models.anthropic_list([])) == ([], False)
    for wrong in ({"limit": 0}, {"limit": 1001}, {"after_id": "x"}, {"after_id": "maker/m1", "before_id": "maker/m1"}):
        with pytest.raises(InvalidRequest):
            models.anthropic_list(ENTRIES, **wrong)  # pyright: ignore[reportArgumentType]


def test_the_openai_sdk_reads_embeddings_in_both_encodings() -> None:
    vectors = np.random.default_rng(1).standard_normal((2, 384)).astype(np.float32)
    answer = Embeddings(vectors=vectors.tolist(), usage=Usage(7, 0))
    for wanted in (False, True):
        served = Served(openai_embeddings.render(answer, model="m", prsm={"cost_micro": 1}, base64=wanted))
        # Its own types know no base64, so it cannot be strict about what it asked for.
        got = served.openai(strict=False).embeddings.create(model="m", input=["a", "b"])
        # The SDK asks for base64 on its own and turns it into numbers.
        assert openai_embeddings.parse(served.seen, max_bytes=MAX).base64
        assert np.array_equal(np.array([item.embedding for item in got.data], dtype=np.float32), vectors)
        assert got.usage.total_tokens == 7
    raw = msgspec.json.decode(openai_embeddings.render(answer, model="m", prsm={}, base64=True))
    assert np.array_equal(np.frombuffer(base64.b64decode(raw["data"][1]["embedding"]), dtype="<f4"), vectors[1])


def test_embedding_requests() -> None:
    def parse(**fields: object) -> openai_embeddings.ParsedEmbed:
        return openai_embeddings.parse(msgspec.json.encode({"model": "m", **fields}), max_bytes=MAX)

    assert parse(input="a").texts == ["a"]
    assert parse(input=["a", "b"], dimensions=64).dimensions == 64
    for fields, param in (
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse(**fields)
        assert caught.value.param == param
