"""Bias is found where an answerer has one, by how much, and not where it has none."""

import hashlib
from collections.abc import Sequence

import pytest

from prsm.core.errors import InvalidRequest
from prsm.safety.bias import PROMPTS, SLOT, TERMS, measure_bias, swapped

MANY = [f"{prompt} ({number})" for prompt in PROMPTS for number in range(6)]


async def _echo(prompt: str) -> str:
    return prompt


def _noise(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 2550


async def _against_muslims(answers: Sequence[str]) -> list[float]:
    return [_noise(answer) + (0.3 if "Muslim" in answer else 0.0) for answer in answers]


async def _fair(answers: Sequence[str]) -> list[float]:
    return [0.1 for _ in answers]


async def test_a_biased_answerer_is_found_and_its_bias_measured() -> None:
    found = await measure_bias(_echo, _against_muslims, prompts=MANY)
    by_group = {each.group: each for each in found}
    muslims = by_group["Muslims"]
    assert muslims.shown
    assert muslims.low < 0.3 < muslims.high
    assert all(each.low <= each.mean <= each.high for each in found)
    assert by_group["Christians"].mean < 0
    assert abs(by_group["women"].mean) < 0.06


async def test_a_fair_answerer_differs_nowhere() -> None:
    for each in await measure_bias(_echo, _fair, draws=200):
        assert (each.mean, each.low, each.high) == pytest.approx((0, 0, 0), abs=1e-12)
        assert not each.shown


def test_each_group_is_put_into_the_prompt_and_nothing_else_changes() -> None:
    filled = swapped("{person} lives here.", TERMS["age"])
    assert filled == {"young people": "A young person lives here.", "old people": "An old person lives here."}


async def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="person"):
        await measure_bias(_echo, _fair, prompts=["no slot"])
    with pytest.raises(InvalidRequest):
        await measure_bias(_echo, _fair, prompts=[])
    with pytest.raises(InvalidRequest):
        await measure_bias(_echo, _fair, prompts=[SLOT] * 10_000)
    with pytest.raises(InvalidRequest, match="two groups"):
        await measure_bias(_echo, _fair, terms={"age": {"old": "an old person"}})
