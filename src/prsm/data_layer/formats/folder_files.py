"""One file of a model's folder: what it is used as, set aside unused, or refused with the whole folder.

A file whose name promises something must be that: what is named as weights, tokenizer or JSON and is not, and what
hides a pickle, program or archive under such a name or as a text or an image, refuses the folder. What promises nothing
is set aside and said to be: nothing here opens it, so that it does no harm to the safe files beside it.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from prsm.data_layer.formats.file_roles import CONFIGURATIONS, Role, is_index, role_of
from prsm.data_layer.formats.foreign_formats import disguise, foreign, instead, kind_of, may_unpickle
from prsm.data_layer.formats.model_contents import FileBytes, ModelFile, ModelLimits, UnsafeModelFile
from prsm.data_layer.formats.model_files import HEAD_BYTES, inspect_weights
from prsm.data_layer.formats.plain_text import begins_as_text, check_json, check_text
from prsm.data_layer.formats.sentencepiece_file import FIRST_BYTE, SentencePieceModel, parse_sentencepiece

# A tiktoken vocabulary: on each line the Base64 of a token and its rank. Llama 3 has one named tokenizer.model.
_TIKTOKEN = re.compile(rb"(?:[A-Za-z0-9+/]++={0,2} \d{1,9}\r?\n)++")


class AsideKind(StrEnum):
    """What a file that is not used is, as far as that matters to who takes the folder elsewhere."""

    PICKLE = "pickle"
    """A pickle, or an archive that may hold some: loading it may run its publisher's code."""
    CODE = "code"
    """What some program runs; never run here."""
    MEDIA = "media"
    """An image, document or recording by its name, and of no format that runs by its bytes; never read."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file that nothing here opens, and why."""

    kind: AsideKind
    reason: str
    size_bytes: int


Judged: TypeAlias = ModelFile | SentencePieceModel | SetAside | bytes
"""What a file is used as; bytes are a text's."""


def judge(path: str, file: FileBytes, limits: ModelLimits) -> Judged:
    """What becomes of a file. Raises UnsafeModelFile for what refuses its folder."""
    head = file.read(0, HEAD_BYTES)
    match role_of(path):
        case Role.WEIGHTS:
            if model := inspect_weights(file, limits):
                return model
            raise UnsafeModelFile(f"It is named as weights, but is {kind_of(head)}.")
        case Role.TOKENIZER:
            return _tokenizer(file, head, limits)
        case Role.JSON:
            return _json(path, file, head, limits)
        case Role.TEXT:
            promised = "." in path.rpartition("/")[2].lstrip(".")
            if not promised and not begins_as_text(head):
                return _open(file, head, limits)
            return _text(file, head, limits, promised=promised)
        case Role.MEDIA:
            return _media(path, file, head)
        case Role.CODE:
            return SetAside(AsideKind.CODE, "Its name is one that a program runs; nothing here does.", file.size_bytes)
        case Role.OPEN:
            return _open(file, head, limits)


def _tokenizer(file: FileBytes, head: bytes, limits: ModelLimits) -> SentencePieceModel | bytes:
    if head.startswith(FIRST_BYTE):
        model = parse_sentencepiece(file, limits)
        if other := disguise(file):
            raise UnsafeModelFile(f"The file is a valid SentencePiece model, but at the same time {other}.")
        return model
    _refuse_foreign(file, head, "a tokenizer")
    if file.size_bytes <= limits.max_tokenizer_bytes:
        content = file.read(0, file.size_bytes)
        if _TIKTOKEN.fullmatch(content):
            return content
    raise UnsafeModelFile(
        f"It is named as a tokenizer, but is neither a SentencePiece model nor a tiktoken vocabulary of at most "
        f"{limits.max_tokenizer_bytes} bytes: it is {kind_of(head)}."
    )


def _json(path: str, file: FileBytes, head: bytes, limits: ModelLimits) -> bytes | SetAside:
    _refuse_foreign(file, head, "JSON")
    if kind := instead(head):
        raise UnsafeModelFile(f"It is named as JSON, but is {kind}.")
    is_config = path.rpartition("/")[2] in CONFIGURATIONS
    most = limits.max_config_bytes if is_config else limits.max_text_bytes
    if file.size_bytes > most:
        if is_config or is_index(path):
            raise UnsafeModelFile(f"It has {file.size_bytes} bytes; {most} are allowed.")
        return _too_long(file, limits)
    content = file.read(0, file.size_bytes)
    check_text(content)
    check_json(content, limits)
    return content


def _text(file: FileBytes, head: bytes, limits: ModelLimits, *, promised: bool) -> bytes | SetAside:
    """A text, which a name without an ending does not promise."""
    if promised:
        _refuse_foreign(file, head, "a text")
    elif head.startswith(b"#!"):
        return SetAside(AsideKind.CODE, "It is a script; nothing here runs it.", file.size_bytes)
    elif may_unpickle(file, head):
        return _unpicklable(file, head)
    if (kind := instead(head)) and head[:1] != b"<":
        return SetAside(AsideKind.OTHER, f"It is {kind}.", file.size_bytes)
    if file.size_bytes > limits.max_text_bytes:
        return _too_long(file, limits)
    content = file.read(0, file.size_bytes)
    try:
        check_text(content)
    except UnsafeModelFile as error:
        return SetAside(AsideKind.OTHER, f"It is named as text, but: {error.message}", file.size_bytes)
    return content


def _media(path: str, file: FileBytes, head: bytes) -> SetAside:
    ending = path[path.rindex(".") :].lower()
    _refuse_foreign(file, b"" if ending == ".pdf" and head.startswith(b"%PDF") else head, ending)
    if ending == ".svg":
        reason = "It is named as an image in which scripts may stand; nothing here reads it."
    elif kind := instead(head):
        return SetAside(AsideKind.OTHER, f"It is {kind}.", file.size_bytes)
    else:
        reason = "It is named as an image, document or recording; nothing here reads it."
    return SetAside(AsideKind.MEDIA, reason, file.size_bytes)


def _open(file: FileBytes, head: bytes, limits: ModelLimits) -> ModelFile | SetAside:
    """A file that promises nothing: weights if its bytes are valid ones, or set aside."""
    try:
        if model := inspect_weights(file, limits):
            return model
    except UnsafeModelFile as error:
        kind = AsideKind.PICKLE if may_unpickle(file, head) else AsideKind.OTHER
        return SetAside(kind, f"It begins as weights, but: {error.message}", file.size_bytes)
    if head.startswith(b"#!"):
        return SetAside(AsideKind.CODE, "It is a script; nothing here runs it.", file.size_bytes)
    if may_unpickle(file, head):
        return _unpicklable(file, head)
    reason = f"It is neither safetensors nor GGUF nor a known text, but {kind_of(head)}."
    return SetAside(AsideKind.OTHER, reason, file.size_bytes)


def _unpicklable(file: FileBytes, head: bytes) -> SetAside:
    kind = foreign(head) or "a Python pickle that runs code"
    return SetAside(AsideKind.PICKLE, f"It is {kind}, which nothing here opens.", file.size_bytes)


def _too_long(file: FileBytes, limits: ModelLimits) -> SetAside:
    reason = f"It has {file.size_bytes} bytes; texts of at most {limits.max_text_bytes} are looked at."
    return SetAside(AsideKind.OTHER, reason, file.size_bytes)


def _refuse_foreign(file: FileBytes, head: bytes, promise: str) -> None:
    """Refuse what hides behind a harmless name. A text may begin with the letters of a signature (GGUF, BZh, MZ)."""
    kind = "a script" if head.startswith(b"#!") else foreign(head)
    if kind and (kind == "a script" or not begins_as_text(head)):
        raise UnsafeModelFile(f"It is named as {promise}, but is {kind}.")
    if other := disguise(file):
        raise UnsafeModelFile(f"It is named as {promise}, but is {other}.")
