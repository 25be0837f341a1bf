"""The embedded arithmetic teacher: reads a question, lets the network work it out, and streams what it writes.

The scratchpad comes as reasoning, the final answer as content. No result is computed, checked or mended in Python.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from prsm.core.errors import ConfigError, InvalidRequest
from prsm.teachers.arithmetic.phrasing import DOMAIN, read
from prsm.teachers.arithmetic.tokens import ANSWER, END, FEATURE_SIZES, TOKENS, Locator, encode
from prsm.teachers.decoder import Decoder, Shape, load_weights
from prsm.teachers.seams import Piece

ASSETS = Path(__file__).parent.parent / "assets" / "arithmetic"
FILES = ("model.safetensors", "config.json", "vocab.json")
MAX_OUTPUT_TOKENS = 320
MAX_FILE_BYTES = 20_000_000
_Form = TypeVar("_Form")
_REMEDY = "Reinstall the package, or point at a folder written by `python -m prsm.teachers.arithmetic.recipe`."


class ArithmeticTeacher:
    """A loaded teacher; safe to share between threads."""

    domain = DOMAIN
    max_tokens = MAX_OUTPUT_TOKENS

    def __init__(self, decoder: Decoder, version: str) -> None:
        self._decoder = decoder
        self.version = version

    @classmethod
    def load(cls, directory: Path | None = None) -> "ArithmeticTeacher":
        """The teacher in ``directory``, or the one shipped in this package.

        Raises ConfigError when a file is missing, differs from the manifest, or does not fit this code.
        """
        files, version = _checked(directory or ASSETS)
        if _decoded(files["vocab.json"], "vocab.json", tuple[str, ...]) != TOKENS:
            raise ConfigError("The teacher's vocab.json is not this version's vocabulary.", remedy=_REMEDY)
        shape = _decoded(files["config.json"], "config.json", _Config).shape
        if shape.features != FEATURE_SIZES or shape.vocabulary != len(TOKENS):
            raise ConfigError("The teacher's config.json does not fit this version's alphabet.", remedy=_REMEDY)
        return cls(Decoder(shape, load_weights(files["model.safetensors"], shape)), version)

    def understands(self, text: str) -> bool:
        """Whether ``text`` asks something of a kind and size the teacher was trained for."""
        return read(text) is not None

    def count_tokens(self, text: str) -> int:
        """How many tokens the teacher reads for ``text``; 0 when it does not understand it."""
        problem = read(text)
        return len(encode(problem.canonical)) if problem else 0

    def room(self, text: str) -> int:
        """The most tokens it writes for ``text``."""
        return min(MAX_OUTPUT_TOKENS, self._decoder.shape.context_tokens - self.count_tokens(text))

    def answer(self, text: str, max_tokens: int = MAX_OUTPUT_TOKENS) -> Iterator[Piece]:
        """One piece per generated token, as it is generated. Raises InvalidRequest when not understood."""
        problem = read(text)
        if problem is None:
            raise InvalidRequest(f"This teacher answers only {DOMAIN}.", code="outside_domain")
        return self._pieces(encode(problem.canonical), min(max_tokens, MAX_OUTPUT_TOKENS))

    def _pieces(self, prompt: list[int], max_tokens: int) -> Iterator[Piece]:
        is_reasoning = True
        for token in self._decoder.generate(prompt, Locator().step, max_tokens=max_tokens, end=END):
            name = TOKENS[token]
            if token == ANSWER:
                is_reasoning = False
                yield Piece("", is_reasoning=True)
            elif is_reasoning:
                yield Piece(name if name.isdigit() else f" {name} ", is_reasoning=True)
            else:
                yield Piece("" if name == "_" else name, is_reasoning=False)


@dataclass(frozen=True, slots=True)
class _Manifest:
    version: str
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Config:
    shape: Shape


def _checked(folder: Path) -> tuple[dict[str, bytes], str]:
    """The files of ``folder`` after their hashes were found right, and the version: the start of the weights' hash."""
    digests = _decoded(_read(folder / "manifest.json"), "manifest.json", _Manifest).sha256
    if digests.keys() != set(FILES):
        raise ConfigError(f"{folder / 'manifest.json'} does not list {', '.join(FILES)}.", remedy=_REMEDY)
    files = {name: _read(folder / name) for name in FILES}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[name]:
            raise ConfigError(f"{folder / name} is not the file its manifest names (SHA-256 differs).", remedy=_REMEDY)
    return files, digests["model.safetensors"][:12]


def _decoded(data: bytes, name: str, form: type[_Form]) -> _Form:
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"The teacher's {name} is not as expected: {error}.", remedy=_REMEDY) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", remedy=_REMEDY) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes.", remedy=_REMEDY)
    return data
