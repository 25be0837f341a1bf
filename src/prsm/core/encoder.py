"""Text becomes a unit vector here: all-MiniLM-L6-v2 in eight bits, run by onnxruntime, checked by hash before use.

One text's vector does not depend on what it is batched with. Every method may be called from several threads at once.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from prsm.core.errors import ConfigError, InvalidRequest
from prsm.core.graph_cut import cut

DIMENSION: Final = 384
MAX_TOKENS: Final = 256
"""What the model reads of one text, its two markers included; the rest of a longer text is left out."""

_MAX_CHARS = 65_536
"""Characters tokenized of one text. 254 words of the longest kind the vocabulary splits need 25,400."""
_MAX_BATCH_TOKENS = 2_048
"""Padded tokens of one run: bounds the memory of a run at some 40 MB whatever the caller sends."""
_runtime: Any = onnxruntime  # it ships no types
_ASSETS = Path(__file__).parent / "assets" / "encoder"
_CPU = Path("/proc/cpuinfo")
_REQUIRED = frozenset({"model.onnx", "tokenizer.json"})
_REMEDY = "Reinstall prsm, or derive the files again with tools/build_encoder.py."


class _Manifest(msgspec.Struct, frozen=True):
    model: str
    dimension: int
    max_tokens: int
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A whole text in tokens, without markers; ``offsets`` are the characters that each stands for, half open."""

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


class Branch:
    """What grows out of the encoder's lower layers and reads for another purpose; made by ``TextEncoder.branch``."""

    def __init__(self, session: Any, outputs: Mapping[str, Sequence[str]], markers: tuple[int, int]) -> None:
        self._session = session
        self._names = list(outputs)
        self._by_token = frozenset(name for name, axes in outputs.items() if "tokens" in axes)
        self._markers = markers

    def read(self, rows: Sequence[Sequence[int]]) -> dict[str, list[npt.NDArray[np.float32]]]:
        """Every output, one array a row, for rows of tokens (without markers, at most MAX_TOKENS less two).

        An output by token has one line for each token of its row, the markers left out.
        """
        first, last = self._markers
        ids = [[first, *row, last] for row in rows]
        if max(map(len, ids), default=0) > MAX_TOKENS:
            raise InvalidRequest(f"A row holds at most {MAX_TOKENS - 2} tokens.", param="rows")
        # Row by row: what grows may quantise by the largest value of a run, and a row must not depend on others.
        read = [_run(self._session, self._names, [row]) for row in ids]
        found: dict[str, list[npt.NDArray[np.float32]]] = {}
        for number, name in enumerate(self._names):
            values = [each[number][0] for each in read]
            found[name] = [value[1:-1] for value in values] if name in self._by_token else values
        return found


class TextEncoder:
    """all-MiniLM-L6-v2; make one with ``load`` and keep it, it holds some 90 MB."""

    def __init__(
        self, session: Any, tokenizer: Tokenizer, model: str, sha256: str, directory: Path = _ASSETS, threads: int = 1
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._directory = directory
        self._threads = threads
        self.model: Final = model
        self.sha256: Final = sha256
        """SHA-256 of ``model.onnx``: vectors of different digests must not be compared."""

    @classmethod
    def load(cls, directory: Path | None = None, threads: int = 1) -> "TextEncoder":
        """Read, check and start the encoder; ``threads`` are those one run may use.

        Raises ConfigError when a file is missing or differs from the manifest beside it.
        """
        manifest, files = _read_checked(directory or _ASSETS)
        session = _session(files["model.onnx"], threads)
        tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(session, tokenizer, manifest.model, manifest.sha256["model.onnx"], directory or _ASSETS, threads)

    def branch(self, grown: bytes, outputs: Mapping[str, Sequence[str]]) -> Branch:
        """What ``grown``, nodes and weights of an ONNX graph to be put to the encoder's own, makes of a text.

        ``outputs`` names the values wanted and their axes; only what leads to them is run. With ``embedding`` among
        them one pass gives the vectors of ``encode`` too.
        """
        _, files = _read_checked(self._directory)
        session = _session(cut(files["model.onnx"] + grown, {}, outputs), self._threads)
        first, *_, last = self._tokenizer.encode("a").ids
        return Branch(session, outputs, (first, last))

    def tokens(self, text: str) -> Tokens:
        """All of ``text`` in tokens."""
        mended = _mend(text)
        # Joining halves of a surrogate pair would move what comes after: such a text is mended one by one.
        read = self._tokenizer.encode(mended if len(mended) == len(text) else _replace(text), add_special_tokens=False)
        return Tokens(read.ids, read.offsets)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One unit vector per text, [len(texts), 384], in the order given; a text beyond MAX_TOKENS is cut there."""
        if isinstance(texts, str):
            raise InvalidRequest("encode takes a sequence of texts, not one text.", param="texts")
        ids = [self._read_ids(text[:_MAX_CHARS]) for text in texts]
        vectors = np.empty((len(ids), DIMENSION), np.float32)
        for batch in _batches([len(row) for row in ids]):
            vectors[batch] = _run(self._session, ["embedding"], [ids[index] for index in batch])[0]
        return vectors

    def count_tokens(self, text: str) -> int:
        """Tokens of the whole text, its two markers included; ``encode`` reads the first MAX_TOKENS of them."""
        return len(self._tokenizer.encode(_mend(text)))

    def _read_ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(_mend(text)).ids
        return ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]


def adds_in_16_bits(cpu: str) -> bool:
    """Whether sums of products of unsigned and signed bytes may be cut: what /proc/cpuinfo says of x86 without VNNI."""
    return " sse2 " in cpu and "vnni" not in cpu


def _session(model: bytes, threads: int) -> Any:
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if _CPU.exists() and adds_in_16_bits(_CPU.read_text(encoding="utf-8", errors="replace")):
        # Unsigned weights then: the same numbers, at half the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return _runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, outputs: Sequence[str], rows: Sequence[Sequence[int]]) -> list[Any]:
    shape = (len(rows), max(map(len, rows)))
    input_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return session.run(outputs, {"input_ids": input_ids, "attention_mask": mask})


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices grouped from short to long, so that little is padding, each group within _MAX_BATCH_TOKENS."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[index] > _MAX_BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _mend(text: str) -> str:
    """``text`` as Unicode scalar values: surrogate halves that belong together are joined, lone ones become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _replace(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


def _read_checked(directory: Path) -> tuple[_Manifest, Mapping[str, bytes]]:
    """Every file the manifest names, read once, so that what was hashed is what is run."""
    try:
        manifest = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=_Manifest)
        files = {name: (directory / name).read_bytes() for name in manifest.sha256}
    except OSError as error:
        raise ConfigError(f"The text encoder cannot be read: {error}.", remedy=_REMEDY) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{directory / 'manifest.json'} is not a manifest: {error}.", remedy=_REMEDY) from error
    if missing := _REQUIRED - files.keys():
        raise ConfigError(f"{directory / 'manifest.json'} does not name {', '.join(sorted(missing))}.", remedy=_REMEDY)
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest.sha256[name]:
            raise ConfigError(f"{directory / name} does not have the SHA-256 of its manifest.", remedy=_REMEDY)
    if (manifest.dimension, manifest.max_tokens) != (DIMENSION, MAX_TOKENS):
        raise ConfigError(
            f"The encoder in {directory} has {manifest.dimension} dimensions and {manifest.max_tokens} tokens; "
            f"this node needs {DIMENSION} and {MAX_TOKENS}.",
            remedy=_REMEDY,
        )
    return manifest, files
