"""The folder of a model as it was published: its weights, tokenizers and texts once all pass, and what is set aside.

Whatever lies in the folder is judged (``folder_files``); only what passed is ever opened again. One file in disguise, a
model that is not whole, or a path that leads elsewhere on some system refuses all of it.
"""

import unicodedata
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from prsm.data_layer.formats.configuration import asks_for_code, read_configuration
from prsm.data_layer.formats.file_roles import CONFIGURATIONS, is_index, is_licence, is_tokenizer
from prsm.data_layer.formats.folder_files import Judged, SetAside, judge
from prsm.data_layer.formats.model_contents import (
    DEFAULT_LIMITS,
    FileBytes,
    ModelFile,
    ModelLimits,
    ModelSource,
    UnsafeModelFile,
    check_name,
    quote,
)
from prsm.data_layer.formats.sentencepiece_file import SentencePieceModel
from prsm.data_layer.formats.weight_sets import WeightSet, divided


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that passed, its files by path. ``weight_sets`` are the models that it holds; ``size_bytes`` is of all.

    ``asks_for_code`` names configurations that refer to Python of their publisher (``auto_map``): such a model may not
    work with what is here, and must never be loaded with ``trust_remote_code``. What is ``set_aside`` was not opened;
    who writes the folder out must not load it either.
    """

    models: Mapping[str, ModelFile]
    tokenizers: Mapping[str, SentencePieceModel]
    texts: Mapping[str, int]
    set_aside: Mapping[str, SetAside]
    weight_sets: tuple[WeightSet, ...]
    asks_for_code: tuple[str, ...]
    size_bytes: int

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """All files from which programs read a tokenizer, that passed."""
        return tuple(path for path in (*self.tokenizers, *self.texts) if is_tokenizer(path))

    @property
    def licence_files(self) -> tuple[str, ...]:
        """The files that tell the terms of use, read or not (a PDF)."""
        return tuple(path for path in (*self.texts, *self.set_aside) if is_licence(path))


def inspect_model_folder(
    entries: Iterable[tuple[str, ModelSource]], limits: ModelLimits = DEFAULT_LIMITS
) -> ModelFolder:
    """What the files of a folder hold, given as (path within it, where its bytes are).

    Raises UnsafeModelFile, naming the file, for the first one that refuses the folder, for a model of which a part is
    missing, and when there are no weights.
    """
    found = _Found(limits)
    for path, source in entries:
        found.check_path(path)
        with _naming(path), FileBytes(source) as file:
            found.add(path, file, judge(path, file, limits))
    if not found.models:
        aside = "; ".join(f"{path}: {file.reason}" for path, file in list(found.set_aside.items())[:_MAX_TOLD])
        raise UnsafeModelFile(
            "The folder holds no safetensors or GGUF file." + (f" Not used: {aside}" if aside else ""),
            remedy="Add the weights, or store it as a data set.",
        )
    return found.folder()


_MAX_TOLD = 3


@dataclass(slots=True)
class _Found:
    """What is known of a folder so far, and the sums that are bounded."""

    limits: ModelLimits
    models: dict[str, ModelFile] = field(default_factory=dict[str, ModelFile])
    tokenizers: dict[str, SentencePieceModel] = field(default_factory=dict[str, SentencePieceModel])
    texts: dict[str, int] = field(default_factory=dict[str, int])
    set_aside: dict[str, SetAside] = field(default_factory=dict[str, SetAside])
    indexes: dict[str, bytes] = field(default_factory=dict[str, bytes])
    configurations: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    asking: list[str] = field(default_factory=list[str])
    paths: set[str] = field(default_factory=set[str])
    tensors: int = 0
    pairs: int = 0
    kept_bytes: int = 0
    read_bytes: int = 0
    size_bytes: int = 0

    def check_path(self, path: str) -> None:
        """Refuse a path that leads out of the folder, or to the same file as another on some system."""
        if len(self.paths) >= self.limits.max_files:
            raise UnsafeModelFile(f"The folder has more than {self.limits.max_files} files.")
        check_name(path, "file of the folder", self.limits)
        parts = path.split("/")
        if "" in parts:
            raise UnsafeModelFile(f"The path {quote(path)} has an empty part.")
        # Systems disagree on case, on composed letters, and on dots and spaces at the end.
        same = "/".join(unicodedata.normalize("NFC", part.casefold()).rstrip(". ") for part in parts)
        if same in self.paths:
            raise UnsafeModelFile(f"The path {quote(path)} comes twice, or differs from another only in case or marks.")
        self.paths.add(same)

    def add(self, path: str, file: FileBytes, judged: Judged) -> None:
        """Take a file in. Raises UnsafeModelFile when the folder becomes too much."""
        self.size_bytes += file.size_bytes
        self.read_bytes += file.read_bytes
        match judged:
            case ModelFile():
                self.models[path] = judged
                self.tensors += len(judged.tensors)
                self.pairs += len(judged.metadata)
            case SentencePieceModel():
                self.tokenizers[path] = judged
            case SetAside():
                self.set_aside[path] = judged
            case bytes():
                self._add_text(path, judged)
        self._check_sums()

    def _add_text(self, path: str, content: bytes) -> None:
        self.texts[path] = len(content)
        folder, name = path[: path.rfind("/") + 1], path[path.rfind("/") + 1 :]
        if is_index(path):
            self.indexes[path] = content
            self.kept_bytes += len(content)
        elif name in CONFIGURATIONS:
            self.configurations.setdefault(folder, {})[name] = content
            self.kept_bytes += len(content)
        if asks_for_code(name, content):
            self.asking.append(path)

    def _check_sums(self) -> None:
        limits = self.limits
        for sum_, most, what in (
            (self.tensors, limits.max_folder_tensors, "tensors together"),
            (self.pairs, limits.max_folder_pairs, "key-value pairs of metadata together"),
            (self.kept_bytes, limits.max_header_bytes, "bytes together in indexes and configurations"),
            (self.read_bytes, limits.max_folder_read_bytes, "bytes together in headers and texts"),
        ):
            if sum_ > most:
                raise UnsafeModelFile(f"The files of the folder have more than {most} {what}.")

    def folder(self) -> ModelFolder:
        """The folder, once its models are known to be whole. Raises UnsafeModelFile."""
        configurations = {folder: read_configuration(files) for folder, files in self.configurations.items()}
        return ModelFolder(
            models=self.models,
            tokenizers=self.tokenizers,
            texts=self.texts,
            set_aside=self.set_aside,
            weight_sets=divided(self.models, self.indexes, configurations, self.limits),
            asks_for_code=tuple(self.asking),
            size_bytes=self.size_bytes,
        )


@contextmanager
def _naming(path: str) -> Generator[None]:
    """Add the file's path to a refusal."""
    try:
        yield
    except UnsafeModelFile as error:
        raise error.within(path) from None
