"""What was learnt of harmful content, as files: a branch of the encoder, weights of n-grams, and a head over both.

The files are checked by hash before use and belong to one encoder; arithmetic on them is here, reading texts is not.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from prsm.core.errors import ConfigError
from prsm.safety.detectors.ngrams import BUCKETS, Buckets, buckets
from prsm.safety.detectors.profanity import Profanity
from prsm.safety.detectors.tagger import FORMS, TAGS, Tagger
from prsm.safety.seams import Category

CATEGORIES: Final = (
    Category.HATE,
    Category.HARASSMENT,
    Category.SEXUAL,
    Category.SEXUAL_MINORS,
    Category.VIOLENCE,
    Category.SELF_HARM,
    Category.ILLICIT,
    Category.JAILBREAK,
)
OUTPUTS: Final = len(CATEGORIES) + 1
"""Of the branch and of the n-grams each: every category, and whether there is any harm."""
LOGITS: Final = "screen.logits"
TAG_LOGITS: Final = "screen.tags"
ASSETS: Final = Path(__file__).parent / "assets" / "content"

_REMEDY: Final = "Reinstall prsm, or train the files again with tools/screening."
_SHAPES: Final = {
    "table": (BUCKETS, OUTPUTS),
    "table_scale": (OUTPUTS,),
    "table_bias": (OUTPUTS,),
    "head": (2 * OUTPUTS + 1, len(CATEGORIES)),
    "head_bias": (len(CATEGORIES),),
}
_NONE: Final = np.empty(0, np.float32)
Floats = npt.NDArray[np.float32]


class _Manifest(msgspec.Struct, frozen=True):
    version: str
    encoder_sha256: str
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class ContentModel:
    """``table`` is int8 [buckets, outputs], each output with its scale; ``head`` is over all that is said of a window.

    That is: the branch's outputs, the n-grams', and one logit of profanity.
    """

    version: str
    encoder_sha256: str
    branch: bytes
    table: npt.NDArray[np.int8]
    table_scale: Floats
    table_bias: Floats
    head: Floats
    head_bias: Floats
    profanity: Profanity
    tagger: Tagger

    def _bag_logits(self, found: Buckets) -> Floats:
        """What the n-grams of one window say, [outputs]."""
        total = self.table[found].sum(0, dtype=np.int32) * self.table_scale
        return (total / np.sqrt(max(1, len(found))) + self.table_bias).astype(np.float32)

    def probabilities(self, network: Floats, words: Sequence[str]) -> Floats:
        """Calibrated probabilities [windows, categories] of windows: the branch's logits and the words of each."""
        bag = np.stack([self._bag_logits(buckets(each)) for each in words])
        profanity = np.array([[self.profanity.logit(each)] for each in words], np.float32)
        logits = np.concatenate([network, bag, profanity], 1) @ self.head + self.head_bias
        return (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)


def load_content_model(folder: Path = ASSETS) -> ContentModel:
    """The shipped model; raises ConfigError where a file is missing, differs from its hash or has another shape."""
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
        files = {name: (folder / name).read_bytes() for name in manifest.sha256}
        branch, packed = files["branch.onnx"], files["weights.safetensors"]
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != manifest.sha256[name]:
                raise ConfigError(f"{folder / name} does not have the SHA-256 of its manifest.", remedy=_REMEDY)
        tensors = load(packed)
    except OSError as error:
        raise ConfigError(f"The screening model cannot be read: {error}.", remedy=_REMEDY) from error
    except (msgspec.DecodeError, KeyError, SafetensorError) as error:
        raise ConfigError(f"{folder} does not hold a screening model: {error}.", remedy=_REMEDY) from error
    profanity = Profanity(*(tensors.pop(name, _NONE) for name in Profanity.__slots__))
    tagger = Tagger(tensors.pop("tag_table", _NONE), tensors.pop("tag_ways", _NONE))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    fits = (tagger.table.shape, tagger.ways.shape) == ((FORMS, TAGS), (TAGS, TAGS))
    if shapes != _SHAPES or tensors["table"].dtype != np.int8 or not fits:
        raise ConfigError(f"The screening model in {folder} has the shapes {shapes}.", remedy=_REMEDY)
    return ContentModel(
        manifest.version, manifest.encoder_sha256, branch, **tensors, profanity=profanity, tagger=tagger
    )
