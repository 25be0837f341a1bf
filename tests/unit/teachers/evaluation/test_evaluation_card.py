"""The card says what is on record, in the hub's own form; the golden file is how it reads."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from msgspec.structs import replace
from tests.support.outcomes import SAFETY, WHEN, made_up, repeated

from prsm.teachers.evaluation.card import CardFacts, DataSource, RunFacts, card
from prsm.teachers.evaluation.gate import GatePolicy, GateRecord, Override, judge
from prsm.teachers.evaluation.outcomes import Evaluation

GOLDEN = Path(__file__).parent / "card.golden.md"
FACTS = CardFacts(
    name="Small sums",
    version="5f1d0c2ab3e4",
    purpose="Adds whole numbers of up to three digits, and says no when asked for a secret.",
    licence="MIT",
    tags=("arithmetic",),
    base_model="prsm/sums-live",
    parameters=148_000,
    sha256="ab" * 32,
    limits=("Numbers of more than three digits are answered wrongly.",),
)
RUN = RunFacts(
    recipe="sft",
    command="python -m prsm.teachers.training.main --recipe sums.toml",
    seeds=(7, 8),
    code_revision="e1ee131",
    data=(DataSource(name="sums", licence="MIT", about="Generated; no personal data.", sha256="cd" * 32),),
    parents=("aa11",),
    settings={"steps": 400, "rate": 0.003},
    cpu_minutes=1.25,
    machine="2 shared cores",
    date="2026-11-30",
)


def _found(safe: list[bool] | None) -> Evaluation:
    rights = {"max": [True] * 380 + [False] * 20, "sum": [True] * 600}
    found = made_up(rights, safe, version=FACTS.version)
    return replace(found, id="019c0000-0000-7000-8000-000000000001")


def _live(safe: list[bool] | None) -> Evaluation:
    return made_up({"max": [True] * 360 + [False] * 40, "sum": [True] * 580 + [False] * 20}, safe, version="aa11")


def test_the_card_is_the_golden_one() -> None:
    """Write it anew by hand where it is meant to change: ``GOLDEN.write_text(...)``."""
    safe = [True] * 199 + [False]
    gate = GateRecord(decision=judge(_found(safe), _live(safe), GatePolicy()))
    assert gate.promoted
    assert card(FACTS, RUN, _found(safe), gate) == GOLDEN.read_text(encoding="utf-8")


def test_the_hubs_own_reader_reads_it() -> None:
    safe = [True] * 200
    read = ModelCard(card(FACTS, RUN, _found(safe)))
    assert (read.data.license, read.data.language, read.data.base_model) == ("mit", "en", "prsm/sums-live")
    assert read.data.tags == ["prsm", "arithmetic"]
    assert read.data.datasets == ["sums"]
    results = {result.dataset_name: result.metric_value for result in read.data.eval_results or []}
    assert results == {"max": 0.95, "sum": 1.0, SAFETY: 1.0}


def test_what_is_not_known_is_said() -> None:
    found = replace(_found(None), expected=5_000, size_bytes=None)
    text = card(
        CardFacts(name="X", version=FACTS.version, purpose="None.", licence="MIT"),
        RunFacts(recipe="sft", command="make", seeds=()),
        found,
    )
    for words in (
        "stopped before its end", "Data: not recorded", "Parameters: not recorded", "Its safety was not evaluated",
        "No gate has judged", "trained from scratch", "Size as served: not recorded", "Seeds: not recorded",
    ):  # fmt: skip
        assert words in text


def test_a_failed_gate_and_its_override_are_both_told() -> None:
    found = _found(None)
    refused = GateRecord(decision=judge(found, _live(None), GatePolicy()))
    assert "**Refused, no-safety**" in card(FACTS, RUN, found, refused)
    worse = made_up({"max": [True] * 300 + [False] * 100, "sum": [True] * 600}, None, version=FACTS.version)
    decision = judge(worse, _live(None), GatePolicy(safety_required=False))
    override = Override(who="ada", reason="Wanted for a demonstration.", promote=True, at=WHEN)
    text = card(FACTS, RUN, worse, GateRecord(decision=decision, override=override))
    assert "**Not promoted**" in text
    assert "**Fails**: max" in text
    assert "promoted by ada on 2026-11-30: Wanted for a demonstration." in text


def test_an_evaluation_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="the evaluation is of"):
        card(replace(FACTS, version="other"), RUN, _found(None))


def test_the_same_answers_given_again_narrow_no_interval() -> None:
    def intervals(found: Evaluation) -> list[str]:
        rows = [line.split("|") for line in card(FACTS, RUN, found).splitlines() if line.startswith("| ")]
        return [row[-2] for row in rows]

    once = _found([True] * 199 + [False])
    assert intervals(repeated(once, 10)) == intervals(once)
    assert "| max | 0 | 3800/4000 | 95.0% | 92.4% to 96.7% |" in card(FACTS, RUN, repeated(once, 10))
