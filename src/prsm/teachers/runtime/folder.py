"""A model's folder on the disk: which files it has, within which bounds, and that they are what its manifest says.

Everything is checked when the folder is opened; the weights are read again when they are needed, and must still be
those that were checked.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec
from tokenizers import Tokenizer

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import VOCABULARY
from prsm.teachers.runtime.int8 import Matrix
from prsm.teachers.runtime.weights import INT8_CONFIG, read_weights
from prsm.teachers.shape import Shape, read_config

CONFIG, WEIGHTS, TOKENIZER, MANIFEST = "config.json", "model.safetensors", "tokenizer.json", "manifest.json"
_CHECKED: Final = {CONFIG, WEIGHTS, TOKENIZER}
MAX_WEIGHTS_BYTES: Final = 512 * 1024 * 1024
MAX_TEXT_BYTES: Final = 4 * 1024 * 1024
VERSION_DIGITS: Final = 12
_REMEDY: Final = "Train or export the teacher again, or fetch its folder again from where it was published."
_Form = TypeVar("_Form")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were found right. ``sha256`` is that of its weights, ``weights_bytes`` their size."""

    path: Path
    shape: Shape
    int8: bool
    sha256: str
    weights_bytes: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Check all of a folder. Raises ConfigError naming the file and what is wrong with it."""
        config = read_json(path / CONFIG, dict[str, Any])
        shape, int8 = read_config(config), is_int8(config, path)
        _check_alphabet(read_file(path / TOKENIZER, MAX_TEXT_BYTES), shape, path)
        data = read_file(path / WEIGHTS, MAX_WEIGHTS_BYTES)
        read_weights(data, shape, int8=int8)
        opened = cls(path, shape, int8, hashlib.sha256(data).hexdigest(), len(data))
        opened._check_manifest()
        return opened

    @property
    def version(self) -> str:
        """The start of the weights' hash."""
        return self.sha256[:VERSION_DIGITS]

    def weights(self) -> dict[str, Matrix]:
        """The weights. Raises ConfigError where they are no longer those that were checked."""
        data = read_file(self.path / WEIGHTS, MAX_WEIGHTS_BYTES)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ConfigError(f"{self.path / WEIGHTS} has changed since it was checked.", remedy="Restart the node.")
        return read_weights(data, self.shape, int8=self.int8)

    def _check_manifest(self) -> None:
        """Every file that a manifest names has the hash that it states, and those of the model are among them."""
        if not (self.path / MANIFEST).exists():
            return
        digests = read_json(self.path / MANIFEST, _Manifest).sha256
        if not digests.keys() >= _CHECKED or not all(name == Path(name).name for name in digests):
            must = f"name {', '.join(sorted(_CHECKED))} and plain files only"
            raise ConfigError(f"{self.path / MANIFEST} must {must}.", remedy=_REMEDY)
        for name, digest in digests.items():
            if digest != (self.sha256 if name == WEIGHTS else _digest(read_file(self.path / name, MAX_TEXT_BYTES))):
                raise ConfigError(
                    f"{self.path / name} is not the file its manifest names (SHA-256 differs).", remedy=_REMEDY
                )


class _Manifest(msgspec.Struct, frozen=True):
    sha256: dict[str, str]


def write_manifest(path: Path) -> None:
    """Name every file of a folder with its hash."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name != MANIFEST)
    digests = {file.name: _digest(file.read_bytes()) for file in files}
    (path / MANIFEST).write_text(json.dumps({"sha256": digests}, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path, form: type[_Form]) -> _Form:
    """A JSON file as ``form``. Raises ConfigError naming the file and the field that is wrong."""
    try:
        return msgspec.json.decode(read_file(path, MAX_TEXT_BYTES), type=form)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is not as expected: {error}.", remedy=_REMEDY) from None


def read_file(path: Path, limit_bytes: int) -> bytes:
    """All of a file of at most ``limit_bytes``. Raises ConfigError."""
    try:
        if not path.is_file():
            raise ConfigError(f"There is no file {path}.", remedy=_REMEDY)
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).", remedy=_REMEDY) from None
    if len(data) > limit_bytes:
        raise ConfigError(f"{path} is larger than {limit_bytes} bytes.", remedy=_REMEDY)
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_int8(config: Mapping[str, Any], path: Path) -> bool:
    """Whether the weights of the folder ``path`` have eight bits. Raises ConfigError for any other kind but floats."""
    quantisation = config.get("quantization_config")
    if quantisation not in (None, INT8_CONFIG):
        raise ConfigError(f"{path / CONFIG} names weights of another kind than this program reads.", remedy=_REMEDY)
    return quantisation is not None


def _check_alphabet(data: bytes, shape: Shape, path: Path) -> None:
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower for a file that it cannot read
        raise ConfigError(f"{path / TOKENIZER} is no tokenizer ({error}).", remedy=_REMEDY) from None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if vocabulary != {token: index for index, token in enumerate(VOCABULARY)} or shape.vocabulary != len(VOCABULARY):
        raise ConfigError(f"{path / TOKENIZER} or {CONFIG} is not of the small teachers' alphabet.", remedy=_REMEDY)
