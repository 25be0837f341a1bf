"""A flawed teacher, mended by what is verifiably right: accuracy before and after, and what it cost.

``python -m bench.rlvr [--seeds 1 2 3] [--high-rate 0.01] [--keep FOLDER]``: trains by the two recipes of
``src/prsm/teachers/recipes`` on one thread, once a seed, and then once more at a constant high rate, which must make
it worse. Accuracy is of 1,000 distinct prompts that are held out, greedy and drawn at temperature 1. Processor time
is of this process; what evaluates is not counted.
"""

import argparse
import json
import tempfile
import time
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from torch.nn import functional as fn

from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.curriculum import CurriculumPlan, Standing, begun
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.rlvr_engine import Rollouts, objective, reward
from prsm.teachers.rlvr_plan import RlvrPlan
from prsm.teachers.seams import Demonstrated, Problem
from prsm.teachers.shape import Shape
from prsm.teachers.tasks.columns import Careless, Columns
from prsm.teachers.tasks.held_out import problems
from prsm.teachers.training.loop import train
from prsm.teachers.training.objective import Batch, Loss
from prsm.teachers.training.plan import TrainingPlan

PROMPTS = 1_000
LEVELS = (1, 2)
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
    recipe = _recipe("careless_addition")
    torch.manual_seed(seed)
    network = Decoder(Shape(**recipe["shape"]))
    lessons = Demonstrations(Careless(TASK, 0.6), recipe["demonstrations"], seed)
    plan = msgspec.convert(recipe["plan"] | {"seed": seed}, TrainingPlan)
    rows = [_trained("flawed (SFT)", network, lessons, next_token, plan, home / f"sft-{seed}")]
    flawed = {name: tensor.clone() for name, tensor in network.weights().items()}
    rows.append(_mended("RLVR", network, seed, home / f"rlvr-{seed}", {}))
    if high_rate:
        network.load(flawed)
        change = {"rate": high_rate, "decay": "none"}
        rows.append(_mended(f"RLVR, constant rate {high_rate}", network, seed, home / f"high-rate-{seed}", change))
    return rows


def _mended(name: str, network: Decoder, seed: int, folder: Path, change: dict[str, Any]) -> dict[str, Any]:
    recipe = _recipe("rlvr_addition")
    rlvr, curriculum_plan = (
        msgspec.convert(recipe["rlvr"], RlvrPlan),
        msgspec.convert(recipe["curriculum"], CurriculumPlan),
    )
    plan = msgspec.convert(recipe["plan"] | {"seed": seed} | change, TrainingPlan)
    found = {TASK.name: {level: standing(network, level) for level in range(recipe["levels"][TASK.name])}}
    curriculum = begun(curriculum_plan, recipe["levels"], found)
    source = Rollouts(network, {TASK.name: TASK}, curriculum, curriculum_plan, rlvr, seed=seed)
    return _trained(name, network, source, objective(rlvr), plan, folder)


def _trained(name: str, network: Decoder, source: Any, learnt: Any, plan: TrainingPlan, folder: Path) -> dict[str, Any]:
    began_s = time.process_time()
    ended = train(network, source, learnt, plan, folder)
    cpu_s = time.process_time() - began_s
    network.eval()
    held_out = held_out_problems()
    return {
        "run": name, "seed": plan.seed, "parameters": network.shape.parameters(), "updates": ended.step,
        "cpu_minutes": cpu_s / 60, "prompts": len(held_out), "greedy": accuracy(network, held_out),
        "sampled": accuracy(network, held_out, temperature=1.0, seed=plan.seed), "ended": ended.state,
    }  # fmt: skip


def accuracy(network: Decoder, asked: Sequence[Problem], *, temperature: float = 0.0, seed: int = 0) -> float:
    """The share of answers that are whole and exactly right."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt_ids(problem.prompt) for problem in asked]
    said = sample(network, prompts, max_tokens=16, temperature=temperature, generator=generator)
    return sum(reward(TASK, problem, each.ids) for problem, each in zip(asked, said, strict=True)) / len(asked)


def standing(network: Decoder, level: int) -> Standing:
    """What the curriculum is made from: 100 prompts of a level, none of them held out."""
    drawn = problems(TASK, level, GAP_SEED, held_out=False)
    return Standing(round(100 * accuracy(network, [next(drawn) for _ in range(100)])), 100)


def held_out_problems() -> list[Problem]:
    """Distinct prompts, drawn from both levels in turn."""
    drawn = [problems(TASK, level, HELD_OUT_SEED, held_out=True) for level in LEVELS]
    found: dict[str, Problem] = {}
    while len(found) < PROMPTS:
        found |= {problem.prompt: problem for problem in map(next, drawn)}
    return list(found.values())[:PROMPTS]


class Demonstrations:
    """Worked problems as batches of ``ids`` and of which tokens are learnt, from levels in turn."""

    def __init__(self, task: Demonstrated, spec: dict[str, Any], seed: int) -> None:
        self._task, self._spec, self._drawn = task, spec, seed * 10**9

    def draw(self) -> Batch:
        levels, batch = self._spec["levels"], self._spec["batch"]
        rows = [self._row(levels[index % len(levels)]) for index in range(batch)]
        longest = max(len(asked) + len(told) for asked, told in rows)
        ids = torch.zeros(batch, longest, dtype=torch.long)
        learnt = torch.zeros(batch, longest - 1)
        for index, (asked, told) in enumerate(rows):
            ids[index, : len(asked) + len(told)] = torch.tensor(asked + told)
            learnt[index, len(asked) - 1 : len(asked) + len(told) - 1] = 1
        return {"ids": ids, "learnt": learnt}

    def state(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def restore(self, state: dict[str, Any]) -> None:
        self._drawn = state["drawn"]

    def _row(self, level: int) -> tuple[list[int], list[int]]:
        problem = next(problems(self._task, level, self._drawn, held_out=False))
        self._drawn += 1
        return prompt_ids(problem.prompt), answer_ids(self._task.demonstrate(problem), problem.answer)


def next_token(network: nn.Module, batch: Batch) -> Loss:
    """Cross-entropy of what is learnt."""
    ids, learnt = batch["ids"], batch["learnt"]
    scores = network(ids, None)[:, :-1]
    loss = fn.cross_entropy(scores.transpose(1, 2), ids[:, 1:], reduction="none")
    return Loss((loss * learnt).sum(), learnt.sum())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| run | seed | updates | CPU-minutes | greedy | sampled |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['run']} | {row['seed']} | {row['updates']} | {row['cpu_minutes']:.2f} | {row['greedy']:.1%} | "
        f"{row['sampled']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines)


def _recipe(name: str) -> dict[str, Any]:
    return tomllib.loads(files("prsm.teachers").joinpath("recipes", f"{name}.toml").read_text())


if __name__ == "__main__":
    main()
