"""The folder of a model: weight files that pass, and beside them only plain text of bounded size. Nothing that runs.

Weights are judged by their bytes. Of a text the bytes must be text, and the name one that no program takes for code.
"""

import codecs
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np

from prsm.data_layer.formats.flat_json import members, strings
from prsm.data_layer.formats.foreign_formats import kind_of, runs_as_pickle
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
from prsm.data_layer.formats.model_files import HEAD_BYTES, inspect_weights

TEXT_ENDINGS = frozenset(
    {".json", ".jsonl", ".txt", ".md", ".jinja", ".tiktoken", ".vocab", ".csv", ".tsv", ".yaml", ".yml"}
)
"""Endings of text that a model's folder may hold; a name without an ending (LICENSE, .gitattributes) may too."""

_INDEX_ENDING = ".safetensors.index.json"
_WEIGHT_ENDINGS = (".safetensors", ".gguf")
_NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_PIECE_BYTES = 1024 * 1024
_OPEN, _CLOSE, _QUOTE = b"[{", b"]}", 34


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that passed: its weight files and texts by path, and the sums of the weights.

    ``asks_for_code`` names configurations that refer to Python of their publisher (``auto_map``): such a model may not
    work with what is here, and must never be loaded with ``trust_remote_code``.
    """

    models: Mapping[str, ModelFile]
    texts: Mapping[str, int]
    parameters: int
    size_bytes: int
    asks_for_code: tuple[str, ...]


def inspect_model_folder(
    entries: Iterable[tuple[str, ModelSource]], limits: ModelLimits = DEFAULT_LIMITS
) -> ModelFolder:
    """What the files of a folder hold, given as (path within it, where its bytes are).

    Raises UnsafeModelFile, naming the file, for the first one that does not pass, and when there are no weights.
    """
    models: dict[str, ModelFile] = {}
    texts: dict[str, int] = {}
    indexes: dict[str, bytes] = {}
    asks_for_code: list[str] = []
    folded: set[str] = set()
    for path, source in entries:
        _check_path(path, folded, limits)
        with FileBytes(source) as file, _naming(path):
            model = inspect_weights(file, limits)
            text = b"" if model else _text(path, file, limits)
        if model:
            models[path] = model
        else:
            texts[path] = file.size_bytes
            if path.endswith(_INDEX_ENDING):
                indexes[path] = text
            elif path.endswith(".json") and _asks_for_code(text):
                asks_for_code.append(path)
        _check_totals(models, indexes, limits)
    for path, text in indexes.items():
        with _naming(path):
            _check_index(path, text, models, limits)
    if not models:
        raise UnsafeModelFile(
            "The folder holds no safetensors or GGUF file.", remedy="Add the weights, or store it as a data set."
        )
    size_bytes = sum(model.size_bytes for model in models.values()) + sum(texts.values())
    parameters = sum(model.parameters for model in models.values())
    return ModelFolder(models, texts, parameters, size_bytes, tuple(asks_for_code))


@contextmanager
def _naming(path: str) -> Generator[None]:
    """Add the file's path to a refusal."""
    try:
        yield
    except UnsafeModelFile as error:
        raise error.within(path) from None


def _check_path(path: str, folded: set[str], limits: ModelLimits) -> None:
    if len(folded) >= limits.max_files:
        raise UnsafeModelFile(f"The folder has more than {limits.max_files} files.")
    check_name(path, "file of the folder", limits)
    if "" in path.split("/"):
        raise UnsafeModelFile(f"The path {quote(path)} has an empty part.")
    if path.casefold() in folded:
        raise UnsafeModelFile(f"The path {quote(path)} comes twice, or differs from another only in case.")
    folded.add(path.casefold())


def _check_totals(models: Mapping[str, ModelFile], indexes: Mapping[str, bytes], limits: ModelLimits) -> None:
    if sum(len(model.tensors) for model in models.values()) > limits.max_folder_tensors:
        raise UnsafeModelFile(f"The files of the folder have more than {limits.max_folder_tensors} tensors together.")
    if sum(map(len, indexes.values())) > limits.max_header_bytes:
        raise UnsafeModelFile(f"The indexes of the folder have more than {limits.max_header_bytes} bytes together.")


def _text(path: str, file: FileBytes, limits: ModelLimits) -> bytes:
    """The content of a harmless text. Raises UnsafeModelFile for anything else."""
    head = file.read(0, HEAD_BYTES)
    name = path.rpartition("/")[2]
    ending = name[name.rindex(".") :].lower() if "." in name.lstrip(".") else ""
    if ending in _WEIGHT_ENDINGS:
        raise UnsafeModelFile(f"It is named as weights, but is {kind_of(head)}.")
    if _NOT_TEXT.search(head) or head.startswith(b"#!"):
        raise UnsafeModelFile(
            f"It is neither weights nor text, but {kind_of(head)}.",
            remedy="Leave it out; weights pass as safetensors or GGUF, a tokenizer as tokenizer.json.",
        )
    if ending and ending not in TEXT_ENDINGS:
        raise UnsafeModelFile(
            f"Files ending in {quote(ending)} may be run by a program, or are not known to be harmless.",
            remedy=f"Leave it out; text may end in {', '.join(sorted(TEXT_ENDINGS))}.",
        )
    if file.size_bytes > limits.max_text_bytes:
        raise UnsafeModelFile(f"The text has {file.size_bytes} bytes; {limits.max_text_bytes} are allowed.")
    content = file.read(0, file.size_bytes)
    _check_text(content)
    if runs_as_pickle(file):
        raise UnsafeModelFile("It is a Python pickle that runs code, in the shape of a text.")
    if ending == ".json":
        _check_json(content, limits)
    return content


def _check_text(content: bytes) -> None:
    if _NOT_TEXT.search(content):
        raise UnsafeModelFile("It has control characters, which text has not.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _PIECE_BYTES):  # in pieces: a str takes up to four times as much memory
            decoder.decode(content[start : start + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UnsafeModelFile("It is not UTF-8 text.") from None


def _check_json(content: bytes, limits: ModelLimits) -> None:
    try:
        msgspec.json.decode(_finite(content), type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        raise UnsafeModelFile("It is named as JSON, but is none, or is nested far too deep.") from None
    depth = _json_depth(content)
    if depth > limits.max_text_depth:
        raise UnsafeModelFile(f"Its JSON is nested {depth} deep; {limits.max_text_depth} are allowed.")


def _finite(content: bytes) -> bytes:
    """The JSON without NaN and Infinity, which Python writes and configurations of published models hold (Mamba).

    Within strings they are replaced too, so this is for looking at, not for reading names from.
    """
    return content.replace(b"NaN", b"0  ").replace(b"Infinity", b"0       ")


def _json_depth(content: bytes) -> int:
    """How deep valid JSON is nested, counted without building it."""
    step = np.zeros(256, np.int8)
    step[list(_OPEN)], step[list(_CLOSE)] = 1, -1
    # Without escapes, every quotation mark begins or ends a string.
    bare = np.frombuffer(content.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    quotes, depth, deepest = np.uint8(0), np.int32(0), 0
    for start in range(0, len(bare), _PIECE_BYTES):
        piece = bare[start : start + _PIECE_BYTES]
        within = np.cumsum(piece == _QUOTE, dtype=np.uint8) + quotes  # only whether it is odd matters
        level = np.cumsum(step[piece] * (within & 1 ^ 1), dtype=np.int32) + depth
        deepest = max(deepest, int(level.max()))
        quotes, depth = within[-1] & 1, level[-1]
    return deepest


class _Configuration(msgspec.Struct):
    auto_map: msgspec.Raw = msgspec.Raw()
    custom_pipelines: msgspec.Raw = msgspec.Raw()


def _asks_for_code(content: bytes) -> bool:
    try:
        found = msgspec.json.decode(_finite(content), type=_Configuration)
    except msgspec.DecodeError:  # valid JSON, but no object
        return False
    return bool(bytes(found.auto_map) or bytes(found.custom_pipelines))


def _check_index(path: str, content: bytes, models: Mapping[str, ModelFile], limits: ModelLimits) -> None:
    """Every tensor of a sharded model is in exactly the file beside the index that the index says."""
    folder = path.rpartition("/")[0] + "/" if "/" in path else ""
    top = dict(members(content.strip(), "index", 16))
    if not top.get("weight_map", b"").startswith(b"{"):
        raise UnsafeModelFile("The index has no weight_map object.")
    holder: dict[str, str] = dict(strings(top["weight_map"], "weight_map", limits.max_folder_tensors))
    held = {name: {tensor.name for tensor in models[folder + name].tensors} for name in _shards(holder, folder, models)}
    for tensor, shard in holder.items():
        if tensor not in held[shard]:
            raise UnsafeModelFile(f"The index says {quote(tensor)} is in {quote(shard)}, which does not hold it.")
    for shard, tensors in held.items():
        for tensor in tensors:
            if holder.get(tensor, shard) != shard:
                raise UnsafeModelFile(f"{quote(tensor)} is in {quote(shard)} too, beside the file that the index says.")


def _shards(holder: Mapping[str, str], folder: str, models: Mapping[str, ModelFile]) -> set[str]:
    shards = set(holder.values())
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise UnsafeModelFile(f"The index leads to {quote(shard)}, which is no plain file name.")
        if folder + shard not in models:
            raise UnsafeModelFile(f"The index leads to {quote(shard)}, which is no weight file of its folder.")
    return shards
