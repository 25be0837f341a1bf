"""Texts as tokens of a tokenizer of transformers: what is read is never empty, and what is written ends."""

import pytest

pytest.importorskip("transformers", reason="the extra `train` is not installed")

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from prsm.core.errors import ConfigError
from prsm.teachers.training.sources import NOTHING, padded
from prsm.teachers.training.spelling import TokenizerSpelling

WORDS = ["<eos>", "[CLS]", "[SEP]", "two", "and", "three"]


def spelling(*, marked: bool = False, **marks: str) -> TokenizerSpelling:
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[SEP]"))
    made.pre_tokenizer = Whitespace()
    if marked:
        made.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return TokenizerSpelling(transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks))


def test_an_empty_prompt_is_read_as_the_beginning_of_a_text() -> None:
    spelt = [spelling(eos_token="<eos>").pair(prompt, "two and three") for prompt in ("", "two and")]
    assert (spelt[0].prompt, spelt[0].answer) == ([0], [3, 4, 5, 0])
    batch = padded(spelt)
    for ids, targets in zip(batch["ids"].tolist(), batch["targets"].tolist(), strict=True):
        for here, following, target in zip(ids, [*ids[1:], 0], targets, strict=True):
            assert target in (NOTHING, following), f"after {here} comes {following}"


def test_an_encoder_ends_an_answer_with_its_separator() -> None:
    assert spelling(marked=True, sep_token="[SEP]").pair("two", "three").answer == [5, 2]


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="no token for the end"):
        spelling().pair("two", "three")
