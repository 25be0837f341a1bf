"""Who of the instances in question may answer: every limit of the request, as flags over columns. Pure.

Each limit is a step that says whom it keeps, so that a refusal can tell which took away how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from prsm.agents.rollouts.assignment import place
from prsm.agents.routers.policy import FIELD, Filter, Flags, filters
from prsm.agents.routers.question import Domains, Question
from prsm.agents.routers.roster import Columns, Floats, Roster
from prsm.core.money import BASIS_POINTS, TOKENS_PER_PRICE


@dataclass(frozen=True, slots=True)
class Sifted:
    """The instances in question and who of them is left after ``steps``.

    ``special`` are specialists whose domain the question is of; ``spare`` answer only when no other instance of their
    model's release does.
    """

    columns: Columns
    alive: Flags
    steps: list[Filter]
    special: Flags | None = None
    spare: Flags | None = None


def sift(models: Roster, asked: Columns, question: Question, domains: Domains | None, *, shared: bool) -> Sifted:
    """Who of ``asked`` may answer, all limits but the one on quality considered.

    ``domains`` None: a specialist may be named. With ``shared`` the releases say whose turn it is.
    """
    steps: list[Filter] = []
    spare = None
    if shared:
        in_share, spare = _shares(models, asked, question)
        steps.append(Filter("release", in_share | spare, "its version is not the one that the model's release offers"))
    steps.append(_able(models, asked, question))
    special = None
    if domains is not None and len(models.domains) > 1:
        fits = _fitting(models, question, domains)
        keeps = fits[asked.domain]
        special = keeps & (asked.domain > 0)
        steps.append(Filter("domain", keeps, "a specialist, and this is no question of its domain"))
    alive = _all(steps, len(asked.row))
    steps.append(_roomy(asked, alive, question))
    if question.policy is not None:
        cost = partial(expected_cost, question, asked.input_price, asked.output_price)
        steps += filters(question.policy, models, asked, cost)
    alive = _all(steps, len(asked.row))
    if question.cap_micro is not None:
        steps.append(_affordable(asked, alive, question, question.cap_micro))
        alive &= steps[-1].keeps
    if special is not None:
        special &= alive
    return Sifted(asked, alive, steps, special if special is not None and special.any() else None, spare)


def expected_cost(question: Question, input_price: Floats, output_price: Floats) -> Floats:
    """What ``question`` is expected to cost at each pair of prices, in micro-FTNS."""
    cost = question.input_tokens * input_price
    cost += question.output_tokens * output_price
    cost /= TOKENS_PER_PRICE
    return cost


def removed(steps: Sequence[Filter]) -> list[tuple[Filter, int]]:
    """Each step with how many it takes away of those that the steps before it left."""
    left, counted = None, list[tuple[Filter, int]]()
    for step in steps:
        now = step.keeps if left is None else left & step.keeps
        before = len(step.keeps) if left is None else int(np.count_nonzero(left))
        counted.append((step, before - int(np.count_nonzero(now))))
        left = now
    return counted


def would_pass_without(steps: Sequence[Filter], one: Filter) -> int:
    """How many would be left if this step were not there."""
    others = [step for step in steps if step is not one]
    return int(np.count_nonzero(_all(others, len(one.keeps))))


def _shares(models: Roster, asked: Columns, question: Question) -> tuple[Flags, Flags]:
    """Whose turn it is by the releases' shares, and what else of what is stable there is."""
    mine = np.full(len(models.models), BASIS_POINTS - 1)
    if question.sticky is not None:
        session = str(question.sticky)
        for model, trial in models.trials:
            mine[model] = place(trial, session)
    share = mine[asked.model]
    in_share = (asked.low <= share) & (share < asked.high)
    return in_share, (asked.high == BASIS_POINTS) & ~in_share


def _able(models: Roster, asked: Columns, question: Question) -> Filter:
    bits = models.bits(question.needs)
    keeps = np.zeros(len(asked.able), np.bool_) if bits is None else (asked.able & bits) == bits
    return Filter("capabilities", keeps, f"it cannot do what is asked ({', '.join(sorted(question.needs))})")


def _fitting(models: Roster, question: Question, domains: Domains) -> Flags:
    """By id of domain: whether the question is of it; anything is of none."""
    fits = [not name or (name in domains and domains[name](question.text)) for name in models.domains]
    return np.array(fits, np.bool_)


def _roomy(asked: Columns, alive: Flags, question: Question) -> Filter:
    """Those whose context holds the question in all likelihood; where there are none, those where it may."""
    keeps = asked.context >= question.most_tokens
    if not (alive & keeps).any():
        keeps = asked.context >= question.least_tokens
    return Filter("context", keeps, f"its context may not hold the question (up to {question.most_tokens} tokens)")


def _affordable(asked: Columns, alive: Flags, question: Question, cap_micro: int) -> Filter:
    """Those whose expected answer the cap pays in the worst case; else those whose shortest; else no limit is set.

    That nobody is payable is found, and said, when the candidates are quoted.
    """
    name, why_not = f"{FIELD}.max_cost_micro", f"the cap of {cap_micro} does not pay for its answer"
    if _dearest_micro(asked, question) <= cap_micro:
        return Filter(name, np.ones(len(alive), np.bool_), why_not)
    read = _ceiled(question.held_input_tokens, asked.input_price)
    for tokens in (max(question.output_tokens, question.choices), question.choices):
        if "chat" not in question.needs:
            tokens = 0
        worst = _ceiled(tokens, asked.output_price)
        worst += read
        if (alive & (worst <= cap_micro)).any():
            return Filter(name, worst <= cap_micro, why_not)
    return Filter(name, np.ones(len(alive), np.bool_), why_not)


def _dearest_micro(asked: Columns, question: Question) -> float:
    """No expected answer costs more, in the worst case."""
    tokens = max(question.output_tokens, question.choices)
    dearest_input, dearest_output = asked.input_price.max(initial=0.0), asked.output_price.max(initial=0.0)
    read, written = question.held_input_tokens * dearest_input, tokens * dearest_output
    return float(read + written) / TOKENS_PER_PRICE + 2  # each is rounded up


def _ceiled(tokens: int, price: Floats) -> Floats:
    """What ``tokens`` cost at each price, rounded up."""
    cost = tokens * price
    cost /= TOKENS_PER_PRICE
    return np.ceil(cost, out=cost)


def _all(steps: Sequence[Filter], count: int) -> Flags:
    kept = np.ones(count, np.bool_)
    for step in steps:
        kept &= step.keeps
    return kept
