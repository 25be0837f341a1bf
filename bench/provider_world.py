"""The router in a simulated market: its regret against an oracle, and its cost beside the best fixed model's.

``python -m bench.provider_world [--seeds 5] [--horizon 4000]``. Everything but time and upstreams is the real thing;
see ``tests/support/provider_world.py``.
"""

import argparse
import asyncio
import logging
from statistics import median

import numpy as np
import structlog
from tests.support.provider_world import LIAR, Tally, World

_WORTH_MICRO = 10_000
"""Of a good answer, where regret is told."""
_WORTHS_MICRO = (1_000, 3_000, 10_000, 30_000, 100_000)


def main() -> None:
    """Print one line a seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--horizon", type=float, default=4000.0, help="simulated seconds at 5 requests a second")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows = [_seed(seed, options.horizon) for seed in range(options.seeds)]
    regret, late, fixed, believed, cost, liar = (median(column) for column in zip(*rows, strict=True))
    print(
        f"median: regret {regret:.1%}, of the second half {late:.1%} (best fixed model in hindsight {fixed:.1%}, the "
        f"one to settle on by the catalogue {believed:.1%}); cost at the quality of the best fixed model "
        f"{cost:.2f} of its; answers of the second half by the liar {liar:.1%}"
    )


def _seed(seed: int, horizon_s: float) -> tuple[float, ...]:
    curve = {worth: _run(seed, horizon_s, worth) for worth in _WORTHS_MICRO}
    world = World(seed, worth_micro=_WORTH_MICRO)
    names, believed = [model.name for model in world.models], world.by_the_catalogue()
    fixed = {name: _run(seed, horizon_s, _WORTH_MICRO, fixed=name) for name in names}
    whole, late = curve[_WORTH_MICRO]
    best = max(fixed, key=lambda name: fixed[name][1].value_micro)
    best_late = fixed[best][1]
    qualities = [tally.quality for _, tally in curve.values()]
    costs = [tally.cost_each_micro for _, tally in curve.values()]
    order = np.argsort(qualities)
    cost = float(np.interp(best_late.quality, np.array(qualities)[order], np.array(costs)[order], right=np.nan))
    ratio = cost / best_late.cost_each_micro
    liar = late.by_model.get(LIAR, 0) / late.requests
    print(
        f"seed {seed}: {whole.requests} requests, {1 - whole.answered / whole.requests:.3%} unanswered; regret "
        f"{whole.regret:.1%}, second half {late.regret:.1%} (best fixed, {best}: {best_late.regret:.1%}; by the "
        f"catalogue, {believed}: {fixed[believed][1].regret:.1%}); quality of {best} "
        f"{best_late.quality:.3f} at {best_late.cost_each_micro:.0f} micro a request, the router's at the same "
        f"{cost:.0f} ({ratio:.2f}); liar {whole.by_model.get(LIAR, 0) / whole.requests:.1%}, second half {liar:.1%}",
        flush=True,
    )
    return whole.regret, late.regret, best_late.regret, fixed[believed][1].regret, ratio, liar


def _run(seed: int, horizon_s: float, worth_micro: float, fixed: str = "") -> tuple[Tally, Tally]:
    return asyncio.run(World(seed, worth_micro=worth_micro, horizon_s=horizon_s).run(fixed))


if __name__ == "__main__":
    main()
