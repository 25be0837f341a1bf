"""What is known of an imported model, and what is asked for in a sentence instead of guessed."""

import dataclasses
from typing import Any

import pytest

from prsm.core.errors import PrsmError
from prsm.data_layer.formats.model_contents import ModelFormat
from prsm.data_layer.formats.weight_sets import WeightSet
from prsm.federation.hub_download import HubFile, HubModel
from prsm.node.import_facts import Said, Wish, card_licence, check_known, said_by_hub, selected, version_of

CID = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
MODEL = HubModel(
    repository="acme/chat-7b",
    revision="0123456789abcdef0123456789abcdef01234567",
    files=(HubFile("model.safetensors", 8, sha256="0" * 64), HubFile("pytorch_model.bin", 8, sha256="0" * 64)),
    licence="apache-2.0",
    tags=("conversational", "llama"),
    task="text-generation",
    page_url="http://hub/acme/chat-7b",
)
WEIGHTS = WeightSet(
    files=("model.safetensors",),
    format=ModelFormat.SAFETENSORS,
    kind="model",
    size_bytes=8,
    elements=4,
    parameters=4,
    bytes_by_dtype={"F16": 8},
    architectures=("LlamaForCausalLM",),
    model_type="llama",
    context_length=4_096,
    quantisation=None,
    base_model=None,
)


def hub(**more: Any) -> Said:
    return said_by_hub("hf:", dataclasses.replace(MODEL, **more))


def test_what_the_hub_and_the_files_say_is_enough() -> None:
    version = version_of(Wish("hf:acme/chat-7b"), hub(), CID, [WEIGHTS], "")
    assert (version.model, version.version, version.weights_cid) == ("chat-7b", "0123456789ab", CID)
    assert (version.capabilities, version.context_tokens, version.licence) == (("chat",), 4_096, "apache-2.0")
    assert MODEL.revision in version.description


def test_what_is_wished_goes_before() -> None:
    wish = Wish("x", "mine", "v1", ("tools", "chat", "vision"), 99, "MIT", "Adds.")
    version = version_of(wish, hub(), CID, [WEIGHTS], "---\nlicense: gpl-3.0\n---\n")
    assert (version.model, version.version, version.context_tokens, version.licence) == ("mine", "v1", 99, "MIT")
    assert (version.capabilities, version.input_modalities) == (("chat", "tools", "vision"), ("image", "text"))
    assert version.description == "Adds."


def test_the_model_counts_and_not_what_lies_beside_it() -> None:
    adapter = dataclasses.replace(WEIGHTS, kind="adapter", context_length=7)
    assert version_of(Wish("x"), hub(), CID, [adapter, WEIGHTS], "").context_tokens == 4_096
    assert version_of(Wish("x"), hub(), CID, [adapter], "").context_tokens == 7


@pytest.mark.parametrize(
    ("task", "tags", "able"),
    [
        ("image-text-to-text", ("conversational",), ("chat", "vision")),
        ("feature-extraction", (), ("embeddings",)),
        ("sentence-similarity", (), ("embeddings",)),
        ("text-generation", ("llama",), ()),
        ("", (), ()),
    ],
)
def test_capabilities_are_those_that_the_hub_states(task: str, tags: tuple[str, ...], able: tuple[str, ...]) -> None:
    assert hub(task=task, tags=tags).capabilities == able


def test_an_embedder_gives_embeddings() -> None:
    version = version_of(Wish("x"), hub(task="feature-extraction", tags=()), CID, [WEIGHTS], "")
    assert (version.capabilities, version.output_modalities) == (("embeddings",), ("embeddings",))


@pytest.mark.parametrize(
    ("wish", "said", "weights", "told"),
    [
        (Wish(CID), Said(CID, "", "cid-1"), WEIGHTS, "--model"),
        (Wish(CID, "m"), Said(CID, "", "cid-1", "mit"), WEIGHTS, "--capability"),
        (Wish(CID, "m", capabilities=("chat",)), Said(CID, "", "cid-1"), WEIGHTS, "--licence"),
        (Wish("x"), hub(), dataclasses.replace(WEIGHTS, context_length=None), "--context-tokens"),
    ],
)
def test_what_nobody_says_is_asked_for(wish: Wish, said: Said, weights: WeightSet, told: str) -> None:
    with pytest.raises(PrsmError) as caught:
        version_of(wish, said, CID, [weights], "")
    assert told in str(caught.value)


def test_what_is_missing_is_said_before_a_download() -> None:
    for said, told in ((hub(licence=""), "--licence"), (hub(tags=()), "--capability")):
        with pytest.raises(PrsmError) as caught:
            check_known(Wish("hf:acme/chat-7b"), said, MODEL.page_url)
        assert told in str(caught.value)
    assert MODEL.page_url in str(_refusal(hub(licence="")))
    check_known(Wish("x", capabilities=("chat",), licence="MIT"), hub(tags=(), licence=""), "")


def test_a_repository_without_safetensors_is_refused_with_its_reason() -> None:
    assert selected(MODEL).left_out == ("pytorch_model.bin",)
    with pytest.raises(PrsmError) as caught:
        selected(dataclasses.replace(MODEL, files=MODEL.files[1:]))
    assert caught.value.code == "no_safetensors"
    assert "pytorch_model.bin is a pickle" in str(caught.value)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# Card", "mit"),
        ("---\nlanguage: en\nlicense: 'apache-2.0'  \ntags: [x]\n---\n", "apache-2.0"),
        ("\n---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("# Card\nlicense: mit\n", ""),
        ("# Card\n---\nlicense: mit\n---\n", ""),
        ("---\nlicense:\n  - mit\n---\n", ""),
        ("---\nother_license: mit\n---\n", ""),
        ("---\nlicense: two words\n---\n", ""),
        ("---\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_of_a_card(card: str, licence: str) -> None:
    assert card_licence(card) == licence


def _refusal(said: Said) -> PrsmError:
    with pytest.raises(PrsmError) as caught:
        check_known(Wish("x"), said, MODEL.page_url)
    return caught.value
