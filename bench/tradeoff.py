"""What the router's trade-off buys on the two public routing tables: cost at equal quality.

    python -m bench.tradeoff [FOLDER] [--seed 0]

Each prompt is decided by the router's own rules (``sift``, ``weigh``, ``choose``) between the tables' two models, at
the prices below, with chances that four other folds taught (see ``bench.routing``). Sweeping what a good answer is
worth draws a curve of accuracy over cost; beside it a blind mix of the two models, which reaches the same accuracy, and
the better one alone. The rows named after aims are what a caller gets who says nothing but the aim.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.routing import OUT, TABLES, default_folder, read_rows
from prsm.agents.call import Target
from prsm.agents.routers.difficulty import item_law
from prsm.agents.routers.difficulty_fit import FOLDS, Recipe, Rows, figures, fit, pick
from prsm.agents.routers.model_router import Health, Question, roster
from prsm.agents.routers.policy import AIMS, BALANCED
from prsm.agents.routers.selection import choose
from prsm.agents.routers.sifting import sift
from prsm.agents.routers.vitals import read
from prsm.agents.routers.weighing import Rates, Terms, terms_of, weigh
from prsm.core.encoder import TextEncoder
from prsm.tokenomics.quotes import estimate_tokens

PRICES = {"weak": (600_000, 600_000), "strong": (10_000_000, 30_000_000)}
"""Micro-FTNS per million tokens in and out: what the two models cost in dollars when the tables were made."""
OUTPUT_TOKENS = {"mmlu": 16, "gsm8k": 200}
"""An answer's expected length, the same for both models: the tables do not tell."""
WORTHS = tuple(10 ** (exponent / 8) for exponent in range(-8, 33))
"""FTNS for a good answer per million tokens."""
PARTS = (0.5, 0.8, 0.9, 0.95)
"""Shares of the gap between the two models at which costs are compared."""
Floats = npt.NDArray[np.float64]


def targets() -> list[Target]:
    return [
        Target(name=f"table/{name}", upstream_name=name, provider=name, kind="openai", context_tokens=10**6,
               input_price_micro=price_in, output_price_micro=price_out)
        for name, (price_in, price_out) in PRICES.items()
    ]  # fmt: skip


def chances(every: Rows, recipe: Recipe) -> Floats:
    """Each prompt's chances by strong and weak model (the roster's order), taught by the other folds; [N, 2]."""
    found = np.zeros((len(every.weak), 2))
    for fold in range(FOLDS):
        reader = fit(pick(every, every.fold != fold), recipe)
        here = every.fold == fold
        items = item_law(figures(reader, pick(every, here)), reader.reference)
        weak, strong = (1 / (1 + np.exp(items[:, 0] - items[:, 1] * float(each))) for each in reader.reference)
        found[here] = np.stack([strong, weak], axis=1)
    return found


def questions(prompts: Sequence[str], output_tokens: int) -> list[Question]:
    return [Question(frozenset({"chat"}), text, estimate_tokens(len(text.encode())), output_tokens) for text in prompts]


def to_strong(asked: Sequence[Question], known: Floats, terms: Sequence[Terms]) -> npt.NDArray[np.bool_]:
    """Whether the router chooses the strong model, for each prompt."""
    models = roster(targets())
    vitals = read([Health(), Health()])
    chosen = np.zeros(len(asked), np.bool_)
    for row, (question, trade) in enumerate(zip(asked, terms, strict=True)):
        sifted = sift(models, models.columns, question, {}, shared=False)
        weighed = weigh(sifted, vitals, question, trade, known[row])
        chosen[row] = models.targets[choose(weighed)[0]].name == "table/strong"
    return chosen


def outcome(strong: npt.NDArray[np.bool_], rows: Rows, cost: Floats) -> tuple[float, float, float]:
    """Accuracy, FTNS per 1,000 prompts, and share of calls to the strong model."""
    right = np.where(strong, rows.strong, rows.weak).mean()
    paid = np.where(strong, cost[:, 0], cost[:, 1]).mean() / 1000
    return float(right), float(paid), float(strong.mean())


def measured(name: str, rows: Rows, prompts: Sequence[str], known: Floats) -> dict[str, Any]:
    """The curve, the aims, and the cost at equal quality, of one table."""
    asked = questions(prompts, OUTPUT_TOKENS[name])
    price = np.array([PRICES["strong"], PRICES["weak"]])
    tokens = np.array([[each.input_tokens, each.output_tokens] for each in asked])
    cost = tokens @ price.T / 1e6
    everybody = np.ones(len(asked), np.bool_)
    strong, weak = outcome(everybody, rows, cost), outcome(~everybody, rows, cost)
    curve = [weak]
    for worth in WORTHS:
        terms = [terms_of(each, BALANCED, Rates(round(worth * 1e6), 0)) for each in asked]
        curve.append(outcome(to_strong(asked, known, terms), rows, cost))
    curve = sorted([*curve, strong], key=lambda point: point[1])
    best = np.maximum.accumulate([point[0] for point in curve])
    equal: list[dict[str, float]] = []
    for part in PARTS:
        wanted = weak[0] + part * (strong[0] - weak[0])
        routed = float(np.interp(wanted, best, [point[1] for point in curve]))
        blind = weak[1] + part * (strong[1] - weak[1])
        equal.append({"part": part, "accuracy": wanted, "routed": routed, "blind": blind, "strong": strong[1]})
    aims = {
        aim.name: outcome(to_strong(asked, known, [terms_of(each, aim, Rates()) for each in asked]), rows, cost)
        for aim in AIMS.values()
    }
    return {"weak": weak, "strong": strong, "equal": equal, "aims": aims, "curve": curve}


def told(name: str, found: dict[str, Any]) -> str:
    lines = [f"{name}: accuracy, FTNS per 1,000 prompts, share of calls to the strong model"]
    rows = {"weak alone": found["weak"], "strong alone": found["strong"], **found["aims"]}
    lines += [f"  {who:<16}{right:>8.3f}{paid:>10.3f}{share:>8.1%}" for who, (right, paid, share) in rows.items()]
    lines.append("  cost at equal quality (share of the gap)  routed   blind mix   saved   against strong alone")
    lines += [
        f"  {each['part']:>5.0%} ({each['accuracy']:.3f}){'':<26}{each['routed']:>7.3f}{each['blind']:>12.3f}"
        f"{1 - each['routed'] / each['blind']:>8.1%}{1 - each['routed'] / each['strong']:>12.1%}"
        for each in found["equal"]
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost at equal quality on the public routing tables.")
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = TextEncoder.load(threads=1)
    every, prompts = read_rows(args.folder, encoder, OUT)
    known = chances(every, replace(Recipe(), seed=args.seed))
    result: dict[str, Any] = {"seed": args.seed, "prices": PRICES, "output_tokens": OUTPUT_TOKENS}
    for table, name in enumerate(TABLES):
        here = every.table == table
        of_table = [prompt for prompt, mine in zip(prompts, here, strict=True) if mine]
        result[name] = measured(name, pick(every, here), of_table, known[here])
        print(told(name, result[name]), flush=True)
    path = OUT / f"tradeoff-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
