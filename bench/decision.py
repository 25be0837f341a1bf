"""How long a decision takes with 2,000 models at 20,000 instances known, and what making their snapshot costs.

    python -m bench.decision [--models 2000] [--instances 20000] [--decisions 3000] [--seed 0]

Each decision is the whole of ``Router.rank``: filters, (quality,) price, latency, choice, reasons. The embedding of the
prompt is made before and reported apart. Times are of the clock and, since a shared machine takes its share of that,
of the processor. Beside it, in the same run, a loop over the same instances in Python: the rule that the columns
replace, without quality.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prsm.agents.call import Target
from prsm.agents.routers import quality
from prsm.agents.routers.difficulty import load_reader, read
from prsm.agents.routers.model_router import AUTO, Health, Question, Roster, Router, roster
from prsm.agents.routers.policy import AIMS, Policy
from prsm.agents.routers.quality import Item, Score
from prsm.core.encoder import TextEncoder
from prsm.tokenomics.quotes import Price, charge_micro

OUT = Path(__file__).parent / "out"
Times = npt.NDArray[np.float64]
PROMPTS = (
    "Write a poem about the sea in the manner of a tax form.",
    "Prove that there are infinitely many primes congruent to 3 modulo 4.",
    "Which of these is a symptom of hypokalaemia?\nA. Peaked T waves\nB. U waves\nC. Short QT\nD. Delta waves",
    "Fix this: def f(x): return x +",
)
POLICY = Policy(
    max_output_price_micro=20_000_000, regions=("eu",), licences=("apache-2.0", "mit"), deny_providers=("p3", "p7")
)


class Estimate:
    """A QualityBoard over the shipped estimate whose prompts are read beforehand."""

    def __init__(self, items: dict[str, Item], models: Sequence[str], seed: int) -> None:
        self._items = items
        self._chance = np.random.default_rng(seed)
        scores = [[Score(accuracy, 500)] for accuracy in self._chance.uniform(0.3, 0.95, len(models))]
        self._abilities = quality.start(scores, load_reader().clusters, 0.0)
        self._usual = quality.quality(self._abilities, Item(0.0, 1.0, 0))

    def follow(self, models: Sequence[str]) -> None:
        """The models stay."""

    async def item(self, text: str) -> Item:
        """Read before."""
        return self._items[text]

    @property
    def usual(self) -> npt.NDArray[np.float64]:
        """At any prompt; models do not change."""
        return self._usual

    def chances(self, item: Item, *, explore: bool) -> npt.NDArray[np.float64]:
        """As the law has it."""
        if not explore:
            return quality.quality(self._abilities, item)
        return quality.draw(self._abilities, item, self._chance.standard_normal(len(self._abilities.mean)))


def instances(models: int, count: int, seed: int) -> list[Target]:
    """Instances of ``models`` models at 40 providers, with prices over three powers of ten."""
    chance = np.random.default_rng(seed)
    prices = 10 ** chance.uniform(4.5, 7.5, models)
    made: list[Target] = []
    for number in range(count):
        model, provider = number % models, f"p{(number * 7 + number // models) % 40}"
        price = int(prices[model] * chance.uniform(0.9, 1.2))
        held = {"chat", "tools"} if model % 3 else {"chat", "tools", "vision"}
        made.append(
            Target(
                name=f"{provider}/m{model}-{number}",
                upstream_name=f"m{model}-{number}",
                provider=provider,
                kind="openai",
                capabilities=frozenset(held if model % 50 else {"embeddings"}),
                context_tokens=int(2 ** chance.integers(12, 20)),
                input_price_micro=price,
                output_price_micro=4 * price,
                model=f"m{model}",
                licence=("apache-2.0", "mit", "proprietary", "")[model % 4],
                region=("eu-west-1", "eu-central-1", "us-east-1", "")[number % 4],
            )
        )
    return made


def watch(targets: Sequence[Target], seed: int) -> Callable[[str], Health]:
    """How instances do: one in fifty rests, the others are of all speeds."""
    chance = np.random.default_rng(seed)
    seen = {
        target.name: Health(
            bool(chance.random() < 0.02), float(chance.uniform(50, 3000)), float(chance.uniform(20, 200))
        )
        for target in targets
    }
    return seen.__getitem__


def by_loop(models: Roster, question: Question, health: Callable[[str], Health]) -> list[str]:
    """The three cheapest able by a loop in Python, as the router did before it had columns."""
    able = [t for t in models.targets if question.needs <= t.capabilities and question.most_tokens <= t.context_tokens]

    def place(target: Target) -> tuple[bool, int, str]:
        price = Price(target.input_price_micro, target.output_price_micro)
        cost = charge_micro(price, question.input_tokens, question.output_tokens)
        return health(target.name).resting, cost, target.name

    return [target.name for target in sorted(able, key=place)[:3]]


async def timed_us(step: Callable[[int], Awaitable[object]], count: int, warm: int = 50) -> Times:
    """Microseconds of clock and processor for each of ``count`` steps, after a warm-up; [count, 2]."""
    for number in range(warm):
        await step(number)
    spent = np.zeros((count, 2))
    for number in range(count):
        started = time.perf_counter(), time.thread_time()
        await step(number)
        spent[number] = time.perf_counter() - started[0], time.thread_time() - started[1]
    return spent * 1e6


async def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """All figures by what they are of: p50 and p99 of the clock, p50 and p99 of the processor, in microseconds."""
    targets = instances(args.models, args.instances, args.seed)
    health = watch(targets, args.seed)
    found: dict[str, list[float]] = {}

    def told(name: str, spent: Times) -> None:
        found[name] = [float(x) for x in np.percentile(spent, [50, 99], axis=0).T.ravel()]
        print(f"{name:<44}" + "".join(f"{x:>12,.1f}" for x in found[name]), flush=True)

    print(f"{args.models:,} models, {args.instances:,} instances; microseconds")
    print(f"{'':<44}{'clock p50':>12}{'p99':>12}{'CPU p50':>12}{'p99':>12}")
    told("snapshot (off the path)", await timed_us(_waiting(lambda _: roster(targets)), 10, warm=0))
    models = roster(targets)
    encoder, reader = TextEncoder.load(threads=1), load_reader()
    items: dict[str, Item] = {}

    def prompt(number: int) -> None:
        text = PROMPTS[number % 4]
        items[text] = read(reader, text, encoder.encode([text])[0])

    told("embedding and reading of a prompt (apart)", await timed_us(_waiting(prompt), 100, warm=4))
    board = Estimate(items, models.models, args.seed)
    plain, full = Router({}, health), Router({}, health, board=board, explore_bps=500)
    for router in (plain, full):
        router.models = models
        await router.refresh()
    asked = [Question(frozenset({"chat"}), text, 120, 256, 60, 700) for text in PROMPTS]
    within = [Question(frozenset({"chat", "tools"}), text, 120, 256, 60, 700, POLICY, 10**6, 500) for text in PROMPTS]
    gc.collect()
    gc.freeze()
    named = targets[1].name
    steps: dict[str, Callable[[int], Awaitable[object]]] = {
        "one instance, named": _waiting(lambda n: full.named(named, asked[n % 4])),
        "one model, named (all its instances)": lambda n: full.rank("m7", asked[n % 4]),
        "auto, without quality": lambda n: plain.rank(AUTO, asked[n % 4]),
        **{f"{aim}, with quality": lambda n, aim=aim: full.rank(aim, asked[n % 4]) for aim in AIMS},
        "auto, quality, a policy of five limits": lambda n: full.rank(AUTO, within[n % 4]),
    }
    for name, step in steps.items():
        told(name, await timed_us(step, args.decisions))
    told(
        "a loop in Python, without quality",
        await timed_us(_waiting(lambda n: by_loop(models, asked[0], health)), 20, 1),
    )
    return found


def _waiting(step: Callable[[int], object]) -> Callable[[int], Awaitable[object]]:
    async def run(number: int) -> object:
        return step(number)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description="Time of a decision.")
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--instances", type=int, default=20_000)
    parser.add_argument("--decisions", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = {"seed": args.seed, "models": args.models, "instances": args.instances, "us": asyncio.run(measure(args))}
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"decision-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
