"""How a model's texts become tokens: by the small teachers' alphabet, or by whatever tokenizer a model came with."""

# transformers is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from dataclasses import dataclass
from typing import Any, Protocol

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import answer_ids, is_readable, prompt_ids, spelt
from prsm.teachers.training.sources import Pair


class Spelling(Protocol):
    """Text to tokens. ConfigError where a text cannot be spelt."""

    def text(self, text: str) -> list[int]:
        """Plain text, without marks."""
        ...

    def pair(self, prompt: str, answer: str, scratchpad: str = "") -> Pair:
        """A prompt as the model reads it, and what it should write, its end included."""
        ...


class AlphabetSpelling:
    """The small teachers' way."""

    def text(self, text: str) -> list[int]:
        """A token a character."""
        return spelt(_readable(text))

    def pair(self, prompt: str, answer: str, scratchpad: str = "") -> Pair:
        """``prompt <ask>``, then ``scratchpad <answer> answer <end>``."""
        return Pair(prompt_ids(_readable(prompt)), answer_ids(_readable(scratchpad), _readable(answer)))


@dataclass(frozen=True, slots=True)
class TokenizerSpelling:
    """By a tokenizer of transformers: a chat where it has a template, else prompt and answer as they stand."""

    tokenizer: Any

    def text(self, text: str) -> list[int]:
        """Plain text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def pair(self, prompt: str, answer: str, scratchpad: str = "") -> Pair:
        """The prompt as a user's message; the scratchpad before the answer on a line of its own; then the end.

        A prompt of no tokens is read as the beginning of a text. Encoders end with their separator.
        """
        said = self.text(f"{scratchpad}\n{answer}" if scratchpad else answer)
        end = self._mark("eos_token_id", "sep_token_id")
        return Pair(self._prompt(prompt) or [self._mark("bos_token_id", "eos_token_id", "cls_token_id")], [*said, end])

    def _prompt(self, prompt: str) -> list[int]:
        if not self.tokenizer.chat_template:
            return self.tokenizer.encode(prompt)
        messages = [{"role": "user", "content": prompt}]
        written = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.text(written)

    def _mark(self, *names: str) -> int:
        """The first of these tokens that the tokenizer has."""
        found = (getattr(self.tokenizer, name) for name in names)
        mark = next((each for each in found if each is not None), None)
        if mark is None:
            raise ConfigError("The model's tokenizer has no token for the end of a text.", param="model.name")
        return mark


def _readable(text: str) -> str:
    if not is_readable(text):
        strange = next(character for character in text if not is_readable(character))
        raise ConfigError(f"The alphabet of the small teachers has no {strange!r}.", param="data.path")
    return text
