"""A reward model on the half of the pairs that it did not learn from, beside the length of the answers.

    OMP_NUM_THREADS=1 python -m bench.reward_model [--seeds 0 1 2] [--pairs 4000] [--steps 800] [--teacher-seconds 60]

Pairs are generated: a sum of two numbers of at most three digits, the right answer chosen, and rejected a wrong one of
five kinds, alike often: without its carries, another digit, two digits exchanged, a digit lost, a digit more. For each
seed a small teacher of sums is trained (``sums_teacher.py``), and the node's own trainer makes a reward model of it by
a recipe; the seconds are of its processor. "Longer" puts the longer answer first.
"""

import argparse
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench import sums_teacher
from prsm.teachers.feedback.preferences import halves, preference_probabilities, reliability, validated
from prsm.teachers.seams import Problem
from prsm.teachers.shape import Shape
from prsm.teachers.tasks.columns import Columns
from prsm.teachers.training.assembly import run
from prsm.teachers.training.data_files import Judged
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.preference import Preference, RewardModel, rewards
from prsm.teachers.training.recipe import Preferences, Recipe, Reward, Teacher
from prsm.teachers.training.run_folder import RunFolder
from prsm.teachers.training.small_teacher import Vectors, load_teacher
from prsm.teachers.training.spelling import AlphabetSpelling

SHAPE = Shape(layers=2, width=64, heads=4, kv_heads=4, hidden=160, vocabulary=100, context_tokens=64)


def _uncarried(one: int, two: int, chance: random.Random) -> str:
    return Columns("+").without_carries(Problem("addition", 0, "", "", {"terms": [one, two]})).answer


def _changed(answer: str, chance: random.Random) -> str:
    place = chance.randrange(len(answer))
    return answer[:place] + chance.choice([d for d in "123456789" if d != answer[place]]) + answer[place + 1 :]


def _exchanged(answer: str, chance: random.Random) -> str:
    place = chance.randrange(max(len(answer) - 1, 1))
    return answer[:place] + answer[place : place + 2][::-1] + answer[place + 2 :]


def _shorter(answer: str, chance: random.Random) -> str:
    place = chance.randrange(len(answer))
    return answer[:place] + answer[place + 1 :]


def _more(answer: str, chance: random.Random) -> str:
    place = chance.randrange(len(answer) + 1)
    return answer[:place] + chance.choice("123456789") + answer[place:]


Spoil = Callable[[int, int, random.Random], str]
WRONG: dict[str, Spoil] = {
    "carries dropped": _uncarried,
    "another digit": lambda one, two, chance: _changed(str(one + two), chance),
    "exchanged": lambda one, two, chance: _exchanged(str(one + two), chance),
    "a digit lost": lambda one, two, chance: _shorter(str(one + two), chance),
    "a digit more": lambda one, two, chance: _more(str(one + two), chance),
}


def generated(count: int, seed: int) -> tuple[list[Judged], dict[str, str]]:
    """Pairs of distinct prompts, and the kind of wrong answer of each prompt."""
    chance = random.Random(f"pairs/{seed}")
    pairs: list[Judged] = []
    kinds: dict[str, str] = {}
    while len(pairs) < count:
        one, two = (chance.randrange(10 ** chance.randint(1, 3)) for _ in range(2))
        prompt, right, kind = f"{one} + {two}", str(one + two), chance.choice(list(WRONG))
        wrong = WRONG[kind](one, two, chance)
        if prompt in kinds or wrong in ("", right):
            continue
        kinds[prompt] = kind
        pairs.append(Judged(prompt, right, wrong))
    return pairs, kinds


def learnt(pairs: list[Judged], folder: Path, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train teacher and reward model below ``folder``; the last report of the run."""
    sums_teacher.train(SHAPE, folder / "teacher", cpu_seconds=args.teacher_seconds, seed=seed)
    path = folder / "preferences.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}) + "\n" for p in pairs)
    )
    recipe = Recipe(
        name="reward",
        model=Teacher(path=str(folder / "teacher")),
        data=Preferences(path=str(path), rows=32, hold_out="half"),
        objective=Reward(),
        plan=TrainingPlan(
            steps=args.steps, seed=seed, rate=2e-3, warmup_steps=20, decay_from=0.5, report_every_steps=100
        ),
    )  # fmt: skip
    run(recipe, folder / "run")
    return RunFolder(folder / "run").reports()[-1]


def rewarded(pairs: list[Judged], folder: Path) -> tuple[list[float], list[float]]:
    """What the model that the run left gives both answers of each pair."""
    network = RewardModel(Vectors(load_teacher(folder / "teacher")), SHAPE.width)
    kept = load_file(folder / "run" / "model" / "model.safetensors")
    network.load_state_dict(
        {name if name == "score.weight" else f"body.{name}": t for name, t in kept.items()}, strict=False
    )
    spelling = AlphabetSpelling()
    spelt = [(spelling.pair(p.prompt, p.chosen), spelling.pair(p.prompt, p.rejected)) for p in pairs]
    return rewards(network.eval(), [Preference(one.prompt, one.answer, other.answer) for one, other in spelt])


def measure(seed: int, args: argparse.Namespace) -> None:
    pairs, kinds = generated(args.pairs, seed)
    with tempfile.TemporaryDirectory() as name:
        told = learnt(pairs, Path(name), args, seed)
        kept = halves(pairs).held_out
        chosen, rejected = rewarded(kept, Path(name))
    found = validated(kept, chosen, rejected)
    assert found.model.pairs == told["validation_pairs"]
    assert abs(found.model.share - told["validation_accuracy"]) < 0.005, (
        "the model that was written is not the one measured"
    )
    print(
        f"seed {seed}: {found.model.pairs} pairs kept; accuracy {found.model.share:.3f} "
        f"({found.model.low:.3f}-{found.model.high:.3f}), longer {found.longer.share:.3f} "
        f"({found.longer.low:.3f}-{found.longer.high:.3f}), {told['cpu_s']:.0f} CPU s; "
        f"temperature {found.temperature:.2f}, Brier before and after {found.brier:.3f}, {found.calibrated:.3f}"
    )
    calibrated = ([reward / found.temperature for reward in each] for each in (chosen, rejected))
    print(
        "  sure of it, and right:",
        *(
            f"{b.predicted:.2f}:{b.observed:.2f} ({b.pairs})"
            for b in reliability(preference_probabilities(*calibrated), 5)
        ),
    )
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for pair, one, other in zip(kept, chosen, rejected, strict=True):
        right[kinds[pair.prompt]].append(one > other)
    print("  by what is wrong:", *(f"{kind} {sum(marks)}/{len(marks)};" for kind, marks in sorted(right.items())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--teacher-seconds", type=float, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        measure(seed, args)


if __name__ == "__main__":
    main()
