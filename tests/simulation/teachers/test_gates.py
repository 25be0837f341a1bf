"""The gate over many worlds: made-up candidates by seed, and the real small networks of ``bench.gates`` again.

``PRSM_TEST_GATE_WORLDS`` sets how many made-up worlds there are of each kind.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from bench.gate_table import PLAN, Table, asked, digest, evaluated, read_table
from msgspec.structs import replace
from tests.support.outcomes import changed, drawn, made_up

from prsm.teachers.evaluation.gate import Decision, GatePolicy, judge
from prsm.teachers.evaluation.outcomes import scores

WORLDS = int(os.environ.get("PRSM_TEST_GATE_WORLDS", "12"))
TABLE = Path(__file__).parent / "gate_outcomes.json"


def _judged(seed: int, gain: float, loss: float, *, forgets: float = 0.0, unsafe: float = 0.01) -> Decision:
    """Five tasks of 240 prompts at unlike shares; the live version breaks about one in 100 of 300 safety prompts."""
    generator = np.random.default_rng(seed)
    live = {str(task): drawn(generator, share, 240) for task, share in enumerate((0.5, 0.7, 0.8, 0.9, 0.97))}
    candidate = {task: changed(generator, rights, gain, loss) for task, rights in live.items()}
    if forgets:
        candidate["2"] = changed(generator, live["2"], 0.0, forgets)
    safe = drawn(generator, 0.99, 300)
    mine = changed(generator, safe, 0.0, unsafe)
    return judge(made_up(candidate, mine, version="new"), made_up(live, safe, version="live"), GatePolicy())


def test_an_equal_candidate_is_promoted_no_more_often_than_the_level_says() -> None:
    """Gains and losses of equal weight on every task; 0.01 is the level, and safety and tasks only lower it."""
    promoted = [seed for seed in range(WORLDS) if _judged(seed, 0.2, 0.07, unsafe=0.0).promote]
    assert len(promoted) <= max(3, 0.03 * WORLDS), f"promoted by seeds {promoted}"


@pytest.mark.parametrize(
    ("gain", "loss", "forgets", "unsafe"),
    [(0.0, 0.02, 0.0, 0.0), (0.05, 0.15, 0.0, 0.0), (0.4, 0.01, 0.25, 0.0), (0.4, 0.01, 0.0, 0.05)],
    ids=["a little worse", "much worse", "forgets a task", "unsafe"],
)
def test_what_is_worse_in_any_way_is_never_promoted(gain: float, loss: float, forgets: float, unsafe: float) -> None:
    promoted = [s for s in range(WORLDS) if _judged(s, gain, loss, forgets=forgets, unsafe=unsafe).promote]
    assert not promoted, f"promoted by seeds {promoted}"


def test_what_is_better_is_nearly_always_promoted() -> None:
    held = [seed for seed in range(WORLDS) if not _judged(seed, 0.3, 0.01, unsafe=0.0).promote]
    assert len(held) <= 0.1 * WORLDS, f"held back by seeds {held}"


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(TABLE)


def test_real_regressions_are_held_and_real_improvements_promoted(table: Table, tmp_path: Path) -> None:
    """The outcomes are stored bits; what was asked is drawn again and must be the same."""
    questions = asked(tmp_path)
    assert digest(questions) == table.questions
    live = evaluated(table.live, questions)
    wrong = [
        row.name
        for row in table.candidates
        if judge(evaluated(row, questions), live, GatePolicy()).promote is not row.is_better
    ]
    assert not wrong
    assert sum(row.is_better for row in table.candidates) == 5
    assert len(table.candidates) == 25


def _failed(decision: Decision) -> list[str]:
    return [criterion.name for criterion in decision.criteria if not criterion.passed]


def test_what_a_real_network_lost_holds_back_what_a_better_one_gained(table: Table, tmp_path: Path) -> None:
    """Composed: an improved network's answers, but those of one part from one that was spoilt. Only that part fails."""
    questions = asked(tmp_path)
    live = evaluated(table.live, questions)
    better = next(evaluated(row, questions) for row in table.candidates if row.is_better)
    composed = 0
    for row in table.candidates:
        part = row.name.removeprefix("forgets ").split(",")[0] if row.kind == "forgetting" else "secrets"
        spoilt = evaluated(row, questions)
        before, after = (sum(each.right for each in found.outcomes if each.task == part) for found in (live, spoilt))
        if row.kind in ("forgetting", "unsafe") and part in PLAN.names and after < before:
            outcomes = tuple(
                mine if mine.task != part else its for mine, its in zip(better.outcomes, spoilt.outcomes, strict=True)
            )
            decision = judge(replace(better, outcomes=outcomes, scores=scores(outcomes)), live, GatePolicy())
            failed = set(_failed(decision)) - {"better"}
            assert failed == {"safety" if part == "secrets" else f"task {part}"}, row.name
            composed += 1
    assert composed >= 6
