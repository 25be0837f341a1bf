"""Which files of a published repository are a model: configuration, tokenizer, safetensors, its card and its licence.

Everything else is left where it is; above all what unpickles. Names choose, nothing more: the bytes are judged later.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from prsm.data_layer.formats.file_roles import CONFIGURATIONS, is_index, is_licence, is_tokenizer

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_WHOLE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_MORE: Final = frozenset(
    {"generation_config.json", "preprocessor_config.json", "processor_config.json", "readme.md", "model_card.md"}
)


@dataclass(frozen=True, slots=True)
class Selection:
    """``weights`` are among ``wanted``; ``left_out`` is everything else."""

    wanted: tuple[str, ...]
    weights: tuple[str, ...]
    left_out: tuple[str, ...]


def select_model(paths: Iterable[str]) -> Selection:
    """The files that make the model at the top of a repository.

    Where weights come under the usual names (``model.safetensors``, ``model-00001-of-00002.safetensors``), other
    safetensors beside them are the same in another form.
    """
    every = sorted(set(paths))
    plain = [path for path in every if _PLAIN.fullmatch(path)]
    usual = [path for path in plain if _WHOLE.fullmatch(path)]
    weights = usual or [path for path in plain if path.endswith(".safetensors")]
    indexes = {"model.safetensors.index.json"} if usual else {path for path in plain if is_index(path)}
    wanted = [path for path in plain if path in weights or path in indexes or _is_beside(path)]
    return Selection(tuple(wanted), tuple(weights), tuple(path for path in every if path not in wanted))


def _is_beside(path: str) -> bool:
    known = path in CONFIGURATIONS or path.lower() in _MORE
    return known or is_tokenizer(path) or (is_licence(path) and not path.endswith((".json", ".safetensors")))
