"""How hard a prompt is, and how much a better model gains on it: a learnt reading of its embedding and its text.

``Reader`` is ridge regression on Gaussian kernels at fixed landmarks plus a bag of hashed words, and for a part the
mean of what became of the most similar prompts. It gives two figures for the two models that it was learnt from, the
gap between their chances and the mean of them, and these make an Item (see ``quality``). Far from every landmark the
kernels vanish, and what the regression says is the average prompt.
"""

import hashlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from prsm.agents.routers import prompt_features
from prsm.agents.routers.quality import Item
from prsm.core.encoder import DIMENSION
from prsm.core.errors import ConfigError

FEATURE_SCALE: Final = 1.0
"""What all counted features together weigh beside the unit embedding."""
KERNEL_GAMMA: Final = 1.0
ASSETS: Final = Path(__file__).parent / "assets" / "difficulty"
MAX_FILE_BYTES: Final = 8_000_000
NEIGHBOURS: Final = 30
NEIGHBOUR_SHARE: Final = 0.25
"""What the nearest examples count in a figure beside the regression: see docs/benchmarks.md for others."""

EXAMPLE_SCALE: Final = 254.0
"""An example's coordinate in eight bits is so many times its own, which is below a half."""

_FAR, _NEAR = 0.25, 0.45
"""Mean cosine of the nearest examples: of nine in ten exam questions it is above .32, of half of them above .44."""
_SIFTED = 256
"""So many examples, the nearest by the signs of their coordinates, are compared exactly: a sixth of the time of all."""
_GAP_SOFTNESS = 0.02
"""A gap below some 0.02 is bent towards 0 without ever reaching it: the order stays, a better model stays better."""
_LEAST_CHANCE = 0.02
_FEATURE_LIMIT = 4.0
_REMEDY = "Reinstall prsm, or make the files again: python -m prsm.agents.routers.difficulty_recipe --help."
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reader:
    """What was learnt. L landmarks, C clusters, W word buckets, F counted features, E examples; the two columns: gap,
    mean chance. ``examples`` are unit embeddings times EXAMPLE_SCALE, ``outcomes`` what the models made of each.

    ``reference`` are the abilities (log-odds) of the weaker and the stronger model it was learnt from.
    """

    centroids: Array  # [C, 384]
    landmarks: Array  # [L, 384 + F]
    kernel_weights: Array  # [L, 2]
    word_weights: Array  # [W, 2]
    word_rarity: Array  # [W]
    feature_mean: Array  # [F]
    feature_scale: Array  # [F]
    intercept: Array  # [2]
    reference: Array  # [2]
    examples: npt.NDArray[np.int8]  # [E, 384]
    outcomes: Array  # [E, 2]
    landmark_squares: Array = field(init=False, repr=False)  # [L], not stored: saves a third of a reading's time
    signs: npt.NDArray[np.uint64] = field(init=False, repr=False)  # [6, E], not stored

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmark_squares", (self.landmarks**2).sum(1))
        object.__setattr__(self, "signs", _signs(self.examples))

    @property
    def clusters(self) -> int:
        """How many domain clusters there are."""
        return len(self.centroids)


TENSORS: Final = tuple(each.name for each in fields(Reader) if each.init)
"""What is stored of a Reader."""


def load_reader(folder: Path | None = None) -> Reader:
    """The shipped reader, or the one in ``folder``. Raises ConfigError when a file is missing or is not what its
    manifest says.
    """
    folder = folder or ASSETS
    manifest = read_manifest(folder)
    try:
        with (folder / "model.safetensors").open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(error) from error
    if len(content) > MAX_FILE_BYTES or hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ConfigError(f"{folder / 'model.safetensors'} is not the file its manifest names.", remedy=_REMEDY)
    return _checked(content)


def read_manifest(folder: Path | None = None) -> "Manifest":
    """What the shipped reader, or the one in ``folder``, says of itself. Raises ConfigError."""
    try:
        return msgspec.json.decode(((folder or ASSETS) / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise _unreadable(error) from error


class Manifest(msgspec.Struct, frozen=True):
    """Beside the weights: their SHA-256, and that of the encoder whose embeddings they were learnt on."""

    sha256: str
    encoder_sha256: str


def read(reader: Reader, text: str, embedding: Array) -> Item:
    """The item that ``text`` is, whose unit embedding the shared encoder gave."""
    point = place(reader, embedding, prompt_features.count(text))
    figures = reader.intercept + kernels(reader, point[None])[0] @ reader.kernel_weights
    buckets = prompt_features.words(text)
    if len(buckets):
        rarity = reader.word_rarity[buckets]
        figures = figures + rarity @ reader.word_weights[buckets] / max(float(np.linalg.norm(rarity)), 1e-9)
    both = with_neighbours(reader, embedding, figures)
    difficulty, discrimination = item_law(both[None], reader.reference)[0]
    cluster = int(nearest(reader.centroids, embedding[None])[0])
    return Item(float(difficulty), float(discrimination), cluster)


def place(reader: Reader, embedding: Array, counted: Array) -> Array:
    """Embedding and standardised features as one point; rows or a single prompt."""
    standard = (counted - reader.feature_mean) / reader.feature_scale
    bounded = np.clip(standard, -_FEATURE_LIMIT, _FEATURE_LIMIT)
    weight = FEATURE_SCALE / np.sqrt(len(reader.feature_mean), dtype=np.float32)
    return np.concatenate([embedding, weight * bounded], axis=-1).astype(np.float32)


def kernels(reader: Reader, points: Array) -> Array:
    """Gaussian kernels exp(-gamma * squared distance) of points and landmarks, [points, L]."""
    squares = (points**2).sum(1)[:, None] + reader.landmark_squares - 2 * points @ reader.landmarks.T
    return np.exp(-KERNEL_GAMMA * np.maximum(squares, 0)).astype(np.float32)


def with_neighbours(reader: Reader, embedding: Array, regression: Array) -> npt.NDArray[np.float64]:
    """Figures of one prompt, [2]: the regression's, and for a part the mean of the NEIGHBOURS nearest examples.

    That part is NEIGHBOUR_SHARE where they are as near as those of most exam questions, and nothing where they are far.
    """
    apart = np.bitwise_count(reader.signs ^ _signs(embedding[None])).sum(0, dtype=np.uint16)
    sifted = _least(apart.astype(np.int64), _SIFTED)
    likeness = reader.examples[sifted] @ embedding / EXAMPLE_SCALE
    nearest = _least(-likeness, NEIGHBOURS)
    near = (float(likeness[nearest].mean()) - _FAR) / (_NEAR - _FAR)
    share = NEIGHBOUR_SHARE * min(max(near, 0.0), 1.0)
    both = (1 - share) * regression + share * reader.outcomes[sifted[nearest]].mean(0)
    return both.astype(np.float64)


def nearest(centroids: Array, points: Array) -> npt.NDArray[np.intp]:
    """The centroid nearest to each point; the first of equals."""
    return (points @ centroids.T - 0.5 * (centroids**2).sum(1)).argmax(1)


def item_law(figures: npt.NDArray[np.float64], reference: Array) -> npt.NDArray[np.float64]:
    """Rows of (gap, mean chance) as rows of (difficulty, discrimination > 0).

    The law of ``quality`` is solved for the two reference models, so that it gives them back exactly the chances it was
    made from, but for gaps bent above zero and chances kept off 0 and 1.
    """
    gap = _GAP_SOFTNESS * np.logaddexp(0, figures[:, 0] / _GAP_SOFTNESS)
    gap = np.minimum(gap, 1 - 2 * _LEAST_CHANCE - 1e-6)
    mean = np.clip(figures[:, 1], _LEAST_CHANCE + gap / 2, 1 - _LEAST_CHANCE - gap / 2)
    weak = mean - gap / 2
    # logit(mean + gap / 2) - logit(mean - gap / 2), exact for the smallest gaps too
    apart = 2 * np.arctanh(gap / 2 / mean) + 2 * np.arctanh(gap / 2 / (1 - mean))
    discrimination = apart / float(reference[1] - reference[0])
    return np.stack([discrimination * float(reference[0]) - np.log(weak / (1 - weak)), discrimination], axis=1)


def _least(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """Where the ``count`` least are, in any order."""
    return np.argpartition(values, count - 1)[:count] if count < len(values) else np.arange(len(values))


def _signs(points: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """One bit a coordinate, [6, points]: whether it is above zero."""
    return np.ascontiguousarray(np.packbits(points > 0, axis=1).view(np.uint64).T)


def _unreadable(error: Exception) -> ConfigError:
    return ConfigError(f"The difficulty estimate cannot be read: {error}.", remedy=_REMEDY)


def _checked(content: bytes) -> Reader:
    """The tensors of a safetensors file, exactly those of Reader, of shapes that fit each other, finite."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ConfigError(f"The difficulty estimate is no safetensors file ({error}).", remedy=_REMEDY) from None
    counted, buckets = len(prompt_features.COUNTED), prompt_features.WORD_BUCKETS
    clusters, landmarks, examples = (
        len(tensors[name]) if name in tensors else 0 for name in ("centroids", "landmarks", "examples")
    )
    shapes = {
        "centroids": (clusters, DIMENSION),
        "landmarks": (landmarks, DIMENSION + counted),
        "kernel_weights": (landmarks, 2),
        "word_weights": (buckets, 2),
        "word_rarity": (buckets,),
        "feature_mean": (counted,),
        "feature_scale": (counted,),
        "intercept": (2,),
        "reference": (2,),
        "examples": (examples, DIMENSION),
        "outcomes": (examples, 2),
    }
    if tensors.keys() != set(TENSORS):
        raise ConfigError("The difficulty estimate does not have the tensors that this version reads.", remedy=_REMEDY)
    for name, shape in shapes.items():
        tensor = tensors[name]
        kinds = ("int8",) if name == "examples" else ("float16", "float32")
        if tensor.shape != shape or tensor.dtype.name not in kinds or not np.isfinite(tensor).all():
            raise ConfigError(f"The tensor {name} is {tensor.dtype}{tensor.shape}, not finite {shape}.", remedy=_REMEDY)
    examples: Any = tensors.pop("examples")
    return Reader(examples=examples, **{name: tensor.astype(np.float32) for name, tensor in tensors.items()})
