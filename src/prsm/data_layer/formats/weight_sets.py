"""Which weight files of a folder make up one model, whether all of its parts are there, and what is known of it.

Files belong together by an index (safetensors), by their split metadata and names (GGUF), or by numbered names alone; a
part that is missing refuses the folder, for then the model is not whole. Every other file is a model of its own, as
the quantisations of one model that lie beside each other are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from prsm.data_layer.formats.configuration import Configuration, label, natural
from prsm.data_layer.formats.flat_json import members, strings
from prsm.data_layer.formats.gguf_file import FILE_TYPES
from prsm.data_layer.formats.model_contents import ModelFile, ModelFormat, ModelLimits, UnsafeModelFile, quote

_NUMBERED = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{1,5})-of-(?P<count>\d{1,5})(?P<ending>\.(?:safetensors|gguf))", re.I
)
_UNKNOWN = Configuration()


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One model: its files, in their order, and what they and the configuration beside them say.

    ``elements`` counts everything stored; ``parameters`` is the same where that is their number, and None where
    weights are packed several to an element, or scales stand beside them (a quantisation of safetensors). ``kind`` is
    "model", "adapter", or what a GGUF file says that it is instead (mmproj, imatrix).
    """

    files: tuple[str, ...]
    format: ModelFormat
    kind: str
    size_bytes: int
    elements: int
    parameters: int | None
    bytes_by_dtype: Mapping[str, int]
    architectures: tuple[str, ...]
    model_type: str | None
    context_length: int | None
    quantisation: str | None
    """As the configuration has it (gptq, 4 bits), or GGUF's file type (Q4_K_M; F16 too)."""
    base_model: str | None


def single(model: ModelFile) -> WeightSet:
    """The set of a file that lies in no folder; its path is ''."""
    return _described(("",), {"": model}, _UNKNOWN)


def divided(
    models: Mapping[str, ModelFile],
    indexes: Mapping[str, bytes],
    configurations: Mapping[str, Configuration],
    limits: ModelLimits,
) -> tuple[WeightSet, ...]:
    """All sets of a folder, in the order of their first files. ``configurations`` are by their folder ("", "unet/").

    Raises UnsafeModelFile for an index that is false, and for parts that are missing or belong to no whole.
    """
    sets: list[tuple[str, ...]] = []
    left = dict(models)
    for path, content in indexes.items():
        try:
            shards = _indexed(path, content, models, limits)
        except UnsafeModelFile as error:
            raise error.within(path) from None
        sets.append(shards)
        for shard in shards:
            left.pop(shard, None)
    sets += _numbered(left)
    return tuple(_described(files, models, configurations.get(_folder(files[0]), _UNKNOWN)) for files in sorted(sets))


def _described(files: tuple[str, ...], models: Mapping[str, ModelFile], configuration: Configuration) -> WeightSet:
    first = models[files[0]]
    parts = [models[file] for file in files]
    by_dtype: dict[str, int] = {}
    for part in parts:
        for dtype, size_bytes in part.bytes_by_dtype.items():
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size_bytes
    elements = sum(part.parameters for part in parts)
    is_adapter = first.format is ModelFormat.SAFETENSORS and _name(files[0]).startswith("adapter_model.")
    known = _of_gguf(first) if first.format is ModelFormat.GGUF else configuration
    return WeightSet(
        files=files,
        format=first.format,
        kind="adapter" if is_adapter else label(first.metadata.get("general.type")) or "model",
        size_bytes=sum(part.size_bytes for part in parts),
        elements=elements,
        parameters=elements if first.format is ModelFormat.GGUF or known.quantisation is None else None,
        bytes_by_dtype=by_dtype,
        architectures=known.architectures,
        model_type=known.model_type,
        context_length=known.context_length,
        quantisation=known.quantisation,
        base_model=known.base_model if is_adapter else None,
    )


def _of_gguf(model: ModelFile) -> Configuration:
    """What a GGUF file says of itself; nothing beside it is asked."""
    architecture = label(model.metadata.get("general.architecture"))
    file_type = model.metadata.get("general.file_type")
    return Configuration(
        architectures=(architecture,) if architecture else (),
        model_type=architecture,
        context_length=natural(model.metadata.get(f"{architecture}.context_length")),
        quantisation=FILE_TYPES.get(file_type) if type(file_type) is int else None,
    )


def _indexed(path: str, content: bytes, models: Mapping[str, ModelFile], limits: ModelLimits) -> tuple[str, ...]:
    """The files of a sharded model. Every tensor is in exactly the file beside the index that the index says."""
    folder = _folder(path)
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
    if not held:
        raise UnsafeModelFile("The index names no tensor.")
    return tuple(folder + shard for shard in sorted(held))


def _shards(holder: Mapping[str, str], folder: str, models: Mapping[str, ModelFile]) -> set[str]:
    shards = set(holder.values())
    for shard in shards:
        if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
            raise UnsafeModelFile(f"The index leads to {quote(shard)}, which is no plain file name.")
        model = models.get(folder + shard)
        if model is None or model.format is not ModelFormat.SAFETENSORS:
            raise UnsafeModelFile(f"The index leads to {quote(shard)}, which is no safetensors file of its folder.")
    return shards


def _numbered(models: Mapping[str, ModelFile]) -> list[tuple[str, ...]]:
    """The sets of files that no index names: by their numbers, or each for itself."""
    sets: list[tuple[str, ...]] = []
    groups: dict[tuple[str, int, str], dict[int, str]] = {}
    for path, model in models.items():
        match = _NUMBERED.fullmatch(path)
        number, count = (int(match["number"]), int(match["count"])) if match else (1, 1)
        if model.format is ModelFormat.GGUF:
            _check_split(path, model, number, count)
        if not match or count == 1:
            sets.append((path,))
            continue
        parts = groups.setdefault((match["stem"], count, match["ending"].lower()), {})
        if number in parts:
            raise UnsafeModelFile(f"{path}: It is the same part of a model as {quote(parts[number])}.")
        parts[number] = path
    return sets + [_whole(parts, count, models) for (_, count, _), parts in groups.items()]


def _check_split(path: str, model: ModelFile, number: int, count: int) -> None:
    """llama.cpp finds the parts by their names, so that these and what the files say must agree."""
    said = (model.metadata.get("split.no", number - 1), model.metadata.get("split.count", 0) or 1)
    if said != (number - 1, count):
        raise UnsafeModelFile(
            f"{path}: By its name it is part {number} of {count}, but has split.no {said[0]} and split.count {said[1]}."
        )


def _whole(parts: Mapping[int, str], count: int, models: Mapping[str, ModelFile]) -> tuple[str, ...]:
    some = next(iter(parts.values()))
    numbers = range(count) if 0 in parts else range(1, count + 1)
    if (missing := next((number for number in numbers if number not in parts), None)) is not None:
        raise UnsafeModelFile(
            f"{some}: Part {missing} of the {count} that this model has is not here.",
            remedy="Fetch the whole model, or leave all of its parts out.",
        )
    if len(parts) > count:
        raise UnsafeModelFile(f"{some}: There are parts beyond the {count} that this model has.")
    files = tuple(parts[number] for number in numbers)
    names: set[str] = set()
    for file in files:
        for tensor in models[file].tensors:
            if tensor.name in names:
                raise UnsafeModelFile(f"{file}: The tensor {quote(tensor.name)} is in another part too.")
            names.add(tensor.name)
    total = models[files[0]].metadata.get("split.tensors.count", len(names))
    if total != len(names):
        raise UnsafeModelFile(f"{some}: The parts hold {len(names)} tensors, but the first one says {total}.")
    return files


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _name(path: str) -> str:
    return path[path.rfind("/") + 1 :].lower()
