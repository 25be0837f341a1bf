"""Which model answers: a named model is obeyed, ``auto`` picks by capability, room, domain, health, price and latency.

Pure: what is known of the models comes in, a ranked list of candidates with a reason a person can read goes out.
Nothing able is a refusal that names the command which adds a model, never a guess.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from prsm.agents.call import Target
from prsm.core.errors import Kind, PrsmError
from prsm.core.money import format_ftns
from prsm.tokenomics.quotes import Price, charge_micro

AUTO = "auto"
MAX_CANDIDATES = 3
"""How many models one request may try, the first one included."""
ADD_MODEL = "Add one: prsm models add --help."

Domains = Mapping[str, Callable[[str], bool]]


@dataclass(frozen=True, slots=True)
class Roster:
    """All models that can be asked, by full name and by the part after the provider's name."""

    by_name: MappingProxyType[str, Target]
    by_short_name: MappingProxyType[str, tuple[Target, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """What the choice depends on. ``text`` is the last thing the user said; tokens are estimates.

    ``least_tokens`` and ``most_tokens`` bound what a model has to take in at once, its expected answer included in
    the latter.
    """

    needs: frozenset[str]
    text: str
    input_tokens: int
    output_tokens: int
    least_tokens: int = 0
    most_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """How a model did lately: whether its breaker refuses calls, and its smoothed time to first token (0: unknown)."""

    resting: bool = False
    first_token_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer, and why it stands where it stands."""

    target: Target
    reason: str
    expected_micro: int


def roster(targets: Sequence[Target]) -> Roster:
    """Index targets by their names."""
    short: dict[str, tuple[Target, ...]] = {}
    for target in targets:
        short[target.upstream_name] = (*short.get(target.upstream_name, ()), target)
    return Roster(MappingProxyType({target.name: target for target in targets}), MappingProxyType(short))


def rank(
    asked: str, question: Question, models: Roster, domains: Domains, health: Callable[[str], Health]
) -> list[Candidate]:
    """The candidates, best first, at most MAX_CANDIDATES. Raises PrsmError when no model is able."""
    if asked == AUTO:
        return _rank_auto(question, models, domains, health)
    named = models.by_name.get(asked)
    targets = (named,) if named else models.by_short_name.get(asked, ())
    if not targets:
        raise PrsmError(
            f"There is no model {asked[:200]!r} on this node.",
            kind=Kind.NOT_FOUND,
            code="model_not_found",
            remedy=f"GET /v1/models lists them. {ADD_MODEL}",
            param="model",
        )
    able = [target for target in targets if question.needs <= target.capabilities]
    if not able:
        missing = ", ".join(sorted(question.needs - targets[0].capabilities))
        raise PrsmError(
            f"The model {asked[:200]} cannot do what was asked ({missing}).",
            kind=Kind.INVALID,
            code="model_not_able",
            remedy="Name another model, or 'auto'.",
            param="model",
        )
    ranked = _awake_first(_by_price(_with_room(able, question), question, health), health)
    return [replace(candidate, reason="named by the caller") for candidate in ranked]


def _rank_auto(
    question: Question, models: Roster, domains: Domains, health: Callable[[str], Health]
) -> list[Candidate]:
    able = [target for target in models.by_name.values() if question.needs <= target.capabilities]
    fitting = {
        name for name in {t.domain for t in able if t.domain} if name in domains and domains[name](question.text)
    }
    fitted = [target for target in able if target.domain is None or target.domain in fitting]
    if not fitted:
        raise _nobody(question, able)
    roomy = _with_room(fitted, question)
    priced = _by_price([target for target in roomy if target.domain is None], question, health)
    specialists = [target for target in roomy if target.domain is not None]
    ranked = _awake_first([*_by_price(specialists, question, health), *priced], health)
    return [replace(candidate, reason=_reason(candidate, priced)) for candidate in ranked]


def _with_room(targets: Sequence[Target], question: Question) -> list[Target]:
    """Those whose context holds the question in all likelihood; else those where it may; else PrsmError."""
    likely = [target for target in targets if question.most_tokens <= target.context_tokens]
    found = likely or [target for target in targets if question.least_tokens <= target.context_tokens]
    if not found:
        largest = max(targets, key=lambda target: target.context_tokens)
        raise PrsmError(
            f"The question has at least {question.least_tokens} tokens, more than {largest.name} takes in "
            f"({largest.context_tokens}).",
            kind=Kind.INVALID,
            code="context_length_exceeded",
            remedy=f"Shorten it, or name a model with a larger context. {ADD_MODEL}",
            param="model",
        )
    return found


def _reason(candidate: Candidate, priced: Sequence[Candidate]) -> str:
    if candidate.target.domain:
        return f"specialist for {candidate.target.domain}"
    place = next(place for place, other in enumerate(priced, 1) if other is candidate)
    price = format_ftns(candidate.expected_micro)
    return f"number {place} by expected price of {len(priced)} able models: {price} FTNS"


def _by_price(targets: Sequence[Target], question: Question, health: Callable[[str], Health]) -> list[Candidate]:
    """By expected price, then by time to first token, then by name, so that equals always stand in one order."""
    priced = [Candidate(target, "", _expected_micro(target, question)) for target in targets]
    if len(priced) == 1:
        return priced

    def place(candidate: Candidate) -> tuple[int, float, str]:
        name = candidate.target.name
        return candidate.expected_micro, health(name).first_token_ms, name

    return sorted(priced, key=place)


def _awake_first(ranked: list[Candidate], health: Callable[[str], Health]) -> list[Candidate]:
    """The first MAX_CANDIDATES; a resting model is tried only after all that are awake."""
    if len(ranked) == 1:
        return ranked
    return sorted(ranked, key=lambda candidate: health(candidate.target.name).resting)[:MAX_CANDIDATES]


def _expected_micro(target: Target, question: Question) -> int:
    price = Price(target.input_price_micro, target.output_price_micro)
    return charge_micro(price, question.input_tokens, question.output_tokens)


def _nobody(question: Question, able: Sequence[Target]) -> PrsmError:
    if able:
        domains = ", ".join(sorted({target.domain for target in able if target.domain}))
        message = f"The models on this node answer only questions of {domains}, and this is none."
    else:
        message = f"No model on this node can do what was asked ({', '.join(sorted(question.needs))})."
    return PrsmError(message, kind=Kind.UNPROCESSABLE, code="no_able_model", remedy=ADD_MODEL, param="model")
