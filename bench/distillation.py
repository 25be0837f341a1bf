"""Three specialists taught to one student by a distillation job, beside the same student on flawed data.

    python -m bench.distillation [--seeds 0 1 2] [--method logits] [--steps 1000] [--out FOLDER]

For each seed three decoders learn one family each (``tests/support/small_families.py``) from demonstrations; a job
makes a student of at most a quarter of their weights together, which sees no demonstration but only what they write and
think. The flawed student has the same shape, steps and batches, and demonstrations of which 60 % are wrong in their
family's own way (for sums: carries dropped). All are examined on the same held-out prompts. One thread; seconds are of
processor time.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from tests.support.small_families import FAMILIES, demonstrated, flawed

from prsm.core import clock
from prsm.teachers.distillation.analysis import answered, draw_problems, measured
from prsm.teachers.distillation.backends.torch_decoder import DecoderStudent, TorchDecoder
from prsm.teachers.distillation.design import Design
from prsm.teachers.distillation.job import Job, Stage, Standing, begun, write_job
from prsm.teachers.distillation.recipe import Amounts, Distillation, Hard, Logits, Method, OnPolicy
from prsm.teachers.distillation.routing import Measured
from prsm.teachers.distillation.running import Watch, run
from prsm.teachers.distillation.stages import Distiller, Verdict
from prsm.teachers.distillation.teaching import Kept, Lesson
from prsm.teachers.shape import Shape
from prsm.teachers.training.plan import TrainingPlan

SPECIALIST = Shape(layers=2, width=64, heads=4, kv_heads=4, hidden=160, vocabulary=100, context_tokens=64)
SPECIALIST_STEPS = 500
EXAM_PROMPTS = 500
EXAM_SEED = 10**6
MAX_TOKENS = 16
FLAWED_SHARE = 0.6
METHODS: dict[str, Method] = {
    "hard": Hard(),
    "logits": Logits(temperature=1.0, hard_share=0.0, top_k=8),
    "on-policy": OnPolicy(beta=0.5, student_share=0.25, top_k=8),
}


class Unpaid:
    """The bench pays nobody: the budget is what it is told, and use goes nowhere."""

    def hold(self, hold: str, budget_micro_ftns: int) -> None:
        pass

    def use(self, hold: str, cost_micro_ftns: int) -> None:
        pass

    def settle(self, hold: str, cost_micro_ftns: int) -> None:
        pass


def plan(steps: int, seed: int) -> TrainingPlan:
    return TrainingPlan(
        steps=steps, seed=seed, rate=0.01, optimizer="muon", warmup_steps=20, decay_from=0.3,
        report_every_steps=50, checkpoint_every_steps=500,
    )  # fmt: skip


def taught(lessons: list[Lesson], shape: Shape, training: TrainingPlan) -> DecoderStudent:
    """A fresh decoder after plain training on lessons."""
    student = TorchDecoder().build(shape, training.seed)
    with tempfile.TemporaryDirectory() as folder:
        student.learn(Kept(lessons, 64, training.seed), Hard(), training, Path(folder), lambda: False)
    return student


def examined(student: DecoderStudent) -> dict[str, Measured]:
    """How many held-out prompts of each family it answers exactly, greedily."""
    marks: dict[str, Measured] = {}
    for task in FAMILIES:
        problems = draw_problems(task, EXAM_PROMPTS, EXAM_SEED, held_out=True)
        marks[task.name] = measured(task, problems, answered(student, problems, max_tokens=MAX_TOKENS))
    return marks


def distilled(teachers: dict[str, DecoderStudent], seed: int, steps: int, method: Method, folder: Path) -> Job:
    """A whole job, its stages that others build being only the examination here."""

    def evaluate(student: Path, _watch: Watch) -> Verdict:
        return Verdict(passed=True, facts=msgspec.to_builtins(examined(TorchDecoder().load(student))))

    recipe = Distillation(
        plan=plan(steps, seed), method=method,
        amounts=Amounts(measured_prompts=100, lessons_per_family=4000, passes=6, max_tokens=MAX_TOKENS),
    )  # fmt: skip
    distiller = Distiller(
        recipe=recipe, teachers=teachers, tasks=FAMILIES, backend=TorchDecoder(), evaluate=evaluate,
        safety=lambda _student, _watch: Verdict(passed=True, facts={"examined": "nothing: not part of this bench"}),
        publish=lambda _student, _job: {"published": "nowhere: not part of this bench"},
    )  # fmt: skip
    write_job(folder, begun(f"bench-{seed}", f"bench-{seed}", 3600, 1, clock.now()))
    return run(folder, distiller.works(), Unpaid())


def total(marks: dict[str, Measured]) -> float:
    return sum(each.right for each in marks.values()) / sum(each.asked for each in marks.values())


def one_seed(seed: int, steps: int, method: Method, folder: Path) -> dict[str, Any]:
    begun_at = time.process_time()
    teachers = {
        task.name: taught(demonstrated(task, 4000, seed), SPECIALIST, plan(SPECIALIST_STEPS, seed)) for task in FAMILIES
    }
    own = {name: examined(teacher)[name] for name, teacher in teachers.items()}
    taught_at = time.process_time()
    job = distilled(teachers, seed, steps, method, folder / f"seed-{seed}")
    assert job.standing is Standing.DONE, job.reason
    distilled_at = time.process_time()
    made = msgspec.convert(job.results[Stage.DESIGN], Design)
    marks = msgspec.convert(job.results[Stage.EVALUATE], dict[str, Measured])
    wrong = [each for task in FAMILIES for each in flawed(task, made.lessons_per_family, seed, FLAWED_SHARE)]
    other = examined(taught(wrong, made.shape, made.plan))
    return {
        "seed": seed,
        "teachers": {name: each.score for name, each in own.items()},
        "student": {name: each.score for name, each in marks.items()},
        "flawed": {name: each.score for name, each in other.items()},
        "kept": total(marks) / total(own),
        "weights": made.parameters,
        "share_of_teachers": round(made.parameter_share, 4),
        "steps": made.plan.steps,
        "lessons": job.results[Stage.TRAIN]["lessons"],
        "cpu_s": {
            "specialists": round(taught_at - begun_at),
            "job": round(distilled_at - taught_at),
            "flawed": round(time.process_time() - distilled_at),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--method", choices=METHODS, default="logits")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in options.seeds:
            found = one_seed(seed, options.steps, METHODS[options.method], options.out or Path(scratch))
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
