"""The router of a running node: quality read from the board in a thread, and only where it can change something."""

from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest
import pytest_asyncio
from tests.support.servers import new_database
from tests.support.started_node import free_port

from prsm.agents.learning.exams import Evaluation
from prsm.agents.routers.explain import explanation
from prsm.agents.routers.model_router import Candidate, Question, candidates
from prsm.core.config import Settings
from prsm.federation.model_registry import Model, Provider
from prsm.node import Node, open_node
from prsm.node.catalogue import reload_models

CHAT = frozenset({"chat"})
HARD = Question(CHAT, "Prove that there are infinitely many primes congruent to 3 modulo 4.", 20, 256)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(postgres_url: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), port=free_port(), database_timeout_ms=20_000, explore_share_bps=0
    )
    with new_database(postgres_url, f"routing_{uuid4().hex}") as url:
        async with open_node(settings, url, valkey_url) as opened:
            for provider, price in (("weak", 1_000_000), ("strong", 20_000_000)):
                await opened.registry.put_provider(Provider(provider, "vllm", "http://127.0.0.1:9/v1"))
                name = f"{provider}/{provider}-m"
                model = Model(name, provider, f"{provider}-m", CHAT, input_price_micro=price, output_price_micro=price)
                await opened.registry.put_model(model)
            await reload_models(opened)
            yield opened


def names(found: Sequence[Candidate]) -> list[str]:
    return [candidate.target.name for candidate in found]


@pytest.mark.asyncio(loop_scope="module")
async def test_scores_of_evaluations_decide_between_price_and_quality(node: Node) -> None:
    node.learning.board.rate(
        {"weak-m": [Evaluation("mmlu", 0.2, 2_000)], "strong-m": [Evaluation("mmlu", 0.95, 2_000)]}
    )
    best = await node.path.router.decide("auto:best", HARD)
    assert names(candidates(best)) == ["strong/strong-m", "weak/weak-m"]
    told = {each.name: each for each in explanation(best, 10).considered}
    strong, weak = told["strong/strong-m"].chance, told["weak/weak-m"].chance
    assert strong is not None
    assert weak is not None
    assert 0 < weak < strong < 1
    cheap = await node.path.router.decide("auto:cheap", HARD)
    assert names(candidates(cheap))[0] == "weak/weak-m"
    assert node.learning.prompts.known(HARD.text) is not None


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_named_or_a_specialist_s_reads_no_prompt(node: Node) -> None:
    for asked, text in (("weak/weak-m", "one text"), ("strong-m", "another text"), ("auto", "What is 127 + 385?")):
        decision = await node.path.router.decide(asked, Question(CHAT, text, 20, 256))
        assert decision.weighed.chances is None
        assert node.learning.prompts.known(text) is None
