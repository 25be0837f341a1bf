"""What a model file holds, within which limits it is read, and the one refusal of everything else.

Nothing runs, imports or unpickles what a file holds; a number in a file is a claim until the file's size bears it out.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from mmap import mmap
from pathlib import Path
from typing import Self, TypeAlias

from prsm.core.errors import InvalidRequest

ModelSource: TypeAlias = "Path | str | int | bytes | bytearray | memoryview | mmap"
"""Where a file's bytes are: a path, an open descriptor (left open, its offset unused), or a buffer."""

MAX_SIZE = 2**63 - 1
"""No count or size in a model file may exceed what readers in other languages keep in a signed 64-bit integer."""


class UnsafeModelFile(InvalidRequest):
    """The bytes are no safetensors or GGUF file, or break a rule of theirs; nothing of them was used."""

    code = "unsafe_model_file"

    def __init__(self, reason: str, *, remedy: str = "Do not use this file; get it again from its publisher.") -> None:
        super().__init__(reason, remedy=remedy, param="file")

    def within(self, path: str) -> "UnsafeModelFile":
        """The same refusal, naming the file of a folder that it is about."""
        return UnsafeModelFile(f"{path}: {self.message}", remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """How much of a file is read and kept at most; the defaults leave room above the largest published models."""

    max_header_bytes: int = 32 * 1024 * 1024
    """All but the weights; the safetensors library itself takes up to 100 MB."""
    max_tensors: int = 100_000
    max_folder_tensors: int = 300_000
    """In all files of a folder; the largest sharded models have about 140,000."""
    max_pairs: int = 4_096
    """Key-value pairs of metadata."""
    max_strings: int = 2_000_000
    """Strings in all of a GGUF file's arrays: vocabulary and merges, about 700,000 in the largest."""
    max_name_chars: int = 256
    max_rank: int = 16
    max_alignment_bytes: int = 65_536
    max_shown_bytes: int = 4_096
    """A longer metadata value is not kept, only its size."""
    max_text_bytes: int = 48 * 1024 * 1024
    """Of one text file; the largest tokenizer.json in use has 33 MB."""
    max_text_depth: int = 64
    """How deep JSON may be nested."""
    max_config_bytes: int = 4 * 1024 * 1024
    """Of a config.json, which is built in memory; those with 21,000 labels have 2 MB."""
    max_tokenizer_bytes: int = 32 * 1024 * 1024
    """Of one SentencePiece model; the largest in use, with 900,000 pieces, has 18 MB."""
    max_pieces: int = 1_000_000
    max_files: int = 2_000
    """Files of a folder."""
    max_folder_pairs: int = 20_000
    """Key-value pairs of metadata in all files of a folder: what is kept of them stays below 100 MB."""
    max_folder_read_bytes: int = 2 * 1024 * 1024 * 1024
    """Of all headers and texts of a folder. Equal files are stored once, but read under each name."""


DEFAULT_LIMITS = ModelLimits()


class ModelFormat(StrEnum):
    """The formats that pass."""

    SAFETENSORS = "safetensors"
    GGUF = "gguf"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of weights. ``offset`` counts from the start of the file; ``shape`` has the slowest axis first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    elements: int


@dataclass(frozen=True, slots=True)
class Omitted:
    """A metadata value too large to keep: its type, and how many elements (or bytes of a string) it has."""

    type: str
    length: int


MetadataValue: TypeAlias = "str | int | float | bool | Omitted | tuple[str | int | float | bool, ...]"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that passed. ``parameters`` counts stored elements; ``version`` is GGUF's, 0 for safetensors.

    ``tensors`` are in the order of their bytes. Metadata is the publisher's unchecked word: a chat template in it is
    a program (Jinja), which only a sandbox may render.
    """

    format: ModelFormat
    version: int
    size_bytes: int
    tensors: tuple[Tensor, ...]
    parameters: int
    bytes_by_dtype: Mapping[str, int]
    metadata: Mapping[str, MetadataValue]

    @classmethod
    def of(
        cls,
        form: ModelFormat,
        version: int,
        size_bytes: int,
        tensors: list[Tensor],
        metadata: Mapping[str, MetadataValue],
    ) -> Self:
        """Put together what a parser found, with its sums."""
        by_dtype: dict[str, int] = {}
        for tensor in tensors:
            by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.size_bytes
        parameters = sum(tensor.elements for tensor in tensors)
        return cls(form, version, size_bytes, tuple(tensors), parameters, by_dtype, metadata)


class FileBytes:
    """Random reads from a source. Not by mmap: a file that another process cuts short would end ours by SIGBUS."""

    __slots__ = ("_buffer", "_descriptor", "_owned", "read_bytes", "size_bytes")

    def __init__(self, source: ModelSource) -> None:
        self._buffer: memoryview | None = None
        self._descriptor = -1
        self._owned = False
        self.read_bytes = 0
        if isinstance(source, bytes | bytearray | memoryview | mmap):
            self._buffer = memoryview(source).cast("B")
            self.size_bytes = len(self._buffer)
            return
        if isinstance(source, int):
            self._descriptor = source
        else:
            try:
                # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
                self._descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise InvalidRequest(f"The file {str(source)!r} cannot be opened: {reason}.", param="file") from error
            self._owned = True
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise InvalidRequest(f"The file cannot be read: {error.strerror}.", param="file") from error
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise UnsafeModelFile(
                "This is no regular file.", remedy="Give the path of a file, no device, pipe or folder."
            )
        self.size_bytes = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Exactly the bytes that are there: at most ``length`` from ``offset``, fewer at the end of the file."""
        length = max(0, min(length, self.size_bytes - offset))
        self.read_bytes += length
        if self._buffer is not None:
            return bytes(self._buffer[offset : offset + length])
        parts: list[bytes] = []
        try:
            while length:
                part = os.pread(self._descriptor, length, offset)
                if not part:
                    raise UnsafeModelFile("The file became shorter while it was read.")
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as error:
            raise InvalidRequest(f"The file cannot be read: {error.strerror}.", param="file") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close what was opened here, and let go of the buffer."""
        if self._owned:
            os.close(self._descriptor)
            self._owned = False
        if self._buffer is not None:
            self._buffer.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def check_name(name: str, what: str, limits: ModelLimits) -> None:
    """Refuse a name that is empty, too long, unprintable or could be taken for a path out of a folder.

    Names of published models have dots, slashes (Flax: ``params/encoder/kernel``), colons (TensorFlow: ``kernel:0``),
    tildes (Haiku: ``mlp/~/linear``), angle brackets and spaces; all these pass. Raises UnsafeModelFile.
    """
    if not name:
        raise UnsafeModelFile(f"A {what} has an empty name.")
    if len(name) > limits.max_name_chars:
        raise UnsafeModelFile(
            f"The name of a {what} has {len(name)} characters: {quote(name)}; {limits.max_name_chars} are allowed."
        )
    if not name.isprintable():  # control characters, NUL, lone surrogates, and marks that reverse the reading order
        raise UnsafeModelFile(f"The name {quote(name)} of a {what} has characters that cannot be printed.")
    if "\\" in name or name.startswith("/") or name[1:3] == ":/" or not {".", ".."}.isdisjoint(name.split("/")):
        raise UnsafeModelFile(f"The name {quote(name)} of a {what} could be taken for a path out of its folder.")


def product(dimensions: tuple[int, ...], name: str) -> int:
    """How many elements a shape has; refuses one that overflows on the way even where a zero follows."""
    total = 1
    for size in dimensions:
        total *= max(size, 1)
        if total > MAX_SIZE:
            raise UnsafeModelFile(f"The shape of the tensor {quote(name)} overflows a 64-bit size.")
    return 0 if 0 in dimensions else total


def shown_text(value: str, size_bytes: int, limits: ModelLimits) -> str | Omitted:
    """The text, or only its size where it is longer than what is kept."""
    return value if size_bytes <= limits.max_shown_bytes else Omitted("string", size_bytes)


def quote(text: str) -> str:
    """A text of the file for a message: escaped, and not longer than a line takes."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
