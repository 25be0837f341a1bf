"""How well texts are screened, beside alt-profanity-check and a linear model on TF-IDF, and what it takes in time.

    OMP_NUM_THREADS=1 python -m bench.safety [FOLDER] [--only quality|personal|speed]

FOLDER (or PRSM_SAFETY_DATA, or ../shared/data beside the checkout) holds safety, routing and reasoning. The whole
detector is asked, disguises and windows included, at 0.5 where a threshold is needed. alt-profanity-check (whose word
weights are also a part of ours) runs in a virtual environment of its own, TF-IDF is fitted on the training block here.
Jailbreaks are the quarter that training leaves out; the tagger's figures are of five folds of pii_spans.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tools.screening.gather import public, rows
from tools.screening.tagging import cross_validate, read_rows
from tools.screening.train import Recipe

from bench.safety_sets import (
    BY_CATEGORY,
    Floats,
    Sets,
    accuracy,
    any_harm,
    area,
    at_false_rate,
    average_precision,
    default_folder,
    interval,
    macro_f1,
    read_sets,
    wilson,
)
from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.content import ContentDetector
from prsm.safety.detectors.content_model import ASSETS
from prsm.safety.detectors.personal import PersonalDetector

OUT = Path(__file__).parent / "out"
ROOT = Path(__file__).resolve().parents[1]
PEER = "alt-profanity-check==1.9.1"
TARGETS = {"moderation AUPRC": 0.76, "HateCheck accuracy": 0.766, "HateCheck macro-F1": 0.702, "XSTest AUROC": 0.85}
PATTERNED = {
    "email": "EMAIL_ADDRESS", "url": "DOMAIN_NAME", "card": "CREDIT_CARD", "iban": "IBAN_CODE", "us-ssn": "US_SSN",
    "phone": "PHONE_NUMBER", "ip": "IP_ADDRESS",
}  # fmt: skip
Scores = list[dict[str, float]]


def ours(detector: ContentDetector, texts: Sequence[str]) -> Scores:
    """Every category of every text, a few texts at a time."""
    found: Scores = []
    for start in range(0, len(texts), 16):
        found += [{c.value: p for c, p in each.scores.items()} for each in detector.assess(texts[start : start + 16])]
    return found


def peer(texts: Sequence[str]) -> Floats:
    """What alt-profanity-check says, in an environment of its own."""
    folder = ROOT / ".venv-profanity"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True, timeout=1200)
    code = "import json,sys; from profanity_check import predict_prob as p; print(json.dumps(p(json.load(sys.stdin)).tolist()))"
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code], input=json.dumps(list(texts)), capture_output=True, text=True, check=True
    )
    return np.array(json.loads(done.stdout))


def tfidf(folder: Path, seed: int) -> Callable[[Sequence[str]], Floats]:
    """Logistic regression on words of the training block: hateful, offensive or a jailbreak against none."""
    from random import Random

    examples = list(public(folder / "safety", Random(seed)))
    harmful = [
        any(label == 1 for label in e.labels) or (e.source == "davidson" and e.labels[0] <= 0 and e.labels[1] < 0)
        for e in examples
    ]
    vectors = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = LogisticRegression(C=4, max_iter=500, class_weight="balanced").fit(
        vectors.fit_transform([e.text for e in examples]), harmful
    )
    return lambda texts: model.predict_proba(vectors.transform(texts))[:, 1]


def quality(sets: Sets, folder: Path, detector: ContentDetector, seed: int, draws: int) -> dict[str, Any]:
    """The table of the evaluation sets."""
    asked = {
        "moderation": sets.moderation.texts,
        "hatecheck": sets.hatecheck.texts,
        "xstest": sets.xstest.texts,
        "jailbreaks": sets.jailbreaks,
    } | sets.benign
    said = {name: ours(detector, texts) for name, texts in asked.items()}
    hate = np.array([each["hate"] for each in said["hatecheck"]])
    unsafe = np.array(
        [
            1 - np.prod([1 - p for name, p in each.items() if name not in {"jailbreak", "personal-data"}])
            for each in said["xstest"]
        ]
    )
    linear = tfidf(folder, seed)
    readers = {
        "ours": (any_harm(said["moderation"]), hate, unsafe),
        PEER.split("==")[0]: tuple(peer(asked[name]) for name in ("moderation", "hatecheck", "xstest")),
        "TF-IDF": tuple(linear(asked[name]) for name in ("moderation", "hatecheck", "xstest")),
    }
    result: dict[str, Any] = {}
    for name, scores in readers.items():
        measures = (
            ("moderation AUPRC", average_precision, sets.moderation.truth, scores[0]),
            ("HateCheck accuracy", accuracy, sets.hatecheck.truth, scores[1]),
            ("HateCheck macro-F1", macro_f1, sets.hatecheck.truth, scores[1]),
            ("HateCheck AUROC", area, sets.hatecheck.truth, scores[1]),
            ("XSTest AUROC", area, sets.xstest.truth, scores[2]),
        )
        result[name] = {
            what: [measure(t, s), *interval(measure, t, s, seed, draws)] for what, measure, t, s in measures
        }
    result["by category"] = by_category(sets, said["moderation"], seed, draws)
    result["jailbreaks"] = jailbreaks(sets, said)
    result["HateCheck by functionality"] = by_functionality(sets, hate)
    return result


def by_category(sets: Sets, said: Scores, seed: int, draws: int) -> dict[str, Any]:
    """Of the moderation set: AUPRC, and recall and false alarms at 0.5, of the texts that are labelled for a category."""
    found: dict[str, Any] = {}
    for name in BY_CATEGORY:
        labels, scores = sets.labels[name], np.array([each[name] for each in said])
        known = labels >= 0
        truth, scores = labels[known] == 1, scores[known]
        hits, alarms = int(np.sum(scores[truth] >= 0.5)), int(np.sum(scores[~truth] >= 0.5))
        found[name] = {
            "AUPRC": [average_precision(truth, scores), *interval(average_precision, truth, scores, seed, draws)],
            "recall": [hits, int(truth.sum()), *wilson(hits, int(truth.sum()))],
            "false alarms": [alarms, int((~truth).sum()), *wilson(alarms, int((~truth).sum()))],
        }
    return found


def jailbreaks(sets: Sets, said: dict[str, Scores]) -> dict[str, Any]:
    """Recall where one benign prompt in a hundred is taken for a jailbreak, of each benign set and all together."""
    positive = np.array([each["jailbreak"] for each in said["jailbreaks"]])
    benign = {name: np.array([each["jailbreak"] for each in said[name]]) for name in sets.benign}
    benign["all together"] = np.concatenate(list(benign.values()))
    found: dict[str, Any] = {}
    for name, negative in benign.items():
        hits, threshold = at_false_rate(positive, negative, 0.01)
        found[name] = {
            "benign": len(negative),
            "threshold": threshold,
            "recall": [hits, len(positive), *wilson(hits, len(positive))],
        }
    alarms = int(np.sum(benign["all together"] >= 0.5))
    found["at 0.5"] = {"recall": float(np.mean(positive >= 0.5)), "false alarms": [alarms, len(benign["all together"])]}
    return found


def by_functionality(sets: Sets, hate: Floats) -> dict[str, list[float]]:
    """Accuracy on each kind of case of HateCheck."""
    right: dict[str, list[bool]] = defaultdict(list)
    for name, truth, score in zip(sets.functionality, sets.hatecheck.truth, hate, strict=True):
        right[name].append((score >= 0.5) == truth)
    return {name: [float(np.mean(each)), len(each)] for name, each in sorted(right.items())}


def personal(folder: Path, encoder: TextEncoder) -> dict[str, Any]:
    """Span F1 by kind: patterns on all rows (an overlap with the marked span counts), the tagger by exact spans, in folds."""
    lines = (folder / "safety" / "pii_spans.jsonl").read_text(encoding="utf-8").splitlines()
    marked = [json.loads(line) for line in lines]
    found = PersonalDetector().assess([row["text"] for row in marked])
    result: dict[str, Any] = {}
    for kind, name in PATTERNED.items():
        right = told = asked = 0
        for row, each in zip(marked, found, strict=True):
            wanted = [(s["start"], s["end"]) for s in row["spans"] if s["type"] == name]
            spans = [(s.start, s.end) for s in each.spans if s.kind == kind]
            right += sum(any(a < d and c < b for a, b in spans) for c, d in wanted)
            told, asked = told + len(spans), asked + len(wanted)
        result[kind] = [right, told, asked, 2 * right / max(1, told + asked)]
    people = read_rows(folder / "safety" / "pii_spans.jsonl")
    for kind, counts in cross_validate(people, encoder, Recipe().seed).items():
        result[kind] = [*counts, 2 * counts[0] / max(1, counts[1] + counts[2])]
    return result


def speed(detector: ContentDetector, folder: Path) -> dict[str, Any]:
    """Milliseconds of one text of so many tokens, p50 and p99, in one thread; and texts a second in batches.

    Processor time is told beside, since on a busy machine the other says how busy it was.
    """
    encoder = TextEncoder.load()
    words = " ".join(
        r["text"] for r in rows(folder / "safety" / "openai_moderation.csv") if r["text"].isascii()
    ).split()
    found: dict[str, Any] = {}
    for tokens, times in ((25, 300), (128, 150), (512, 60)):
        spent, used = list[float](), list[float]()
        for number in range(times + 5):
            text = _cut(words[number * 37 % (len(words) - 1000) :], tokens, encoder)
            started, worked = time.perf_counter(), time.process_time()
            detector.assess([text])
            spent.append((time.perf_counter() - started) * 1e3)
            used.append((time.process_time() - worked) * 1e3)
        for name, values in (("passed", spent), ("of processor", used)):
            found[f"{tokens} tokens, ms {name}"] = [round(float(x), 1) for x in np.percentile(values[5:], [50, 99])]
    texts = [_cut(words[n * 31 % (len(words) - 100) :], 25, encoder) for n in range(512)]
    started = time.perf_counter()
    for start in range(0, len(texts), 32):
        detector.assess(texts[start : start + 32])
    found["texts a second, 25 tokens, by 32"] = len(texts) / (time.perf_counter() - started)
    return found


def _cut(words: Sequence[str], tokens: int, encoder: TextEncoder) -> str:
    """So many tokens of ``words``, markers included."""
    text = " ".join(words[:tokens])
    offsets = encoder.tokens(text).offsets
    return text[: offsets[min(len(offsets), tokens - 2) - 1][1]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Quality and speed of screening.")
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--only", choices=("quality", "personal", "speed"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=400, help="bootstrap draws")
    args = parser.parse_args()
    encoder = TextEncoder.load()
    detector = ContentDetector(encoder)
    wanted = [args.only] if args.only else ["quality", "personal", "speed"]
    result: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "seed": args.seed, "draws": args.draws}
    result |= {"detector": detector.name, "machine": platform.machine(), "python": platform.python_version()}
    result["load"] = os.getloadavg()
    result["bytes"] = sum(path.stat().st_size for path in ASSETS.iterdir())
    if "quality" in wanted:
        result["quality"] = quality(read_sets(args.folder), args.folder, detector, args.seed, args.draws)
    if "personal" in wanted:
        result["personal"] = personal(args.folder, encoder)
    if "speed" in wanted:
        result["speed_ms"] = speed(detector, args.folder)
    print(table(result))
    OUT.mkdir(exist_ok=True)
    path = OUT / f"safety-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 0


def table(result: dict[str, Any]) -> str:
    """All of it as text, targets beside."""
    lines = [
        f"{result['date']}, {result['detector']}, {result['bytes']:,} bytes, seed {result['seed']}, {result['draws']} draws"
    ]
    quality_of = result.get("quality", {})
    for name in [n for n in quality_of if n not in {"by category", "jailbreaks", "HateCheck by functionality"}]:
        told = [
            f"{what} {v[0]:.3f} ({v[1]:.3f}-{v[2]:.3f}{f', asked {TARGETS[what]}' if what in TARGETS else ''})"
            for what, v in quality_of[name].items()
        ]
        lines += [name, *(f"  {each}" for each in told)]
    for name, each in quality_of.get("by category", {}).items():
        (r, n, low, high), (f, m, lower, upper), (ap, a, b) = each["recall"], each["false alarms"], each["AUPRC"]
        lines.append(
            f"{name:<14} AUPRC {ap:.3f} ({a:.3f}-{b:.3f})  recall {r}/{n} ({low:.2f}-{high:.2f})  false alarms {f}/{m} ({lower:.3f}-{upper:.3f})"
        )
    lines += [f"jailbreaks, {name}: {each}" for name, each in quality_of.get("jailbreaks", {}).items()]
    lines += [
        f"{name:<22} {right:.2f} of {count}"
        for name, (right, count) in quality_of.get("HateCheck by functionality", {}).items()
    ]
    lines += [
        f"{kind:<16} {r} right of {t} told, {a} asked, F1 {f1:.3f}"
        for kind, (r, t, a, f1) in result.get("personal", {}).items()
    ]
    lines += [f"{name}: {value}" for name, value in result.get("speed_ms", {}).items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
