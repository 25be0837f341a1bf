"""The catalogue's texts as vectors, computed once and kept in ``bench/out``: 100,000 take ten minutes of one core."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prsm.core.encoder import DIMENSION, TextEncoder

OUT = Path(__file__).parent / "out"
_BATCH = 1_000


def vectors_of(texts: Sequence[str], encoder: TextEncoder) -> npt.NDArray[np.float16]:
    """One vector a text, mapped from the disk; a run that was broken off goes on where it ended."""
    digest = hashlib.sha256("\0".join([encoder.sha256, *texts]).encode()).hexdigest()[:16]
    path = OUT / f"discovery-embeddings-{digest}.npy"
    if not path.exists():
        _compute(texts, encoder, path.with_suffix(".part"))
        rows = np.fromfile(path.with_suffix(".part"), np.float16).reshape(-1, DIMENSION)
        np.save(path.with_suffix(".draft.npy"), rows)
        path.with_suffix(".draft.npy").rename(path)
        path.with_suffix(".part").unlink()
    return np.load(path, mmap_mode="r")


def _compute(texts: Sequence[str], encoder: TextEncoder, part: Path) -> None:
    OUT.mkdir(exist_ok=True)
    row_bytes = DIMENSION * 2
    done = part.stat().st_size // row_bytes if part.exists() else 0
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(done * row_bytes)
        file.seek(done * row_bytes)
        for start in range(done, len(texts), _BATCH):
            file.write(encoder.encode(texts[start : start + _BATCH]).astype(np.float16).tobytes())
            file.flush()
