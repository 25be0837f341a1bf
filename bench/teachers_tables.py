"""Two published tables, trained by the shipped recipes: sums written forwards or backwards, Shakespeare's characters.

    python -m bench.teachers_tables [--only reversed plain shakespeare] [--seed 0] [--out DIR]

Sums: Lee et al. 2023 (arXiv:2307.03381), their 10,000 lines, exact match of greedy answers to 1,000 unseen sums drawn
evenly from all of up to three digits. Characters: nanoGPT's setting for CPUs, loss in nats on the text's last 10 %.
Each runs as a user runs it, in a process of its own; times are of the processor.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parent.parent / "src" / "prsm" / "teachers" / "recipes"
DATA = Path(os.environ.get("PRSM_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "reasoning"
SUMS, TEXT = DATA / "addition_3digit_train.txt", DATA / "tinyshakespeare.txt"
UNSEEN = 1000


def main() -> None:
    """Train what is asked for and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "teachers_tables")
    options = parser.parse_args()
    for name in options.only:
        folder = options.out / f"{name}-{options.seed}"
        recipe, data, changes = TABLES[name]
        report = _trained(RECIPES / recipe, folder, [f"data.path={data}", f"plan.seed={options.seed}", *changes])
        figures = {"table": name, "seed": options.seed, "steps": report["steps"], "cpu_s": round(report["cpu_s"])}
        figures["parameters"] = json.loads((folder / "run.json").read_text())["parameters"]
        if name == "shakespeare":
            figures["validation_loss"] = round(report["validation_loss"], 4)
        else:
            figures["exact"] = _exact(folder / "model", is_reversed=name == "reversed", seed=options.seed)
        print(json.dumps(figures), flush=True)


TABLES = {
    "reversed": ("addition_reversed.toml", SUMS, []),
    "plain": ("addition_reversed.toml", SUMS, ["data.reverse_answers=false"]),
    "shakespeare": ("shakespeare_chars.toml", TEXT, []),
}


def _trained(recipe: Path, folder: Path, changes: list[str]) -> dict[str, float]:
    """The last line of metrics of the run."""
    told = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "prsm.teachers.training.main", str(recipe), "--out", str(folder), *told]
    subprocess.run(command, check=True)
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def _exact(model: Path, *, is_reversed: bool, seed: int) -> float:
    """The share of unseen sums whose whole greedy answer is right."""
    from prsm.teachers.alphabet import prompt_ids, read
    from prsm.teachers.networks.sampling import sample
    from prsm.teachers.training.small_teacher import load_teacher

    seen = {line.partition("=")[0] for line in SUMS.read_text().split()}
    chance, asked = random.Random(f"unseen/{seed}"), {}
    while len(asked) < UNSEEN:
        first, second = chance.randrange(1000), chance.randrange(1000)
        if f"{first}+{second}" not in seen:
            asked[f"{first}+{second}"] = str(first + second)
    said = sample(load_teacher(model), [prompt_ids(question) for question in asked], max_tokens=8)
    written = [read(each.ids) for each in said]
    right = [
        each.is_whole and (each.answer[::-1] if is_reversed else each.answer) == answer
        for each, answer in zip(written, asked.values(), strict=True)
    ]
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
