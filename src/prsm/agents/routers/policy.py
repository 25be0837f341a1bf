"""What a caller asks of whoever answers: the aim of ``auto`` and the limits of a policy. Pure data and its filters.

A limit is never bent: what a policy forbids is not asked, also where the caller names a model, and a policy that
leaves nobody is refused. What is not known of an instance (its region, its licence) does not satisfy a limit on it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from prsm.agents.routers.roster import Columns, Floats, Roster, Rows
from prsm.core.money import MAX_AMOUNT_MICRO

AUTO: Final = "auto"
FIELD: Final = "prsm"
"""The object of a request that holds the policy."""
MAX_NAMES: Final = 32

Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT_MICRO)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Names = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=MAX_NAMES)]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Aim:
    """How ``auto`` trades: what a good answer, and a second less to wait, is worth beside what ``auto`` says.

    With ``specialists`` first, a specialist in its domain goes before all others; else it competes as one who is
    certain to answer well.
    """

    name: str
    answer: float
    second: float
    specialists: bool = True


BALANCED: Final = Aim(AUTO, 1.0, 1.0)
AIMS: Final = {
    aim.name: aim
    for aim in (
        BALANCED,
        Aim("auto:cheap", 0.1, 1.0, specialists=False),
        Aim("auto:best", 100.0, 1.0),
        Aim("auto:fast", 1.0, 100.0, specialists=False),
    )
}
"""By the name that a caller gives as ``model``."""


class Policy(Struct, frozen=True, kw_only=True):
    """What the caller allows. Prices are micro-FTNS per million tokens; an empty list is no limit.

    ``max_expected_micro`` bounds the expected price of the request, ``min_quality`` the chance of a good answer.
    ``answer_value_micro`` is what a good answer to it is worth to the caller: a dearer model is chosen while it costs
    less than the chance it adds is worth. ``regions`` hold also for what is inside them: ``eu`` for ``eu-west-1``.
    """

    max_input_price_micro: Amount | None = None
    max_output_price_micro: Amount | None = None
    max_expected_micro: Amount | None = None
    min_quality: Fraction | None = None
    answer_value_micro: Amount | None = None
    regions: Names = ()
    licences: Names = ()
    allow_providers: Names = ()
    deny_providers: Names = ()
    capabilities: Names = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition over the instances in question: its name, whom it keeps, how one who fails it is told of it.

    ``relax`` says what would let more through, nothing where nothing can; only who is refused asks for it.
    """

    name: str
    keeps: Flags
    why_not: str
    relax: Callable[[], str] = str


def filters(policy: Policy, models: Roster, asked: Columns, cost_micro: Callable[[], Floats]) -> Iterator[Filter]:
    """What ``policy`` keeps of the instances ``asked``, a filter for each limit that it sets; all but min_quality."""
    for limit, column, side in (
        (policy.max_input_price_micro, asked.input_price, "input"),
        (policy.max_output_price_micro, asked.output_price, "output"),
    ):
        if limit is not None:
            yield _at_most(f"max_{side}_price_micro", limit, column, f"price of {side}, micro-FTNS per million tokens")
    if policy.max_expected_micro is not None:
        yield _at_most("max_expected_micro", policy.max_expected_micro, cost_micro(), "expected price, micro-FTNS")
    if policy.regions:
        inside = [_inside(region, policy.regions) for region in models.regions]
        yield _one_of("regions", _picked(inside, asked.region), models.regions)
    if policy.licences:
        wanted = {licence.casefold() for licence in policy.licences}
        known = [licence.casefold() in wanted for licence in models.licences]
        yield _one_of("licences", _picked(known, asked.licence), models.licences)
    if policy.allow_providers:
        known = [provider in policy.allow_providers for provider in models.providers]
        yield _one_of("allow_providers", _picked(known, asked.provider), models.providers)
    if policy.deny_providers:
        allowed = [provider not in policy.deny_providers for provider in models.providers]
        yield Filter(
            f"{FIELD}.deny_providers", _picked(allowed, asked.provider), "its provider is denied", lambda: "Deny fewer."
        )
    if policy.capabilities:
        bits = models.bits(policy.capabilities)
        keeps = np.zeros(len(asked.able), np.bool_) if bits is None else (asked.able & bits) == bits
        wanted_text = ", ".join(sorted(set(policy.capabilities)))
        yield Filter(f"{FIELD}.capabilities", keeps, f"it cannot {wanted_text}", lambda: "Ask for fewer.")


def quality_filter(least: float, chance: npt.NDArray[np.float64]) -> Filter:
    """Who answers well with at least the chance ``least``."""

    def relax() -> str:
        return f"The highest chance here is {np.floor(chance.max(initial=0.0) * 1000) / 1000:g}."

    return Filter(f"{FIELD}.min_quality", chance >= least, f"its chance of a good answer is below {least:g}", relax)


def _at_most(name: str, limit: int, values: npt.NDArray[np.float64], what: str) -> Filter:
    def relax() -> str:
        return f"The lowest is {int(np.ceil(values.min(initial=np.inf))) if len(values) else 0}."

    return Filter(f"{FIELD}.{name}", values <= limit, f"above the limit of {limit} ({what})", relax)


def _one_of(name: str, keeps: Flags, known: Sequence[str]) -> Filter:
    def relax() -> str:
        named = sorted(filter(None, known))
        shown = ", ".join(named[:10]) + (", ..." if len(named) > 10 else "")
        return f"Known here: {shown}." if shown else "None of the models here says."

    return Filter(f"{FIELD}.{name}", keeps, "not among those allowed", relax)


def _picked(allowed: Sequence[bool], column: Rows) -> Flags:
    """What is said of each name, for each row."""
    return np.array(allowed, np.bool_).take(column)


def _inside(region: str, wanted: Sequence[str]) -> bool:
    region = region.casefold()
    return bool(region) and any(region == each or region.startswith(f"{each}-") for each in map(str.casefold, wanted))
