"""A small run of ``tests/fuzz/storage_parsers.py``; PRSM_TEST_FUZZ_RUNS is the number of inputs a parser gets."""

import os
import tracemalloc

import pytest
from tests.fuzz.storage_parsers import PARSERS, FuzzFailure, Parser, fuzz

from prsm.core.errors import PrsmError
from prsm.data_layer.codec.cid import Cid

RUNS = int(os.environ.get("PRSM_TEST_FUZZ_RUNS", "2000"))


@pytest.mark.parametrize("name", PARSERS)
def test_strange_bytes_end_in_a_result_or_a_refusal(name: str) -> None:
    outcome = fuzz(name, PARSERS[name], RUNS, int.from_bytes(os.urandom(4)))
    assert outcome.refused > RUNS // 10
    assert outcome.taken > RUNS // 100


@pytest.mark.parametrize("name", PARSERS)
def test_every_sample_is_valid(name: str) -> None:
    for sample in PARSERS[name].samples:
        PARSERS[name].run(sample)


@pytest.mark.parametrize("name", PARSERS)
def test_strange_bytes_cost_bounded_memory(name: str) -> None:
    tracemalloc.start()
    try:
        fuzz(name, PARSERS[name], 300, 1)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_parser_that_breaks_is_found() -> None:
    def broken(data: bytes) -> None:
        if len(data) == 35:
            raise PrsmError("refused")
        Cid.decode(data)[0].encode()[500]

    with pytest.raises(FuzzFailure, match=r"broken, seed 7, run \d+: IndexError"):
        fuzz("broken", Parser(PARSERS["cid_bytes"].samples, broken), 1000, 7)
