"""The alphabet of the small teachers: one token a character of printable ASCII and the line feed, and four marks.

A teacher reads ``question <ask>`` and writes ``scratchpad <answer> answer <end>``. It is kept as a ``tokenizer.json``,
so that other programs read these teachers as they read any model.
"""

import string
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

PAD, ASK, ANSWER, END = "<pad>", "<ask>", "<answer>", "<end>"
MARKS: Final = (PAD, ASK, ANSWER, END)
PAD_ID, ASK_ID, ANSWER_ID, END_ID = range(4)
CHARACTERS: Final = "\n" + "".join(sorted(set(string.printable) - set(string.whitespace) | {" "}))
VOCABULARY: Final = (*MARKS, *CHARACTERS)
CHAT_TEMPLATE: Final = "{{ messages[-1]['content'] }}" + ASK
"""How a conversation becomes a prompt: the last message alone is read."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a teacher wrote: its scratchpad, its answer, and whether it said ``<answer>`` once and ended by itself."""

    scratchpad: str
    answer: str
    is_whole: bool


def alphabet() -> Tokenizer:
    """The tokenizer. A character outside the alphabet has no token: ask ``is_readable`` before."""
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token=PAD))
    marks = [AddedToken(mark, special=True, normalized=False) for mark in MARKS]
    tokenizer.add_special_tokens(marks)  # pyright: ignore[reportUnknownMemberType] - its stub says list
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return tokenizer


def is_readable(text: str) -> bool:
    """Whether every character has a token."""
    return set(text) <= set(CHARACTERS)


_IDS: Final = {character: index for index, character in enumerate(VOCABULARY) if len(character) == 1}


def spelt(text: str) -> list[int]:
    """The tokens of plain text, without marks. Raises KeyError for a character outside the alphabet."""
    return [_IDS[character] for character in text]


def prompt_ids(question: str) -> list[int]:
    """What a teacher reads for a question."""
    return [*spelt(question), ASK_ID]


def answer_ids(scratchpad: str, answer: str) -> list[int]:
    """What a teacher should write: the targets of a demonstration."""
    return [*spelt(scratchpad), ANSWER_ID, *spelt(answer), END_ID]


def read(ids: list[int]) -> Written:
    """What the tokens that a teacher wrote say, up to the first ``<end>``."""
    ended = END_ID in ids
    said = ids[: ids.index(END_ID)] if ended else ids
    at = said.index(ANSWER_ID) if ANSWER_ID in said else len(said)
    marks = [token for token in said if token < len(MARKS)]
    return Written(_text(said[:at]), _text(said[at + 1 :]), ended and marks == [ANSWER_ID])


def tokenizer_config() -> dict[str, Any]:
    """``tokenizer_config.json`` beside it, as transformers reads it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }


def _text(ids: list[int]) -> str:
    return "".join(VOCABULARY[token] for token in ids if token >= len(MARKS))
