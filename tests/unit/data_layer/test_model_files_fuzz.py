"""A small share of the fuzzing of model files; ``PRSM_TEST_FUZZ_RUNS`` makes it as long as wanted."""

import os

from tests.fuzz.model_files import fuzz, inspect, seeds


def test_mutated_files_are_accepted_or_refused_and_nothing_else() -> None:
    runs = int(os.environ.get("PRSM_TEST_FUZZ_RUNS", "10000"))
    outcomes = fuzz(runs, seed=runs)
    assert outcomes["accepted"] > runs // 100
    assert outcomes["refused"] > runs // 2
    assert outcomes.total() == runs


def test_seeds_are_valid() -> None:
    assert {inspect(seed) for seed in seeds()} == {"accepted"}
