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
        """The prompt as a user's message; the scratchpad before the answer on a line of its own; then the end."""
        said = self.text(f"{scratchpad}\n{answer}" if scratchpad else answer)
        return Pair(self._prompt(prompt), [*said, self.tokenizer.eos_token_id])

    def _prompt(self, prompt: str) -> list[int]:
        if not self.tokenizer.chat_template:
            return self.tokenizer.encode(prompt)
        messages = [{"role": "user", "content": prompt}]
        written = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.text(written)


def _readable(text: str) -> str:
    if not is_readable(text):
        strange = next(character for character in text if not is_readable(character))
        raise ConfigError(f"The alphabet of the small teachers has no {strange!r}.", param="data.path")
    return text
