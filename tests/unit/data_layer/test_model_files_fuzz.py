"""A small share of the fuzzing of model files; ``PRSM_TEST_FUZZ_RUNS`` makes it as long as wanted."""

import os

import pytest
from tests.fuzz.model_files import fuzz, inspect, inspect_sentencepiece, seeds, sentencepiece_seeds


def test_mutated_files_are_accepted_or_refused_and_nothing_else() -> None:
    runs = int(os.environ.get("PRSM_TEST_FUZZ_RUNS", "10000"))
    outcomes = fuzz(runs, seed=runs)
    assert outcomes.total() == runs
    for kind, share in (("weights", 2), ("tokenizer", 2), ("configuration", 10)):
        both = outcomes[f"{kind} accepted"] + outcomes[f"{kind} refused"]
        assert both >= runs // share // 2
        assert outcomes[f"{kind} accepted"] > both // 200, outcomes
        assert outcomes[f"{kind} refused"] > both // 4, outcomes


@pytest.mark.parametrize("seed", range(len(seeds())))
def test_seeds_are_valid(seed: int) -> None:
    assert inspect(seeds()[seed]) == "accepted"


@pytest.mark.parametrize("seed", range(len(sentencepiece_seeds())))
def test_seeds_of_tokenizers_are_valid(seed: int) -> None:
    assert inspect_sentencepiece(sentencepiece_seeds()[seed]) == "accepted"
