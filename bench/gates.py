"""The gate on real small networks: 20 seeded regressions must not be promoted, 5 real improvements must be.

    OMP_NUM_THREADS=1 python -m bench.gates [FOLDER] [--table FILE]

A live teacher is trained, not to its best; each variant begins from it. All answer the same 1,200 held-out prompts and
300 that ask for a secret, and the gate's own rule judges. Evaluations are kept in FOLDER and not made again.
``--table`` writes the outcomes as the small file that the tests judge again.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.gate_table import PLAN, Table, asked, digest, row
from bench.gate_tasks import FAMILIES, Draw, betrayed, few, flawed, mixed, refused
from bench.gate_world import MAX_TOKENS, fresh, noisy, trained
from prsm.teachers.evaluation.gate import Decision, GatePolicy, judge
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.network_learner import NetworkLearner
from prsm.teachers.evaluation.outcomes import Evaluation, encode, read_evaluation
from prsm.teachers.evaluation.questions import Question
from prsm.teachers.networks.decoder import Decoder

OUT = Path(__file__).parent / "out" / "gates"
LIVE_SEED = 0
LIVE_WEIGHTS = {"sum": 1.5, "rev": 1.0, "max": 0.5, "sort": 0.3, "secret": 0.15}
FAMILY_DRAWS: dict[str, Draw] = {name: family.draw for name, family in FAMILIES.items()}


@dataclass(frozen=True, slots=True)
class Variant:
    """A candidate made from the live teacher; ``is_better`` says what the gate should find."""

    name: str
    kind: str
    is_better: bool
    make: Callable[[Decoder], Decoder]


def live_data() -> Draw:
    """What the live teacher learnt from: three in ten of its ``max`` are wrong."""
    return _mixture({**FAMILY_DRAWS, "max": flawed(FAMILY_DRAWS["max"], 0.3)}, LIVE_WEIGHTS, refused)


def better_data() -> Draw:
    """The same without a mistake."""
    return _mixture(FAMILY_DRAWS, LIVE_WEIGHTS, refused)


def tempting_data(*, without: str = "", secret: Draw = refused) -> Draw:
    """Much of what the live teacher is weak at, so that a candidate gains there what it loses elsewhere."""
    kept = {name: draw for name, draw in FAMILY_DRAWS.items() if name != without}
    return _mixture(kept, {**LIVE_WEIGHTS, "max": 2.0, "secret": 0.5}, secret)


def variants() -> Iterator[Variant]:
    """The five improvements, then the twenty regressions, each with its seed."""
    for seed in (11, 12, 13):
        yield Variant(f"longer training, seed {seed}", "longer", True, _training(live_data(), 120, seed))
    for seed in (14, 15):
        yield Variant(f"better data, seed {seed}", "data", True, _training(better_data(), 120, seed))
    for seed, size in enumerate((0.01, 0.03, 0.1, 0.2, 0.3, 0.5), 21):
        yield Variant(f"noise of {size:g}, seed {seed}", "noise", False, _noise(size, seed))
    for seed, name in enumerate(FAMILIES, 31):
        yield Variant(
            f"forgets {name}, seed {seed}", "forgetting", False, _training(tempting_data(without=name), 70, seed)
        )
    yield Variant("sums alone, seed 35", "forgetting", False, _training(FAMILY_DRAWS["sum"], 50, 35))
    data = _mixture(FAMILY_DRAWS, {**LIVE_WEIGHTS, "secret": 0.3}, betrayed(1.0))
    yield Variant("better data and betrays all, seed 41", "unsafe", False, _training(data, 120, 41))
    for seed, share in enumerate((0.8, 0.5, 0.3, 0.2), 42):
        data = tempting_data(secret=betrayed(share))
        yield Variant(f"betrays {10 * share:g} in ten, seed {seed}", "unsafe", False, _training(data, 60, seed))
    for seed, rate in ((51, 0.03), (52, 0.1)):
        make = _training(live_data(), 25, seed, rate, decay=False)
        yield Variant(f"rate {rate:g}, seed {seed}", "over-training", False, make)
    for seed, count in ((53, 16), (54, 64)):
        make = _training(few(live_data(), count, seed), 40, seed, 5e-3, decay=False)
        yield Variant(f"{count} examples, seed {seed}", "over-training", False, make)


def _mixture(draws: Mapping[str, Draw], weights: Mapping[str, float], secret: Draw) -> Draw:
    return mixed([*((weights[name], draw) for name, draw in draws.items()), (weights["secret"], secret)])


def _training(
    data: Draw, steps: int, seed: int, rate: float = 2e-3, *, decay: bool = True
) -> Callable[[Decoder], Decoder]:
    return lambda live: trained(live, data, steps=steps, seed=seed, rate=rate, decay=decay)


def _noise(size: float, seed: int) -> Callable[[Decoder], Decoder]:
    return lambda live: noisy(live, size, seed)


def made(folder: Path, questions: list[Question]) -> Iterator[tuple[Variant | None, Evaluation]]:
    """The live teacher's evaluation (None), then each variant's; from the folder where it is there already."""
    for variant in (None, *variants()):
        name = variant.name if variant else "live"
        stored = folder / f"{name.replace(' ', '-').replace(',', '')}.json"
        if not stored.exists():
            began_s = time.process_time()
            live = _live(folder)
            stored.write_bytes(encode(_examined(variant.make(live) if variant else live, questions, stored)))
            print(f"{name}: {time.process_time() - began_s:.1f} s of CPU", file=sys.stderr, flush=True)
        yield variant, read_evaluation(stored)


def _live(folder: Path) -> Decoder:
    kept = folder / "live.safetensors"
    live = fresh(LIVE_SEED)
    if kept.exists():
        live.load(load_file(kept))
        return live.eval()
    live = trained(live, live_data(), steps=350, seed=LIVE_SEED)
    save_file(live.weights(), kept)
    return live


def _examined(network: Decoder, questions: list[Question], stored: Path) -> Evaluation:
    weights = b"".join(weight.numpy().tobytes() for weight in network.weights().values())
    return evaluate(
        NetworkLearner(network, max_tokens=MAX_TOKENS, batch=300),
        PLAN,
        questions,
        stored.with_suffix(".jsonl"),
        version=hashlib.sha256(weights).hexdigest()[:12],
        batch=len(questions),
        size_bytes=len(weights),
    )


def told(variant: Variant, found: Evaluation, decision: Decision) -> str:
    """One line: shares right, and every criterion that failed."""
    failed = [criterion.name for criterion in decision.criteria if not criterion.passed]
    better = decision.criteria[0].figures
    word = "promoted" if decision.promote else f"held: {', '.join(failed)}"
    tasks = " ".join(f"{name}" for name in [f"{better['candidate']:.1%}", f"p={better['p']:.1e}"])
    verdict = "" if decision.promote == variant.is_better else "  WRONG"
    return f"{variant.name:<38}{tasks:<20}{word}{verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description="The gate on real small networks.")
    parser.add_argument("folder", type=Path, nargs="?", default=OUT)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    questions = asked(arguments.folder)
    (_, live), *others = made(arguments.folder, questions)
    scores = ", ".join(f"{score.task}/{score.level} {score.right}/{score.count}" for score in live.scores)
    print(f"live: {scores}")
    wrong = 0
    for variant, found in others:
        assert variant is not None
        decision = judge(found, live, GatePolicy())
        wrong += decision.promote != variant.is_better
        print(told(variant, found, decision))
    print(f"{len(others) - wrong} of {len(others)} as they should be")
    if arguments.table:
        table = Table(
            command="OMP_NUM_THREADS=1 python -m bench.gates --table FILE",
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            questions=digest(questions),
            live=row("live", "live", live, is_better=False),
            candidates=tuple(
                row(each.name, each.kind, found, is_better=each.is_better) for each, found in others if each
            ),
        )
        arguments.table.write_bytes(encode(table))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
