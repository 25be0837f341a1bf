"""What a caller is told when no model can answer: which condition took away how many, and what to change. Pure."""

from typing import Final

import numpy as np

from prsm.agents.call import Target
from prsm.agents.routers.policy import AIMS, FIELD, Filter
from prsm.agents.routers.question import Question
from prsm.agents.routers.roster import Columns, Roster, versions_of
from prsm.agents.routers.sifting import removed, would_pass_without
from prsm.core.errors import InvalidRequest, Kind, PrsmError

UNKNOWN: Final = "model_not_found"
ADD_MODEL = "Add one: prsm models add --help."


def unknown_name(models: Roster, asked: str) -> PrsmError:
    """Nothing has this name."""
    remedy = f"GET /v1/models lists them. {ADD_MODEL}"
    if asked.startswith("auto:"):
        remedy = f"The node chooses for {', '.join(AIMS)}."
    elif served := versions_of(models, asked):
        remedy = f"Its versions here: {', '.join(served[:10])}."
    return PrsmError(
        f"There is no model {asked[:200]!r} on this node.",
        kind=Kind.NOT_FOUND,
        code=UNKNOWN,
        remedy=remedy,
        param="model",
    )


def no_estimate(*, known: bool) -> PrsmError:
    """A limit on quality where quality is not estimated: ``known`` is whether this node estimates it at all."""
    what = "is for questions in text" if known else "needs an estimate of quality, which this node does not make"
    return InvalidRequest(
        f"`{FIELD}.min_quality` {what}.",
        code="no_quality_estimate",
        remedy="Ask without it.",
        param=f"{FIELD}.min_quality",
    )


def nobody_left(models: Roster, asked: Columns, steps: list[Filter], question: Question, named: str) -> PrsmError:
    """No instance in question is left after ``steps``. ``named`` is what the caller named, empty for auto."""
    left = len(asked.row)
    blamed = steps[-1]
    for step, gone in removed(steps):
        left -= gone
        if left == 0:
            blamed = step
            break
    if _of_policy(blamed):
        return _policy_too_narrow(steps)
    if blamed.name == "context":
        return _no_room(models, asked, steps, question)
    if named and blamed.name == "release":
        return _not_offered(named)
    if named:
        return not_able(models.targets[int(asked.row[0])], named, question)
    return _nobody(models, asked, steps, blamed, question)


def _nobody(models: Roster, asked: Columns, steps: list[Filter], blamed: Filter, question: Question) -> PrsmError:
    if blamed.name == "domain":
        able = next(step for step in steps if step.name == "capabilities").keeps
        present: list[int] = asked.domain[able].tolist()
        found = sorted({models.domains[each] for each in present} - {""})
        message = f"The models on this node answer only questions of {', '.join(found)}, and this is none."
    else:
        message = f"No model on this node can do what was asked ({', '.join(sorted(question.needs))})."
    return PrsmError(message, kind=Kind.UNPROCESSABLE, code="no_able_model", remedy=ADD_MODEL, param="model")


def _not_offered(named: str) -> PrsmError:
    return PrsmError(
        f"No version of {named[:200]} is offered to all.",
        kind=Kind.NOT_FOUND,
        code="model_not_offered",
        remedy=f"Promote one (prsm models promote), or name {named[:200]}@candidate.",
        param="model",
    )


def not_able(target: Target, named: str, question: Question) -> PrsmError:
    """What the caller named lacks a capability; ``target`` is (the first of) what that means."""
    missing = ", ".join(sorted(question.needs - target.capabilities))
    return PrsmError(
        f"The model {named[:200]} cannot do what was asked ({missing}).",
        kind=Kind.INVALID,
        code="model_not_able",
        remedy="Name another model, or 'auto'.",
        param="model",
    )


def _no_room(models: Roster, asked: Columns, steps: list[Filter], question: Question) -> PrsmError:
    alive = asked.context >= 0
    for step in steps:
        if step.name == "context":
            break
        alive = alive & step.keeps
    columns = asked.take(alive.nonzero()[0])
    return no_room_in(models.targets[int(columns.row[int(columns.context.argmax())])], question)


def no_room_in(largest: Target, question: Question) -> PrsmError:
    """The question is longer than what even ``largest`` takes in."""
    return PrsmError(
        f"The question has at least {question.least_tokens} tokens, more than {largest.name} takes in "
        f"({largest.context_tokens}).",
        kind=Kind.INVALID,
        code="context_length_exceeded",
        remedy=f"Shorten it, or name a model with a larger context. {ADD_MODEL}",
        param="model",
    )


def _policy_too_narrow(steps: list[Filter]) -> PrsmError:
    able = np.logical_and.reduce([step.keeps for step in steps if not _of_policy(step)])
    taken = [(step, int(np.count_nonzero(able & ~step.keeps))) for step in steps if _of_policy(step)]
    ours = [(step, gone) for step, gone in taken if gone]
    told = ", ".join(f"{step.name} forbids {gone}" for step, gone in ours)
    easiest = max((step for step, _ in ours), key=lambda step: would_pass_without(steps, step))
    saved = would_pass_without(steps, easiest)
    if saved:
        remedy = f"Relax {easiest.name}: {saved} would be left without it. {easiest.relax()}"
    else:
        hints = " ".join(f"{step.name}: {told}" for step, _ in ours if (told := step.relax()))
        remedy = f"Relax several: no single one of them is the cause. {hints}"
    return PrsmError(
        f"No model is within the policy: of {np.count_nonzero(able)} able models {told}; none is left.",
        kind=Kind.UNPROCESSABLE,
        code="policy_too_narrow",
        remedy=remedy.strip(),
        param=easiest.name,
    )


def _of_policy(step: Filter) -> bool:
    return step.name.startswith(f"{FIELD}.")
