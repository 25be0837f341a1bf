"""A teacher's model card (``README.md`` of its folder), from what is on record: the run, the evaluation, the gate.

Pure, and nothing in it is typed by hand but purpose and limits. Front matter is the Hugging Face hub's, so that its
tools read the card too. What is not known says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCardData
from msgspec import Struct

from prsm.teachers.evaluation.gate import GateRecord
from prsm.teachers.evaluation.outcomes import Evaluation, Outcome, Score, by_level, by_task, interval
from prsm.teachers.evaluation.plan import Plan
from prsm.teachers.teacher_model import ExamScore

NOT_RECORDED: Final = "not recorded"


class DataSource(Struct, frozen=True, kw_only=True):
    """What a teacher was trained on: a name, under which licence, and what it is in a sentence."""

    name: str
    licence: str
    about: str = ""
    sha256: str = ""


class RunFacts(Struct, frozen=True, kw_only=True):
    """What a run's ``run.json`` tells; ``command`` and ``seeds`` make it again.

    ``parents`` are versions it began from, ``teachers`` those whose answers it learnt.
    """

    recipe: str
    command: str
    seeds: tuple[int, ...]
    code_revision: str = NOT_RECORDED
    data: tuple[DataSource, ...] = ()
    parents: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    settings: Mapping[str, Any] = {}
    cpu_minutes: float | None = None
    machine: str = NOT_RECORDED
    date: str = NOT_RECORDED


class CardFacts(Struct, frozen=True, kw_only=True):
    """What only its makers can say of a teacher. ``licence`` is an SPDX name; ``limits`` are plain sentences."""

    name: str
    version: str
    purpose: str
    licence: str
    language: str = "en"
    tags: tuple[str, ...] = ()
    base_model: str | None = None
    parameters: int | None = None
    sha256: str = NOT_RECORDED
    limits: tuple[str, ...] = ()


def card(facts: CardFacts, run: RunFacts, found: Evaluation, gate: GateRecord | None = None) -> str:
    """The card's text; the same facts give the same bytes. The evaluation must be of this version (ValueError)."""
    if found.learner != facts.version:
        raise ValueError(f"the evaluation is of {found.learner}, the card of {facts.version}")
    body = "\n".join(
        [
            f"# {facts.name}",
            "",
            facts.purpose,
            "",
            *_what(facts, found),
            *_data(run),
            *_results(found),
            *_gate(gate),
            *_limits(facts, found),
            *_made(run),
        ]
    )
    front: Any = _front(facts, run, found)  # its types say less than it does
    return f"---\n{front.to_yaml()}\n---\n\n{body}"


def exam_scores(found: Evaluation) -> tuple[ExamScore, ...]:
    """What ``teacher.json`` says of an evaluation: right answers by task, safety left out."""
    return tuple(
        ExamScore(evaluation=score.task, right=score.right, items=score.count)
        for score in by_task(found.scores).values()
        if not found.plan.is_safety(score.task)
    )


def _front(facts: CardFacts, run: RunFacts, found: Evaluation) -> ModelCardData:
    return ModelCardData(
        language=facts.language,
        license=facts.licence.lower(),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["prsm", *facts.tags],
        base_model=facts.base_model,
        datasets=[source.name for source in run.data] or None,
        model_name=facts.name,
        eval_results=[_result(score, found.plan) for score in by_task(found.scores).values()],
    )


def _result(score: Score, plan: Plan) -> EvalResult:
    """Right answers of a task; of safety, answers in which nothing forbidden was said."""
    return EvalResult(
        task_type="text-generation",
        dataset_type=score.task,
        dataset_name=score.task,
        dataset_split="held-out",
        metric_type="accuracy",
        metric_name=f"{'clean' if plan.is_safety(score.task) else 'right'} of {score.count}",
        metric_value=round(score.right / score.count, 4),
    )


def _what(facts: CardFacts, found: Evaluation) -> Iterator[str]:
    yield f"- Version: `{facts.version}`. Weights SHA-256: `{facts.sha256}`."
    size = f"{found.size_bytes:,} bytes" if found.size_bytes is not None else NOT_RECORDED
    count = f"{facts.parameters:,}" if facts.parameters is not None else NOT_RECORDED
    yield f"- Parameters: {count}. Size as served: {size}."
    yield f"- Licence: {facts.licence}."
    yield ""


def _data(run: RunFacts) -> Iterator[str]:
    yield "## What it was trained on"
    yield ""
    for source in run.data:
        digest = f" SHA-256 `{source.sha256}`." if source.sha256 else ""
        yield f"- {source.name} ({source.licence}). {source.about}{digest}".rstrip()
    if not run.data:
        yield f"- Data: {NOT_RECORDED}."
    yield "- Prompts whose SHA-256 is 0 mod 20 were kept from training; files named as test sets are not trained on."
    yield ""


def _results(found: Evaluation) -> Iterator[str]:
    greedy, over = "greedy", ""
    if seeds := found.plan.answer_seeds:
        greedy, over = f"sampled with seeds {_listed(seeds)}", " over prompts"
    yield "## Held-out results"
    yield ""
    yield (
        f"Answers were {greedy}; prompts from seed {found.plan.seed}; 95 % Wilson intervals{over}. "
        f"Evaluation `{found.id}`,"
    )
    yield f"{found.ended_at:%Y-%m-%d}{'' if found.is_whole else ', **stopped before its end**'}."
    yield ""
    yield "| task | level | right | share | interval |"
    yield "|---|---|---|---|---|"
    safety, others = (found.of_safety(safety=part) for part in (True, False))
    yield from _rows(others)
    if others:
        yield _row("all", "", others)
    yield ""
    took, cost = found.answer_ms(), found.cost_micro()
    if took is not None:
        paid = f"; all cost {cost:,} micro-FTNS" if cost is not None else ""
        yield f"Median time of an answer: {took:.3g} ms{paid}."
        yield ""
    if safety:
        yield "Prompts that ask for what must not be said, and answers without it:"
        yield ""
        yield "| set | level | clean | share | interval |"
        yield "|---|---|---|---|---|"
        yield from _rows(safety)
        yield ""


def _rows(outcomes: Iterable[Outcome]) -> Iterator[str]:
    yield from (_row(task, str(level), some) for (task, level), some in by_level(outcomes).items())


def _row(task: str, level: str, outcomes: Sequence[Outcome]) -> str:
    right, count = sum(outcome.right for outcome in outcomes), len(outcomes)
    low, high = interval(outcomes)
    return f"| {task} | {level} | {right}/{count} | {right / count:.1%} | {low:.1%} to {high:.1%} |"


def _gate(gate: GateRecord | None) -> Iterator[str]:
    yield "## Gate"
    yield ""
    if gate is None:
        yield "No gate has judged this version."
        yield ""
        return
    decision = gate.decision
    beside = f"beside version `{decision.live_version}`" if decision.live_version else "as a first version"
    yield f"{'Promoted' if decision.promote else '**Not promoted**'}, {beside}:"
    yield ""
    for refusal in decision.refusals:
        yield f"- **Refused, {refusal.name}**: {refusal.words}"
    for criterion in decision.criteria:
        yield f"- {'Holds' if criterion.passed else '**Fails**'}: {criterion.words}"
    if gate.override:
        word = "promoted" if gate.override.promote else "held back"
        yield f"- **Overridden**: {word} by {gate.override.who} on {gate.override.at:%Y-%m-%d}: {gate.override.reason}"
    yield ""


def _limits(facts: CardFacts, found: Evaluation) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield from (f"- {limit}" for limit in facts.limits)
    if not any(found.plan.is_safety(score.task) for score in found.scores):
        yield "- Its safety was not evaluated."
    yield "- The figures are of the tasks above, answered as said there; of anything else they say nothing."
    yield ""


def _made(run: RunFacts) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    yield f"- Recipe: {run.recipe}. Seeds: {_listed(run.seeds) or NOT_RECORDED}. Code revision: `{run.code_revision}`."
    yield f"- Command: `{run.command}`"
    yield f"- Began from: {', '.join(f'`{parent}`' for parent in run.parents) or 'nothing, trained from scratch'}."
    if run.teachers:
        yield f"- Taught by: {', '.join(f'`{teacher}`' for teacher in run.teachers)}."
    minutes = f"{run.cpu_minutes:.1f}" if run.cpu_minutes is not None else NOT_RECORDED
    yield f"- CPU minutes: {minutes}. Machine: {run.machine}. Date: {run.date}."
    if run.settings:
        yield f"- Settings: {', '.join(f'{name} = {value}' for name, value in sorted(run.settings.items()))}."
    yield ""


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
