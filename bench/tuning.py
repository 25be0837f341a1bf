"""Optuna (TPE, and TPE with Hyperband) beside random search, at an equal budget of training steps.

    python -m bench.tuning [--seeds 0 1 2 3 4] [--trainings 96]

The task is real: a decoder of one layer learns to write words of four letters backwards in 54 steps; six fields of its
plan are searched; a trial is worth its loss on held-out words. Both searches may take as many steps as ``--trainings``
whole trials have; only Hyperband stops hopeless ones. The plan that each finds is then trained again from four other
seeds and examined on other held-out words (``again``). One thread.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from tests.support.small_families import Reversal
from torch import nn

from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.distillation.analysis import draw_problems
from prsm.teachers.distillation.backends.torch_decoder import TensorSource, tensors
from prsm.teachers.distillation.losses import objective
from prsm.teachers.distillation.recipe import Hard
from prsm.teachers.distillation.teaching import Kept, Lesson, batch_of
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.shape import Shape
from prsm.teachers.training.loop import train
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.tuning.optuna_search import OptunaSearch
from prsm.teachers.tuning.seams import Pruned, Report, Study
from prsm.teachers.tuning.space import Values, placed, read_space

SHAPE = Shape(layers=1, width=32, heads=2, kv_heads=2, hidden=64, vocabulary=100, context_tokens=32)
RUN_STEPS, FIRST_RUNG = 54, 6
BATCH = 16
EXAM = 64
SPACE = read_space("""
[rate]
kind = "float"
low = 1e-4
high = 0.3
log = true

[beta1]
kind = "float"
low = 0.5
high = 0.99

[beta2]
kind = "float"
low = 0.8
high = 0.999

[warmup_steps]
kind = "int"
low = 0
high = 27

[decay_from]
kind = "float"
low = 0.0
high = 0.9

[clip_norm]
kind = "float"
low = 0.01
high = 10.0
log = true
""")


class Task:
    """The lessons of the task, and how good a plan is on them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.lessons = _lessons(2000, seed, held_out=False)
        self.exam = tensors(batch_of(_lessons(2 * EXAM, seed, held_out=True)))

    def __call__(self, values: Values, report: Report) -> float:
        return self.loss(values, report, self.seed, slice(0, EXAM))

    def loss(self, values: Values, report: Report, seed: int, part: slice) -> float:
        """Nats a token on a part of the exam after training by these values."""
        fields = placed({"steps": RUN_STEPS, "seed": seed}, values) | {
            "validate_every_steps": FIRST_RUNG, "report_every_steps": FIRST_RUNG, "checkpoint_every_steps": 1000,
        }  # fmt: skip
        plan = msgspec.convert(fields, TrainingPlan)
        exam = {name: tensor[part] for name, tensor in self.exam.items()}
        found = [math.inf]
        pruned: list[Pruned] = []

        def examine(network: nn.Module) -> Mapping[str, float]:
            loss = objective(Hard())(network, exam)
            return {"exam": float(loss.total / loss.count)}

        def watch(metrics: Mapping[str, Any]) -> str | None:
            found.append(metrics["exam"])
            try:
                report(metrics["step"], metrics["exam"])
            except Pruned as stop:
                pruned.append(stop)
                return "pruned"
            return None

        torch.manual_seed(seed)
        network = Decoder(SHAPE)
        source = TensorSource(Kept(self.lessons, BATCH, seed))
        with tempfile.TemporaryDirectory() as folder:
            train(network, source, objective(Hard()), plan, Path(folder), validate=examine, watch=watch)
        if pruned:
            raise pruned[0]
        return found[-1]


def _lessons(count: int, seed: int, *, held_out: bool) -> list[Lesson]:
    problems = draw_problems(Reversal(), 2 * count, seed, held_out=held_out)
    words = [problem for problem in problems if problem.level == 1][:count]
    return [Lesson("reversal", prompt_ids(each.prompt), answer_ids("", each.answer)) for each in words]


def searched(task: Task, sampler: Literal["tpe", "random"], trainings: int, *, prunes: bool = False) -> dict[str, Any]:
    study = Study(
        name=f"{sampler}-{task.seed}", trials=100_000, steps=trainings * RUN_STEPS, max_steps=RUN_STEPS,
        min_steps=FIRST_RUNG, seed=task.seed, sampler=sampler, prunes=prunes,
    )  # fmt: skip
    begun = time.process_time()
    found = OptunaSearch().run(study, SPACE, task)
    again = [
        task.loss(found.best.values, lambda _step, _value: None, seed, slice(EXAM, None))
        for seed in range(task.seed + 1000, task.seed + 5000, 1000)
    ]
    return {
        "best": found.best.value,
        "again": float(np.mean(again)),
        "trials": len(found.trials),
        "whole": sum(trial.value is not None for trial in found.trials),
        "steps": sum(trial.steps for trial in found.trials),
        "cpu_s": round(time.process_time() - begun, 1),
        "values": found.best.values,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trainings", type=int, default=96)
    options = parser.parse_args()
    torch.set_num_threads(1)
    searches: list[dict[str, dict[str, Any]]] = []
    for seed in options.seeds:
        task = Task(seed)
        searches.append({
            "tpe": searched(task, "tpe", options.trainings),
            "tpe and hyperband": searched(task, "tpe", options.trainings, prunes=True),
            "random": searched(task, "random", options.trainings),
        })  # fmt: skip
        print(json.dumps({"seed": seed, **searches[-1]}), flush=True)
    for ours in ("tpe", "tpe and hyperband"):
        for what in ("best", "again"):
            gains = [each["random"][what] - each[ours][what] for each in searches]
            spread = float(np.std(gains, ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
            print(f"{what}: {ours} below random by {np.mean(gains):.4f} nats a token (standard error {spread:.4f}),"
                  f" in {sum(gain > 0 for gain in gains)} of {len(gains)} seeds")  # fmt: skip


if __name__ == "__main__":
    main()
