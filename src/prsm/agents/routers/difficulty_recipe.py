"""Makes the shipped difficulty estimate: ``python -m prsm.agents.routers.difficulty_recipe TABLE.csv...``.

Each table is a CSV with the columns prompt, weak_correct and strong_correct (0 or 1). All rows of all tables are learnt
from, but for those that ``--without COLUMN=VALUE`` leaves out; what the result is worth on rows it has not seen,
``bench/routing.py`` measures with the same ``fit``.
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from prsm.agents.routers.difficulty import ASSETS, TENSORS, Reader
from prsm.agents.routers.difficulty_fit import Recipe, fit, rows
from prsm.core.encoder import TextEncoder
from prsm.core.errors import InvalidRequest

_HALF = frozenset({"centroids", "landmarks", "outcomes"})


@dataclass(frozen=True, slots=True)
class Tables:
    """What the files say, row by row."""

    prompts: Sequence[str]
    weak: Sequence[int]
    strong: Sequence[int]
    table: Sequence[int]


def write(reader: Reader, encoder_sha256: str, folder: Path) -> None:
    """Writes ``model.safetensors`` (what float16 holds exactly in that) and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: getattr(reader, name) for name in TENSORS}
    content = save({name: value.astype(np.float16) if name in _HALF else value for name, value in tensors.items()})
    (folder / "model.safetensors").write_bytes(content)
    manifest = {"sha256": hashlib.sha256(content).hexdigest(), "encoder_sha256": encoder_sha256}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_tables(paths: Sequence[Path], without: Sequence[str] = ()) -> Tables:
    """All rows of ``paths`` in order, each an exam of its own, but for those where a COLUMN=VALUE of ``without`` holds.

    Raises InvalidRequest, OSError, and KeyError where a column lacks.
    """
    if any("=" not in each for each in without):
        raise InvalidRequest("What is left out is written COLUMN=VALUE.", param="without")
    left_out = [tuple(each.split("=", 1)) for each in without]
    found: list[tuple[str, int, int, int]] = []
    for table, path in enumerate(paths):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if any(row.get(column) == value for column, value in left_out):
                    continue
                found.append((row["prompt"], int(row["weak_correct"]), int(row["strong_correct"]), table))
    prompts, weak, strong, table = zip(*found, strict=True)
    return Tables(prompts, weak, strong, table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", metavar="COLUMN=VALUE", action="append", default=[], help="leave such rows out")
    arguments = parser.parse_args()
    encoder = TextEncoder.load(threads=2)
    told = read_tables(arguments.tables, arguments.without)
    learnt_from = rows(told.prompts, encoder.encode(told.prompts), told.weak, told.strong, told.table)
    write(fit(learnt_from, Recipe(arguments.seed)), encoder.sha256, arguments.out)


if __name__ == "__main__":
    main()
