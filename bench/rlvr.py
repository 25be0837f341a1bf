"""A flawed teacher, mended by what is verifiably right: accuracy before and after, and what it cost.

``python -m bench.rlvr [--seeds 1 2 3] [--high-rate 0.01] [--keep FOLDER]``: trains by the two recipes of
``src/prsm/teachers/recipes`` on one thread, once a seed, and then once more at a constant high rate, which must make
it worse. Accuracy is of 1,000 distinct prompts that are held out, of terms with up to three digits, greedy and drawn
at temperature 1. Processor time is that of the run's process; what evaluates is not counted.
"""

import argparse
import json
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import structs

from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.curriculum import Standing
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.rlvr_engine import improve, rewards
from prsm.teachers.rlvr_plan import read_rlvr_recipe
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.columns import Columns
from prsm.teachers.tasks.held_out import problems
from prsm.teachers.tasks.registry import task
from prsm.teachers.training.language import next_token
from prsm.teachers.training.loop import train
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.run_folder import RunFolder
from prsm.teachers.training.small_teacher import fresh_teacher
from prsm.teachers.training.sources import Batches, Pair, padded

PROMPTS = 1_000
LEVEL = 2
TASK = Columns("+")
HELD_OUT_SEED, GAP_SEED = 10**12, 2 * 10**12


def main() -> None:
    """Run, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--high-rate", type=float, default=1e-2)
    parser.add_argument("--keep", type=Path, help="keep the runs here; what is done is not done again")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.keep or Path(temporary)
        rows = [
            row for seed in args.seeds for row in proof(seed, home, args.high_rate if seed == args.seeds[0] else None)
        ]
    print(table(rows))
    print(json.dumps(rows))


def proof(seed: int, home: Path, high_rate: float | None) -> list[dict[str, Any]]:
    """The flawed teacher of a seed and what becomes of it: a row for each."""
    recipe = tomllib.loads(_recipe("careless_addition"))
    sizes = {name: size for name, size in recipe["model"].items() if name != "kind"}
    network, folder = fresh_teacher(seed, **sizes), home / f"sft-{seed}"
    plan = msgspec.convert(recipe["plan"] | {"seed": seed}, TrainingPlan)
    train(network, demonstrations(recipe, seed), next_token, plan, folder)
    flawed = {name: tensor.clone() for name, tensor in network.weights().items()}
    rows = [_row("flawed (SFT)", seed, network, folder)]
    mending = read_rlvr_recipe(_recipe("rlvr_addition"))
    runs = {"RLVR": structs.replace(mending.plan, seed=seed)}
    if high_rate:
        runs[f"RLVR, constant rate {high_rate}"] = structs.replace(runs["RLVR"], rate=high_rate, decay="none")
    for name, plan in runs.items():
        network.load(flawed)
        folder = home / f"rlvr-{seed}-{plan.rate}"
        found = {TASK.name: {level: standing(network, level) for level in range(mending.tasks[TASK.name])}}
        improve(network, {TASK.name: TASK}, structs.replace(mending, plan=plan), folder, found=found)
        rows.append(_row(name, seed, network, folder))
    return rows


def _row(name: str, seed: int, network: Decoder, folder: Path) -> dict[str, Any]:
    held_out, last = held_out_problems(), RunFolder(folder).reports()[-1]
    return {
        "run": name, "seed": seed, "parameters": network.shape.parameters(), "updates": last["step"],
        "cpu_minutes": last["cpu_s"] / 60, "prompts": len(held_out), "greedy": accuracy(network, held_out),
        "sampled": accuracy(network, held_out, temperature=1.0, seed=seed),
    }  # fmt: skip


def accuracy(network: Decoder, asked: Sequence[Problem], *, temperature: float = 0.0, seed: int = 0) -> float:
    """The share of answers that are whole and exactly right."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt_ids(problem.prompt) for problem in asked]
    said = sample(network, prompts, max_tokens=16, temperature=temperature, generator=generator)
    return sum(rewards(TASK, asked, [each.ids for each in said])) / len(asked)


def standing(network: Decoder, level: int) -> Standing:
    """What the curriculum is made from: 100 prompts of a level, none of them held out."""
    drawn = problems(TASK, level, GAP_SEED, held_out=False)
    return Standing(round(100 * accuracy(network, [next(drawn) for _ in range(100)])), 100)


def held_out_problems() -> list[Problem]:
    """Distinct prompts of terms with up to three digits."""
    found: dict[str, Problem] = {}
    for problem in problems(TASK, LEVEL, HELD_OUT_SEED, held_out=True):
        found[problem.prompt] = problem
        if len(found) == PROMPTS:
            break
    return list(found.values())


def demonstrations(recipe: dict[str, Any], seed: int) -> Batches[Pair]:
    """Worked problems of the recipe's levels in turn, none of them held out."""
    data, flawed = recipe["data"], task(recipe["data"]["names"][0])

    def example(n: int) -> Pair:
        level = data["levels"][n % len(data["levels"])]
        problem = next(problems(flawed, level, seed * 10**9 + n, held_out=False))
        return Pair(prompt_ids(problem.prompt), answer_ids(flawed.demonstrate(problem), problem.answer))

    return Batches(example, padded, data["rows"])


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| run | seed | updates | CPU-minutes | greedy | sampled |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['run']} | {row['seed']} | {row['updates']} | {row['cpu_minutes']:.2f} | {row['greedy']:.1%} | "
        f"{row['sampled']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def _recipe(name: str) -> str:
    return files("prsm.teachers").joinpath("recipes", f"{name}.toml").read_text()


if __name__ == "__main__":
    main()
