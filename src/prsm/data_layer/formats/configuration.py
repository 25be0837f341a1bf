"""What the configuration beside a model's weights says of them, and whether it refers to its publisher's code.

A publisher's word, read as it stands: what is missing, of another type or contradicts itself is unknown, never guessed.
(Names: transformers' PretrainedConfig and its models' attribute maps, PEFT, AutoGPTQ, AWQ, ModelOpt, MLX, diffusers.)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec

from prsm.data_layer.formats.model_contents import MAX_SIZE, UnsafeModelFile
from prsm.data_layer.formats.plain_text import finite

_Json: TypeAlias = "dict[str, object]"

_CONTEXT_KEYS = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length"),
    *("context_length", "max_context_length"),
)
_LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
_QUANTISATIONS = ("quantization_config", "quantization", "compression_config")
_QUANTISATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_MAX_ARCHITECTURES = 16
_MAX_LABEL_CHARS = 256


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is known of the model whose weights lie in one folder.

    ``architectures`` are class names (LlamaForCausalLM); ``context_length`` is in tokens, as configured;
    ``quantisation`` names the method and bits, "unnamed" where only its presence is told; ``base_model`` is what an
    adapter was made for.
    """

    architectures: tuple[str, ...] = ()
    model_type: str | None = None
    context_length: int | None = None
    quantisation: str | None = None
    base_model: str | None = None


def read_configuration(files: Mapping[str, bytes]) -> Configuration:
    """Put together what the configurations of one folder say, given by file name. Raises UnsafeModelFile."""
    found = {name: _object(name, content) for name, content in files.items()}
    config = found.get("config.json", {})
    listed = config.get("architectures") or [config.get("_class_name")]
    names = cast("list[object]", listed) if isinstance(listed, list) else []
    return Configuration(
        architectures=tuple(name for name in map(label, names[:_MAX_ARCHITECTURES]) if name),
        model_type=label(config.get("model_type")),
        context_length=_context_length(config),
        quantisation=_quantisation(config, found),
        base_model=label(found.get("adapter_config.json", {}).get("base_model_name_or_path")),
    )


class _CodeReferences(msgspec.Struct):
    auto_map: msgspec.Raw = msgspec.Raw()
    custom_pipelines: msgspec.Raw = msgspec.Raw()


class _Module(msgspec.Struct):
    type: str


def asks_for_code(name: str, content: bytes) -> bool:
    """Whether a text has its reader import Python of its publisher: a class of its own, or YAML that builds objects."""
    if name.endswith((".yaml", ".yml")):
        return b"!!python/" in content
    try:
        if name == "modules.json":  # sentence-transformers imports each of these
            modules = msgspec.json.decode(finite(content), type=list[_Module])
            return not all(module.type.startswith("sentence_transformers.") for module in modules)
        found = msgspec.json.decode(finite(content), type=_CodeReferences)
    except msgspec.DecodeError:  # valid JSON, but of another form
        return False
    return bool(bytes(found.auto_map) or bytes(found.custom_pipelines))


def label(value: object) -> str | None:
    """A name that can be shown: printable, not empty, and no longer than a line takes; None for anything else."""
    if not isinstance(value, str) or not value.isprintable():
        return None
    return value if 0 < len(value) <= _MAX_LABEL_CHARS else None


def natural(value: object) -> int | None:
    """A count that is one: a whole number above 0 that 64 bits hold; None for anything else."""
    return value if type(value) is int and 0 < value <= MAX_SIZE else None


def _object(name: str, content: bytes) -> _Json:
    try:
        found = json.loads(content)
    except ValueError:  # valid JSON, but with a number of thousands of digits
        raise UnsafeModelFile(f"{name}: It has a number that is too long to read.") from None
    return cast("_Json", found) if isinstance(found, dict) else {}


def _context_length(config: _Json) -> int | None:
    """Of the model, or else of its part for language; None where two fields contradict each other."""
    parts = [config.get(name) for name in _LANGUAGE_PARTS]
    for part in (config, *(cast("_Json", part) for part in parts if isinstance(part, dict))):
        lengths = {length for key in _CONTEXT_KEYS if (length := natural(part.get(key)))}
        if lengths:
            return lengths.pop() if len(lengths) == 1 else None
    return None


def _quantisation(config: _Json, files: Mapping[str, _Json]) -> str | None:
    for name in _QUANTISATIONS:
        if isinstance(found := config.get(name), dict):
            return _method(cast("_Json", found))
    for name in _QUANTISATION_FILES:
        if found := files.get(name):
            inner = found.get("quantization")
            return _method(cast("_Json", inner) if isinstance(inner, dict) else found)
    return None


def _method(found: _Json) -> str:
    method = label(found.get("quant_method")) or label(found.get("quant_algo"))
    bits = natural(found.get("bits")) or natural(found.get("w_bit"))
    if bits is None:  # bitsandbytes
        bits = 4 if found.get("load_in_4bit") is True else 8 if found.get("load_in_8bit") is True else None
    return ", ".join(filter(None, (method, f"{bits} bits" if bits else None))) or "unnamed"
