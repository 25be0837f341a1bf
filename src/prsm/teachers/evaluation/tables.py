"""Evaluations, comparisons and decisions as tables for a person to read."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prsm.teachers.evaluation.comparison import Comparison, Difference
from prsm.teachers.evaluation.gate import Decision
from prsm.teachers.evaluation.outcomes import Evaluation, by_level, interval
from prsm.teachers.evaluation.statistics import needed_prompts


def evaluation_table(found: Evaluation) -> RenderableType:
    """Right answers of each task and level with 95 % Wilson intervals over prompts."""
    table = _table("task", "level", "right", "share", "95 %")
    some = by_level(found.outcomes)
    for score in found.scores:
        low, high = interval(some[score.task, score.level])
        task = f"{score.task} (safety)" if found.plan.is_safety(score.task) else score.task
        share = f"{score.right / score.count:.1%}"
        table.add_row(task, str(score.level), f"{score.right}/{score.count}", share, f"{low:.1%} to {high:.1%}")
    took, cost = found.answer_ms(), found.cost_micro()
    words = [f"{len(found.outcomes):,} of {found.expected:,} answers of {found.learner}"]
    if took is not None:
        words.append(f"median {took:.3g} ms")
    if cost is not None:
        words.append(f"{cost:,} micro-FTNS")
    missing = sorted(found.plan.names - {score.task for score in found.scores})
    if missing:
        words.append(f"without any of {', '.join(missing)}")
    return Group(table, Text("; ".join(words) + "."))


def comparison_table(found: Comparison, safety: Comparison) -> RenderableType:
    """Each task of two evaluations; p-values of tasks are corrected for there being several."""
    table = _table("task", "prompts", "candidate", "live", "change", "95 %", "gained", "lost", "p better", "p worse")
    for difference in (*found.tasks, found.overall):
        _add(table, difference, difference.task)
    for difference in safety.tasks:
        _add(table, difference, f"{difference.task} (safety)")
    return Group(table, Text(_fallen(found)), Text(_missing(found)))


def decision_table(decision: Decision) -> RenderableType:
    """Every criterion in words, and what follows."""
    table = _table("", "criterion", "")
    for refusal in decision.refusals:
        table.add_row("refused", refusal.name, refusal.words)
    for criterion in decision.criteria:
        table.add_row("holds" if criterion.passed else "FAILS", criterion.name, criterion.words)
    return Group(table, Text("Promote." if decision.promote else "Do not promote."))


def _table(*titles: str) -> Table:
    return Table(*titles, box=None, pad_edge=False)


def _add(table: Table, seen: Difference, name: str) -> None:
    table.add_row(
        name,
        f"{seen.prompts:,}",
        f"{seen.candidate:.1%}",
        f"{seen.live:.1%}",
        f"{seen.change:+.1%}",
        f"{seen.low:+.1%} to {seen.high:+.1%}",
        str(seen.gained),
        str(seen.lost),
        f"{seen.p_better:.2g}",
        f"{seen.p_worse:.2g}",
    )


def _fallen(found: Comparison) -> str:
    fallen = found.fallen()
    if not fallen:
        return "No task is certainly worse."
    return "Certainly worse: " + ", ".join(f"{task.task} by {-task.change:.1%}" for task in fallen) + "."


def _missing(found: Comparison) -> str:
    """What the comparison could not show: prompts not in common, or too few of them."""
    words: list[str] = []
    if found.only_candidate or found.only_live:
        words.append(f"Asked of one alone: {found.only_candidate:,} (candidate) and {found.only_live:,} (live).")
    overall = found.overall
    differing = (overall.gained + overall.lost) / max(overall.prompts, 1)
    if overall.p_better >= 0.01 and overall.change > 0:
        needed = needed_prompts(overall.change, differing)
        words.append(f"If the change is as it seems, about {needed:,} prompts would show it (p < 0.01, power 90 %).")
    return " ".join(words)
