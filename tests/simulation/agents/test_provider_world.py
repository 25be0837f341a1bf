"""The router in a simulated market: it outdoes whoever believes the catalogue, loses little, finds the liar."""

import os

from tests.support.provider_world import LIAR, World

SEED = int(os.environ.get("PRSM_TEST_WORLD_SEED", "0"))
HORIZON_S = float(os.environ.get("PRSM_TEST_WORLD_HORIZON_S", "1500"))
WORTH_MICRO = 10_000


async def test_it_learns_whom_to_ask_and_outlives_outages() -> None:
    print(f"PRSM_TEST_WORLD_SEED={SEED} PRSM_TEST_WORLD_HORIZON_S={HORIZON_S}")
    world = World(SEED, worth_micro=WORTH_MICRO, horizon_s=HORIZON_S)
    believed = world.by_the_catalogue()
    routed, late = await world.run()
    fixed, fixed_late = await World(SEED, worth_micro=WORTH_MICRO, horizon_s=HORIZON_S).run(fixed=believed)
    assert routed.requests == fixed.requests > 1_000, "both saw the same questions"
    assert routed.answered >= 0.995 * routed.requests
    assert routed.value_micro > 1.2 * fixed.value_micro
    assert late.regret < min(routed.regret, fixed_late.regret / 2)
    early = routed.since(late)
    assert late.by_model.get(LIAR, 0) / late.requests < 0.7 * early.by_model.get(LIAR, 0) / early.requests
