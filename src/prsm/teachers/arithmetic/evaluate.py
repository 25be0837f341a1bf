"""Examines the shipped teacher on held-out prompts and writes its model card.

``python -m prsm.teachers.arithmetic.evaluate --directory DIR --count 400``: greedy answers by the numpy runtime,
counted right only when the text equals the reference answer, with 95 % Wilson intervals. What fails is written down.
"""

# reasoning-gym is in the extra ``train``; see data.py.
# pyright: basic, reportMissingImports=false

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prsm.core.clock import now
from prsm.teachers.arithmetic.data import LEVELS, Item, Level, items
from prsm.teachers.arithmetic.phrasing import DOMAIN
from prsm.teachers.arithmetic.teacher import ASSETS, ArithmeticTeacher
from prsm.teachers.evaluation.statistics import wilson
from prsm.teachers.tasks.held_out import HELD_OUT_MODULUS, is_held_out

_MAX_DRAWS = 60_000
_FIXTURE_ITEMS_PER_FAMILY = 60


@dataclass(frozen=True, slots=True)
class Result:
    """One level's exam."""

    level: Level
    right: int
    total: int
    mistakes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """Generated tokens and the CPU time they took."""

    tokens: int
    cpu_s: float


def paper(level: Level, seed: int, count: int) -> list[Item]:
    """Up to ``count`` different held-out items of a level; small levels do not have more."""
    found: dict[str, Item] = {}
    for _, item in zip(range(_MAX_DRAWS), items(level, seed), strict=False):
        if is_held_out(item.problem.canonical):
            found.setdefault(item.problem.canonical, item)
        if len(found) == count:
            break
    return list(found.values())


def examine(teacher: ArithmeticTeacher, papers: dict[Level, list[Item]]) -> tuple[list[Result], Speed]:
    """Every item asked in its own words, answered by the runtime as shipped."""
    results: list[Result] = []
    tokens, started = 0, time.process_time()
    for level, level_items in papers.items():
        mistakes: list[str] = []
        for item in level_items:
            pieces = list(teacher.answer(item.question))
            tokens += len(pieces)
            given = "".join(piece.text for piece in pieces if not piece.is_reasoning)
            if given != item.answer:
                mistakes.append(f"{item.problem.canonical} = {item.answer}, answered {given or 'nothing'}")
        total = len(level_items)
        results.append(Result(level, total - len(mistakes), total, tuple(mistakes)))
        print(f"{level.family}/{level.name}: {total - len(mistakes)}/{total}", *mistakes[:3], sep="\n  ", flush=True)
    return results, Speed(tokens, time.process_time() - started)


def card(
    directory: Path, results: list[Result], speed: Speed, *, seed: int, machine: str, notes: tuple[str, ...] = ()
) -> str:
    """The model card, in Markdown; ``notes`` are further limits found by hand."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    runs, shape = config["training"], config["shape"]
    size = (directory / "model.safetensors").stat().st_size
    facts = {
        "domain": DOMAIN, "modulus": HELD_OUT_MODULUS, "seed": seed, "machine": machine, "date": now().date(),
        "notes": "".join(f"- {note}\n" for note in notes),
        "rows": "\n".join(_rows(results)), "mistakes": "\n".join(_mistakes(results)) or "- none",
        "size_mb": f"{size / 1e6:.1f}", "speed": f"{speed.tokens / speed.cpu_s:,.0f}", "tokens": f"{speed.tokens:,}",
        "sha256": manifest["sha256"]["model.safetensors"], "runs": "\n".join(_runs(runs)),
        **{f"shape_{key}": value for key, value in shape.items()},
    }  # fmt: skip
    return _CARD.format(**facts)


def _runs(runs: list[dict[str, Any]]) -> Iterator[str]:
    for index, run in enumerate(runs, start=1):
        start = " --start RUN_BEFORE" if index > 1 else ""
        rate = f" --rate-scale {run['rate_scale']}" if run.get("rate_scale", 1.0) != 1.0 else ""
        command = f"recipe --out DIR --seed {run['seed']} --minutes {run['minutes']}{rate}{start}"
        tokens = f"{run['steps']} steps, about {run['steps'] * run['batch_tokens'] / 1e6:.0f} million tokens"
        ended = run.get("ended", "run to the end of its schedule")
        yield f"  {index}. `python -m prsm.teachers.arithmetic.{command}`: {tokens}, {ended}; torch {run['torch']}."


def _rows(results: list[Result]) -> Iterator[str]:
    for result in results:
        low, high = wilson(result.right, result.total)
        config = ", ".join(f"{key}={value}" for key, value in result.level.config) or "numbers of unlike length"
        share = f"{100 * result.right / result.total:.1f} %"
        yield (
            f"| {result.level.family} | {result.level.name} | {result.right}/{result.total} | {share} "
            f"| {100 * low:.1f}-{100 * high:.1f} % | {config} |"
        )


def _mistakes(results: list[Result]) -> Iterator[str]:
    for result in results:
        for mistake in result.mistakes[:2]:
            yield f"- {result.level.family}/{result.level.name}: `{mistake}`"


_CARD = """# Model card: embedded arithmetic teacher

A decoder-only transformer ({shape_layers} layers, width {shape_width}, {shape_heads} heads, feed-forward
{shape_hidden} with squared ReLU, vocabulary {shape_vocabulary}; {size_mb} MB as float16), trained from scratch by
`src/prsm/teachers/arithmetic/recipe.py`. It answers {domain}.
It writes a scratchpad first (running sums and partial products, digits least significant first, after Lee et al.
2023, arXiv:2307.03381; structural positions after McLeish et al. 2024, arXiv:2405.17399), then the answer. The runtime
is numpy; no result is computed or corrected outside the network.

- Licence: MIT, like this repository. Weights SHA-256 `{sha256}`.
- Data: generated, no personal data. Questions by `reasoning-gym` (Apache-2.0) and, for `flat`, by
  `src/prsm/teachers/arithmetic/data.py`; worked solutions by `lessons.py`.
- Held out: every prompt whose canonical form has SHA-256 = 0 mod {modulus} was kept from training, whatever its seed.
  An operand order is a prompt of its own: `7 * 8` may be held out while `8 * 7` was seen.

## Exact match on held-out prompts

Greedy answers of the numpy runtime, text equal to the reference; 95 % Wilson intervals. Levels are
`reasoning-gym` configurations; items outside the ranges above (parentheses, division, chains of factors in
`basic_arithmetic`) are not asked and not accepted. Levels with few prompts in all have few held-out ones.

| family | level | right | exact match | interval | configuration |
|---|---|---|---|---|---|
{rows}

Mistakes (at most two per level are listed):

{mistakes}

## Known limits

- Questions outside the ranges are refused, not tried: division, parentheses, powers, fractions, more or longer numbers,
  products of three factors, decimals in products.
{notes}- The prompt is read by rules (`phrasing.py`); English wording only. Only the last user message is read.
- Its scratchpad is part of the output and is metered; a limit on output tokens below about 250 can cut long ones off.
- Greedy only: temperature and seed have no effect.

## How it was made and examined

- Training, one thread, minutes of CPU time; another machine takes another number of steps in them:
{runs}
- Exam: `python -m prsm.teachers.arithmetic.evaluate --directory DIR --seed {seed}`, {tokens} tokens generated at
  {speed} tokens per CPU-second.
- Machine: {machine}. Date: {date}.
"""


def _fixture(papers: dict[Level, list[Item]]) -> Iterator[str]:
    """The same number of questions of every family, its levels taking turns."""
    for family in sorted({level.family for level in papers}):
        columns = [[(level, item) for item in papers[level]] for level in papers if level.family == family]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*columns))
        for level, item in itertools.islice(filter(None, turns), _FIXTURE_ITEMS_PER_FAMILY):
            row = {"family": family, "level": level.name, "question": item.question, "answer": item.answer}
            yield json.dumps(row) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=ASSETS)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20_000_000)
    parser.add_argument("--fixture", type=Path, help="also write a small held-out set for the tests here")
    parser.add_argument("--note", action="append", default=[], help="one more known limit for the card")
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}")
    arguments = parser.parse_args()
    papers = {level: paper(level, arguments.seed, arguments.count) for level in LEVELS}
    if arguments.fixture:
        arguments.fixture.write_text("".join(_fixture(papers)), encoding="utf-8")
    results, speed = examine(ArithmeticTeacher.load(arguments.directory), papers)
    notes = tuple(arguments.note)
    text = card(arguments.directory, results, speed, seed=arguments.seed, machine=arguments.machine, notes=notes)
    (arguments.directory / "CARD.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
