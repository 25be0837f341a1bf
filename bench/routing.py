"""APGR of the difficulty estimate on the two public routing tables, beside random, prompt length and neighbours.

    python -m bench.routing [FOLDER]

FOLDER (or PRSM_ROUTING_DATA, or ../shared/data/routing beside the checkout) holds mmlu.csv and gsm8k.csv. Five folds by
SHA-256 of the prompt; everything learnt is learnt on the four others. Embeddings are kept in
bench/out by the encoder's hash. Nothing reads the subject column, unless ``--without subject=...`` leaves rows out.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prsm.agents.routers import difficulty_fit, quality
from prsm.agents.routers.difficulty import Reader, item_law, load_reader, read
from prsm.agents.routers.difficulty_fit import FOLDS, SHARES, Recipe, Rows, apgr, figures, fit, gap_recovered, pick
from prsm.agents.routers.difficulty_recipe import read_tables
from prsm.core.encoder import DIMENSION, TextEncoder

OUT = Path(__file__).parent / "out"
TABLES = ("mmlu", "gsm8k")
TARGETS = {"mmlu": 0.68, "gsm8k": 0.61}
NEIGHBOURS = (10, 30, 100)
OURS, ALONE = "ours", "ours, this table alone"
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One router on one table. ``low`` to ``high`` hold 95 % of bootstrap draws; ``ahead``: what ours has over it."""

    router: str
    apgr: float
    low: float
    high: float
    pooled: float
    share_80: float
    share_95: float
    ahead: tuple[float, float]


def default_folder() -> Path:
    """Where the tables are looked for when nobody says."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "routing"
    return Path(os.environ.get("PRSM_ROUTING_DATA") or beside)


def read_rows(
    folder: Path, encoder: TextEncoder, cache: Path, without: Sequence[str] = ()
) -> tuple[Rows, Sequence[str]]:
    """All rows of both tables with their prompts; SystemExit, in plain words, when a table is absent."""
    paths = [folder / f"{name}.csv" for name in TABLES]
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"{path} is not there. Name the folder of the tables: python -m bench.routing FOLDER")
    told = read_tables(paths, without)
    vectors = embed(told.prompts, encoder, cache)
    return difficulty_fit.rows(told.prompts, vectors, told.weak, told.strong, told.table), told.prompts


def embed(prompts: Sequence[str], encoder: TextEncoder, cache: Path) -> npt.NDArray[np.float32]:
    """Embeddings of ``prompts``, from ``cache`` when the same encoder made them of the same prompts."""
    digest = hashlib.sha256(encoder.sha256.encode())
    for prompt in prompts:
        digest.update(hashlib.sha256(prompt.encode()).digest())
    path = cache / f"routing-embeddings-{digest.hexdigest()[:16]}.npy"
    if path.is_file():
        return np.load(path)
    print(f"encoding {len(prompts):,} prompts, some minutes", flush=True)
    vectors = encoder.encode(prompts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return vectors


def gap(reader: Reader, asked: Rows) -> Scores:
    """How much more likely the stronger reference model is right than the weaker, by the law that the product uses."""
    items = item_law(figures(reader, asked), reader.reference)
    weak, strong = (1 / (1 + np.exp(items[:, 0] - items[:, 1] * float(each))) for each in reader.reference)
    return strong - weak


def neighbours(train: Rows, asked: Rows, count: int) -> Scores:
    """Mean gain of the ``count`` training prompts nearest by cosine."""
    likeness = asked.embedding @ train.embedding.T
    nearest = np.argpartition(-likeness, min(count, len(train.weak)) - 1, axis=1)[:, :count]
    return (train.strong - train.weak)[nearest].mean(1).astype(np.float64)


def scored(every: Rows, length: npt.NDArray[np.float64], recipe: Recipe) -> dict[int, dict[str, Scores]]:
    """Out-of-fold scores of each router by table, for that table's rows in their order.

    Random is no order at all: ``gap_recovered`` then gives what random orders have on average.
    """
    tables = [int(table) for table in np.unique(every.table)]
    names = ["random", "longer to strong", "shorter to strong", *(f"kNN {k}" for k in NEIGHBOURS), ALONE, OURS]
    scores = {name: np.zeros(len(every.weak)) for name in names}
    for fold in range(FOLDS):
        train = pick(every, every.fold != fold)
        together = fit(train, recipe)
        for table in tables:
            here = (every.fold == fold) & (every.table == table)
            asked, same = pick(every, here), pick(train, train.table == table)
            scores["longer to strong"][here], scores["shorter to strong"][here] = length[here], -length[here]
            for k in NEIGHBOURS:
                scores[f"kNN {k}"][here] = neighbours(same, asked, k)
            scores[ALONE][here] = gap(together if len(tables) == 1 else fit(same, recipe), asked)
            scores[OURS][here] = gap(together, asked)
    return {t: {name: score[every.table == t] for name, score in scores.items()} for t in tables}


def compare(rows: Rows, scores: Mapping[str, Scores], seed: int, draws: int) -> list[Figure]:
    """Figures of all routers on one table: means over folds, rows drawn again within each fold, alike for all."""
    drawn = {name: np.zeros(draws) for name in scores}
    chance = np.random.default_rng(seed)
    folds = [np.flatnonzero(rows.fold == fold) for fold in range(FOLDS)]
    for number in range(draws):
        sample = [chance.choice(fold, len(fold)) for fold in folds]
        for name, score in scores.items():
            drawn[name][number] = np.mean([apgr(score[s], rows.weak[s], rows.strong[s]) for s in sample])
    found: list[Figure] = []
    for name, score in scores.items():
        curve = np.mean([gap_recovered(score[f], rows.weak[f], rows.strong[f]) for f in folds], axis=0)
        low, high = (float(x) for x in np.percentile(drawn[name], [2.5, 97.5]))
        behind, ahead = (float(x) for x in np.percentile(drawn[OURS] - drawn[name], [2.5, 97.5]))
        pooled = apgr(score, rows.weak, rows.strong)
        shares = [float(SHARES[np.argmax(curve >= part - 1e-9)]) for part in (0.8, 0.95)]
        found.append(Figure(name, float(curve.mean()), low, high, pooled, *shares, (behind, ahead)))
    return found


def transfer(every: Rows, recipe: Recipe) -> dict[str, float]:
    """APGR on each table of a reader that has seen only the other."""
    known: dict[str, float] = {}
    for source in (0, 1):
        reader = fit(pick(every, every.table == source), recipe)
        other = pick(every, every.table != source)
        score = gap(reader, other)
        known[f"{TABLES[source]} -> {TABLES[1 - source]}"] = apgr(score, other.weak, other.strong)
    return known


def timings(reader: Reader, prompts: Sequence[str], embeddings: npt.NDArray[np.float32]) -> dict[str, list[float]]:
    """Microseconds, p50 and p99, of reading a prompt (embedding apart) and of judging 2,000 models for it."""
    chance = np.random.default_rng(0)
    scores = [[quality.Score(accuracy, 1_000)] for accuracy in chance.uniform(0.3, 0.95, 2_000)]
    abilities = quality.start(scores, reader.clusters, 0.0)
    normals = chance.standard_normal(2_000)
    items = [read(reader, text, vector) for text, vector in zip(prompts, embeddings, strict=True)]
    numbers = list(range(len(prompts)))
    steps: dict[str, Callable[[int], Any]] = {
        "read one prompt": lambda n: read(reader, prompts[n], embeddings[n]),
        "quality of 2,000 models": lambda n: quality.quality(abilities, items[n]),
        "Thompson draw of 2,000 models": lambda n: quality.draw(abilities, items[n], normals),
    }
    return {name: _timed_us(step, numbers) for name, step in steps.items()}


def _timed_us(step: Callable[[int], Any], numbers: Sequence[int]) -> list[float]:
    spent: list[float] = []
    for number in numbers:
        started = time.perf_counter()
        step(number)
        spent.append((time.perf_counter() - started) * 1e6)
    return [float(x) for x in np.percentile(spent, [50, 99])]


def table_text(name: str, rows: Rows, found: Sequence[Figure]) -> str:
    """One table as text."""
    weak, strong = rows.weak.mean(), rows.strong.mean()
    target = f"; APGR to reach {TARGETS[name]}" if name in TARGETS else ""
    lines = [f"{name}: {len(rows.weak):,} rows, weak {weak:.3f}, strong {strong:.3f}{target}"]
    lines.append(f"{'':<24}{'APGR':>7}{'95 % interval':>17}{'pooled':>9}{'80 %':>7}{'95 %':>7}{'ours is ahead by':>20}")
    for f in found:
        interval, ahead = f"{f.low:.3f}-{f.high:.3f}", f"{f.ahead[0]:+.3f} to {f.ahead[1]:+.3f}"
        lines.append(
            f"{f.router:<24}{f.apgr:>7.3f}{interval:>17}{f.pooled:>9.3f}{f.share_80:>7.2f}{f.share_95:>7.2f}{ahead:>20}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="APGR on the public routing tables.")
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=400, help="bootstrap draws")
    parser.add_argument("--without", metavar="COLUMN=VALUE", action="append", default=[], help="leave such rows out")
    args = parser.parse_args()
    encoder, recipe = TextEncoder.load(threads=2), Recipe(args.seed)
    every, prompts = read_rows(args.folder, encoder, OUT, args.without)
    print(f"seed {args.seed}, {args.draws} bootstrap draws, encoder {encoder.sha256[:12]}, {DIMENSION} dimensions")
    scores = scored(every, np.array([len(prompt) for prompt in prompts], np.float64), recipe)
    result: dict[str, Any] = {"seed": args.seed, "encoder": encoder.sha256, "without": args.without, "tables": {}}
    for table, name in enumerate(TABLES):
        rows = pick(every, every.table == table)
        found = compare(rows, scores[table], args.seed, args.draws)
        result["tables"][name] = [{slot: getattr(f, slot) for slot in Figure.__slots__} for f in found]
        print(table_text(name, rows, found), flush=True)
    result["transfer"] = transfer(every, recipe)
    result["timings_us"] = timings(load_reader(), prompts[:2_000], every.embedding[:2_000])
    for name, value in result["transfer"].items():
        print(f"transfer {name}: APGR {value:.3f}")
    for name, (p50, p99) in result["timings_us"].items():
        print(f"{name}: p50 {p50:.0f} us, p99 {p99:.0f} us")
    path = OUT / f"routing-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
