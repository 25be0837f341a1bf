"""The evaluation sets of screening, and the measures taken on them: areas, rates and intervals."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tools.screening.gather import JAILBREAKS_KEPT, MMLU_KEPT, kept

MODERATION = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
BY_CATEGORY = {
    "sexual": "S", "hate": "H", "violence": "V", "harassment": "HR", "self-harm": "SH", "sexual/minors": "S3",
}  # fmt: skip
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Texts:
    """A set: what was written, and whether it is what is looked for."""

    texts: list[str]
    truth: Bools


@dataclass(frozen=True, slots=True)
class Sets:
    """All of them; ``labels`` of moderation by category, -1 where nobody said."""

    moderation: Texts
    labels: dict[str, npt.NDArray[np.int64]]
    hatecheck: Texts
    functionality: list[str]
    xstest: Texts
    jailbreaks: list[str]
    benign: dict[str, list[str]]


def default_folder() -> Path:
    """Where the data is looked for when nobody says."""
    return Path(os.environ.get("PRSM_SAFETY_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def read_sets(folder: Path) -> Sets:
    """Every evaluation set; SystemExit, in plain words, where one is absent."""
    safety = folder / "safety"
    for name in ("openai_moderation", "hatecheck", "xstest", "jailbreaks_in_the_wild"):
        if not (safety / f"{name}.csv").is_file():
            raise SystemExit(
                f"{safety / name}.csv is not there. Name the folder of the data: python -m bench.safety FOLDER"
            )
    moderation, hatecheck, xstest = (
        _rows(safety / f"{name}.csv") for name in ("openai_moderation", "hatecheck", "xstest")
    )
    safe = [row["text"] for row in xstest if row["unsafe"] == "0"]
    mmlu = [row["prompt"] for row in _rows(folder / "routing" / "mmlu.csv") if kept(row["prompt"], MMLU_KEPT)][:1500]
    lines = (folder / "reasoning" / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()
    return Sets(
        Texts([r["text"] for r in moderation], np.array([any(r[c] == "1" for c in MODERATION) for r in moderation])),
        {name: np.array([int(r[c] or -1) for r in moderation]) for name, c in BY_CATEGORY.items()},
        Texts([r["text"] for r in hatecheck], np.array([r["hateful"] == "1" for r in hatecheck])),
        [r["functionality"] for r in hatecheck],
        Texts([r["text"] for r in xstest], np.array([r["unsafe"] == "1" for r in xstest])),
        [r["text"] for r in _rows(safety / "jailbreaks_in_the_wild.csv") if kept(r["text"], JAILBREAKS_KEPT)],
        {"GSM8K": [json.loads(line)["question"] for line in lines], "MMLU": mmlu, "XSTest safe": safe},
    )


def average_precision(truth: Bools, scores: Floats) -> float:
    """Area under precision and recall, as the sum over ranks; ties are one rank."""
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(truth[order]), scores[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    recall, precision = hits[last] / max(1, hits[-1]), hits[last] / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def area(truth: Bools, scores: Floats) -> float:
    """Area under the receiver's curve: how often one that is looked for is above one that is not."""
    values, inverse = np.unique(scores, return_inverse=True)
    places = np.cumsum(np.bincount(inverse, minlength=len(values)))
    ranks = places[inverse] - (np.bincount(inverse)[inverse] - 1) / 2
    positive, negative = int(truth.sum()), int((~truth).sum())
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def accuracy(truth: Bools, scores: Floats) -> float:
    return float(np.mean((scores >= 0.5) == truth))


def macro_f1(truth: Bools, scores: Floats) -> float:
    said = scores >= 0.5
    each = [2 * np.sum(a & b) / max(1, np.sum(a) + np.sum(b)) for a, b in ((truth, said), (~truth, ~said))]
    return float(np.mean(each))


def interval(
    measure: Callable[[Bools, Floats], float], truth: Bools, scores: Floats, seed: int, draws: int
) -> tuple[float, float]:
    """95 % of bootstrap draws of rows."""
    chance = np.random.default_rng(seed)
    found = [measure(truth[s], scores[s]) for s in (chance.integers(0, len(truth), len(truth)) for _ in range(draws))]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval of a rate, 95 %."""
    if not count:
        return 0.0, 1.0
    z, rate = 1.96, hits / count
    middle, spread = rate + z * z / (2 * count), z * np.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return float(max(0.0, middle - spread) / (1 + z * z / count)), float((middle + spread) / (1 + z * z / count))


def at_false_rate(positive: Floats, negative: Floats, rate: float) -> tuple[int, float]:
    """How many of ``positive`` are above what ``rate`` of ``negative`` exceed, and that threshold."""
    threshold = float(np.quantile(negative, 1 - rate, method="higher"))
    return int(np.sum(positive > threshold)), threshold


def any_harm(scores: Sequence[dict[str, float]]) -> Floats:
    """One score of all that the moderation set labels: the chance that one of the categories holds, were they apart."""
    return np.array([1 - np.prod([1 - each[name] for name in BY_CATEGORY]) for each in scores])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
