"""The command: evaluate a teacher or an endpoint by a plan, compare two evaluations, ask the gate.

    python -m prsm.teachers.evaluation.main --teacher FOLDER --plan PLAN.toml --out FILE
    python -m prsm.teachers.evaluation.main --endpoint URL --model NAME --plan PLAN.toml --out FILE
    python -m prsm.teachers.evaluation.main compare CANDIDATE.json LIVE.json
    python -m prsm.teachers.evaluation.main gate CANDIDATE.json [LIVE.json] [--policy FILE]

Exit codes: 0 done (a gate: promote), 1 refused or failed (a comparison: some task is certainly worse), 2 wrong usage,
130 interrupted; the same command goes on.
"""

import argparse
import hashlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from prsm.core.errors import ConfigError, PrsmError
from prsm.teachers.evaluation.comparison import compare
from prsm.teachers.evaluation.endpoint_learner import Endpoint, EndpointLearner
from prsm.teachers.evaluation.gate import GatePolicy, GateRecord, judge
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.outcomes import Evaluation, encode, read_evaluation, scores
from prsm.teachers.evaluation.plan import read_plan, read_toml
from prsm.teachers.evaluation.questions import Find, questions
from prsm.teachers.evaluation.tables import comparison_table, decision_table, evaluation_table
from prsm.teachers.seams import Learner, Task

DONE, FAILED, INTERRUPTED = 0, 1, 130
TASKS = "prsm.teachers.tasks.registry:task"
"""Where tasks are found by name, read only where a plan names one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; says on stderr what went wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"compare": _compare, "gate": _gate}
    try:
        return commands[given[0]](given[1:]) if given and given[0] in commands else _evaluate(given)
    except PrsmError as error:
        print(error, file=sys.stderr)
        return FAILED


def _evaluate(given: Sequence[str]) -> int:
    options = _evaluation_options(given)
    plan = read_plan(options.plan)
    asked = questions(plan, _finder(options.tasks, options.data), options.data)
    with _subject(options) as subject, _interruptible() as stop, _progress() as progress:
        found = evaluate(
            subject.learner,
            plan,
            asked,
            options.out.with_suffix(".outcomes.jsonl"),
            version=subject.version,
            batch=options.batch,
            size_bytes=subject.size_bytes,
            progress=progress,
            cancelled=lambda: bool(stop),
        )
        if plan.standard and len(found.outcomes) == found.expected:
            found = _with_standard(found, subject, options.data)
    options.out.write_bytes(encode(found))
    Console().print(evaluation_table(found))
    if stop and not found.is_whole:
        return INTERRUPTED
    return DONE if found.is_whole else FAILED


def _evaluation_options(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluation", description="Evaluate a teacher or an endpoint by a plan.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--teacher", type=Path, help="a teacher's folder")
    who.add_argument("--endpoint", help="an OpenAI-compatible address, as https://HOST/v1; its key in PRSM_API_KEY")
    parser.add_argument("--model", help="what the endpoint calls it")
    parser.add_argument("--version", help="of the model behind an endpoint; else its name")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the evaluation; its outcomes are kept beside it")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PRSM_DATA", ".")), help="where files are")
    parser.add_argument("--tasks", default=TASKS, help="MODULE:NAME of a function of a task's name and the data folder")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--at-once", type=int, default=8, help="questions at once to an endpoint")
    parser.add_argument("--batch", type=int, default=256, help="questions between two writings")
    options = parser.parse_args(given)
    if options.endpoint and not options.model:
        parser.error("--endpoint takes --model")
    return options


def _compare(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="evaluation compare", description="Two evaluations on the same prompts.")
    parser.add_argument("candidate", type=Path)
    parser.add_argument("live", type=Path)
    options = parser.parse_args(given)
    candidate, live = read_evaluation(options.candidate), read_evaluation(options.live)
    found = compare(candidate, live)
    if not found.overall.prompts:
        raise ConfigError("The two evaluations have no prompt in common.")
    Console().print(comparison_table(found, compare(candidate, live, safety=True)))
    return FAILED if found.fallen() else DONE


def _gate(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="evaluation gate", description="Whether a candidate may replace the live one."
    )
    parser.add_argument("candidate", type=Path)
    parser.add_argument("live", type=Path, nargs="?", help="none for a first version; the policy then has first_share")
    parser.add_argument("--policy", type=Path, help="TOML; else the project's rule")
    parser.add_argument("--out", type=Path, help="where the decision is written as JSON")
    options = parser.parse_args(given)
    policy = read_toml(options.policy, GatePolicy) if options.policy else GatePolicy()
    live = read_evaluation(options.live) if options.live else None
    decision = judge(read_evaluation(options.candidate), live, policy)
    if options.out:
        options.out.write_bytes(encode(GateRecord(decision=decision)))
    Console().print(decision_table(decision))
    return DONE if decision.promote else FAILED


@dataclass(frozen=True, slots=True)
class _Subject:
    """``network`` gives likelihoods to standard tasks, where the learner is one here."""

    learner: Learner
    version: str
    size_bytes: int | None = None
    network: Any = None


def _with_standard(found: Evaluation, subject: "_Subject", data: Path) -> Evaluation:
    try:
        # lm-eval is in the extra `train`, and takes seconds to import.
        from prsm.teachers.evaluation.standard import LearnerLM, NetworkLM, standard_outcomes
    except ModuleNotFoundError as error:
        raise ConfigError("Standard tasks need lm-eval here.", remedy="pip install 'prsm[train]'") from error
    model = LearnerLM(subject.learner) if subject.network is None else NetworkLM(subject.network, subject.learner)
    outcomes = (*found.outcomes, *standard_outcomes(model, found.plan.standard, data))
    return replace(found, outcomes=outcomes, scores=scores(outcomes), expected=len(outcomes))


@contextmanager
def _subject(options: argparse.Namespace) -> Generator[_Subject]:
    if options.teacher:
        yield _teacher(options.teacher, options.max_tokens)
        return
    key = os.environ.get("PRSM_API_KEY", "")
    endpoint = Endpoint(
        base_url=options.endpoint,
        model=options.model,
        api_key=key,
        max_tokens=options.max_tokens,
        at_once=options.at_once,
    )
    with EndpointLearner(endpoint) as learner:
        yield _Subject(learner, options.version or options.model)


def _teacher(folder: Path, max_tokens: int) -> _Subject:
    try:
        # torch is in the extra `train`; endpoints are evaluated without it.
        from prsm.teachers.evaluation.network_learner import NetworkLearner, load_network
    except ModuleNotFoundError as error:
        raise ConfigError("A teacher's folder needs torch here.", remedy="pip install 'prsm[train]'") from error
    network = load_network(folder)
    weights = (folder / "model.safetensors").read_bytes()
    version = hashlib.sha256(weights).hexdigest()[:12]
    learner = cast("Learner", NetworkLearner(network, max_tokens=max_tokens))
    return _Subject(learner, version, len(weights), network)


def _finder(named: str, data: Path) -> Find:
    module, _, name = named.partition(":")

    def find(task: str) -> Task:
        try:
            return getattr(importlib.import_module(module), name)(task, data)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{named} is no function that gives tasks: {error}.", param="--tasks") from error

    return find


@contextmanager
def _interruptible() -> Generator[list[int]]:
    """The first interruption fills the list, so that what is under way is kept; the second ends at once."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _frame: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    bar = Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    with bar:
        row = bar.add_task("answers")
        yield lambda done, total: bar.update(row, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
