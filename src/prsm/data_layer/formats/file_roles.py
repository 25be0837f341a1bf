"""What the name of a file in a model's folder promises, as the hubs and the programs that load models use names.

A promise lets nothing pass: it says what the bytes must be, or that they are never looked at.
"""

import re
from enum import Enum, auto
from typing import Final

WEIGHT_ENDINGS: Final = frozenset({".safetensors", ".gguf"})
TEXT_ENDINGS: Final = frozenset(
    {".jsonl", ".txt", ".md", ".rst", ".jinja", ".jinja2", ".tiktoken", ".vocab", ".csv", ".tsv", ".yaml", ".yml"}
    | {".toml", ".bib", ".cff", ".log", ".template"}
)
"""Endings of text, besides .json; a name without an ending (LICENSE, .gitattributes) may be text too."""

MEDIA_ENDINGS: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp", ".ico", ".tif", ".tiff", ".avif", ".pdf"}
    | {".wav", ".mp3", ".flac", ".ogg", ".mp4", ".webm"}
)
"""Endings of images, documents and recordings."""

CODE_ENDINGS: Final = frozenset(
    {".py", ".pyc", ".pyd", ".pyi", ".pyx", ".ipynb", ".whl", ".sh", ".bash", ".bat", ".cmd", ".ps1", ".js", ".mjs"}
    | {".ts", ".html", ".htm", ".c", ".cc", ".cpp", ".h", ".hpp", ".cu", ".cuh", ".metal", ".rs", ".go", ".java"}
    | {".jar", ".class", ".wasm", ".lua", ".pl", ".rb", ".php", ".r", ".jl", ".swift", ".so", ".dll", ".dylib", ".exe"}
)
"""Endings of what some program runs."""

CONFIGURATIONS: Final = frozenset(
    {"config.json", "adapter_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json"}
)
"""Those whose values are read."""

_INDEX = re.compile(r".*\.safetensors\.index(\.\w+)?\.json")
_TOKENIZER_MODEL = re.compile(r".*\.(model|spm)|tokenizer\.model\.v\d\w*")
_TOKENIZER_FILE = re.compile(
    r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|tekken\.json"
    r"|chat_template\.(jinja2?|json)|.*\.tiktoken|.*\.vocab"
)
_LICENCE_FILE = re.compile(r"(licen[cs]es?|copying|notice|use[_-]policy)([._-].*)?|.*[._-]licen[cs]e(\.(txt|md|pdf))?")


class Role(Enum):
    """What a file's bytes must be, or what it is where they need not be anything."""

    WEIGHTS = auto()
    TOKENIZER = auto()
    JSON = auto()
    TEXT = auto()
    MEDIA = auto()
    CODE = auto()
    OPEN = auto()
    """Any: pytorch_model.bin, model.onnx, what is not known here."""


def role_of(path: str) -> Role:
    """The role of a file by its name alone, in whatever case that is written."""
    name = _name(path)
    ending = name[name.rindex(".") :] if "." in name.lstrip(".") else ""
    if _TOKENIZER_MODEL.fullmatch(name):
        return Role.TOKENIZER
    if ending == ".json":
        return Role.JSON
    for endings, role in _ROLES.items():
        if ending in endings:
            return role
    return Role.TEXT if _LICENCE_FILE.fullmatch(name) else Role.OPEN


def is_index(path: str) -> bool:
    """Whether a file of this name says in which file each tensor of a sharded model is."""
    return bool(_INDEX.fullmatch(_name(path)))


def is_tokenizer(path: str) -> bool:
    """Whether programs read their tokenizer from a file of this name."""
    name = _name(path)
    return bool(_TOKENIZER_MODEL.fullmatch(name) or _TOKENIZER_FILE.fullmatch(name))


def is_licence(path: str) -> bool:
    """Whether a file of this name tells the terms of use."""
    return bool(_LICENCE_FILE.fullmatch(_name(path)))


def _name(path: str) -> str:
    return path.rpartition("/")[2].lower()


_ROLES: Final = {
    WEIGHT_ENDINGS: Role.WEIGHTS,
    TEXT_ENDINGS: Role.TEXT,
    MEDIA_ENDINGS: Role.MEDIA,
    CODE_ENDINGS: Role.CODE,
    frozenset({""}): Role.TEXT,
}
