"""What is done about what detectors find: rules from assessments to a verdict. Pure; nothing is detected here.

Policies only add up: of the rules of node, key and model every one that is met counts, so that a key's or a model's
policy makes the node's stricter and never looser.
"""

import hashlib
from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.safety.seams import Assessment, Category, Span

MAX_RULES: Final = 200


class Action(IntEnum):
    """What is done, from the mildest to the strictest; ``REVIEW`` lets through and puts before a person,
    ``ESCALATE`` blocks, puts before a person and counts heavily against the caller.
    """

    ALLOW = 0
    ANNOTATE = 1
    REDACT = 2
    REVIEW = 3
    BLOCK = 4
    ESCALATE = 5


class Direction(StrEnum):
    """Whether a text goes to a model or comes from one."""

    INPUT = "input"
    OUTPUT = "output"


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """A category whose probability reaches ``threshold`` is met with ``action``."""

    category: Category
    action: Literal["annotate", "redact", "review", "block", "escalate"]
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5
    direction: Literal["input", "output", "both"] = "both"


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """Rules. At most ``stream_lag_chars`` of a stream are shown before they were looked at; 0: none."""

    rules: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)]
    stream_lag_chars: Annotated[int, Meta(ge=0, le=4096)] = 256


class Finding(Struct, frozen=True):
    """One category that was found, its highest probability over all texts, and the strictest action it meets."""

    category: Category
    score: float
    action: Action


class Verdict(Struct, frozen=True):
    """What is done about some texts; ``cuts`` are the spans to take out of each, empty where there are none."""

    action: Action = Action.ALLOW
    findings: tuple[Finding, ...] = ()
    cuts: tuple[tuple[Span, ...], ...] = ()

    @property
    def blocked(self) -> bool:
        """Whether the texts may not pass."""
        return self.action >= Action.BLOCK

    @property
    def categories(self) -> list[str]:
        """What was found, by name."""
        return sorted(finding.category.value for finding in self.findings)


CLEAR: Final = Verdict()


class Blocked(PrsmError):
    """A policy lets the texts not pass."""

    kind = Kind.FORBIDDEN
    code = "content_blocked"


def judge(policies: Sequence[Policy], assessments: Sequence[Assessment], direction: Direction) -> Verdict:
    """The verdict of all ``policies`` together on texts that were assessed one by one.

    What is to be redacted but could not be told apart by spans is blocked.
    """
    rules = [
        (rule, Action[rule.action.upper()])
        for policy in policies
        for rule in policy.rules
        if rule.direction in ("both", direction)
    ]
    found: dict[Category, Finding] = {}
    cuts: list[tuple[Span, ...]] = []
    for assessment in assessments:
        cut: set[Category] = set()
        for rule, action in rules:
            score = assessment.scores.get(rule.category, 0.0)
            if score < rule.threshold:
                continue
            if action is Action.REDACT:
                cut.add(rule.category)
                if not any(span.category is rule.category for span in assessment.spans):
                    action = Action.BLOCK
            known = found.get(rule.category)
            score, action = (max(score, known.score), max(action, known.action)) if known else (score, action)
            found[rule.category] = Finding(rule.category, score, action)
        cuts.append(tuple(span for span in assessment.spans if span.category in cut))
    if not found:
        return CLEAR
    return Verdict(max(one.action for one in found.values()), tuple(found.values()), tuple(cuts) if any(cuts) else ())


def joined(one: Verdict, other: Verdict) -> Verdict:
    """What both found, as one; without cuts, which are of one's own texts."""
    found = {finding.category: finding for finding in one.findings}
    for new in other.findings:
        known = found.get(new.category, new)
        found[new.category] = Finding(new.category, max(known.score, new.score), max(known.action, new.action))
    return Verdict(max(one.action, other.action), tuple(found.values())) if found else CLEAR


def beyond(known: Verdict, found: Verdict) -> Verdict:
    """What of ``found`` is not ``known``, or met a stricter action; without cuts."""
    met = {finding.category: finding.action for finding in known.findings}
    new = tuple(one for one in found.findings if one.action > met.get(one.category, Action.ALLOW))
    return Verdict(max(one.action for one in new), new) if new else CLEAR


def redacted(text: str, cuts: Iterable[Span]) -> str:
    """``text`` with each span replaced by its kind in brackets; spans that overlap go as one, of the first's kind."""
    parts: list[str] = []
    at = 0
    for span in sorted(cuts, key=lambda span: (span.start, -span.end)):
        if span.start >= at:
            parts += text[at : span.start], f"[{span.kind}]"
        at = max(at, span.end)
    return "".join([*parts, text[at:]])


def stream_lag_chars(policies: Iterable[Policy]) -> int:
    """How much of a stream may be shown before it was looked at."""
    return min((policy.stream_lag_chars for policy in policies), default=0)


def redacts(policies: Iterable[Policy], direction: Direction) -> bool:
    """Whether some rule cuts something out of texts of this direction."""
    return any(
        rule.action == "redact" and rule.direction in ("both", direction)
        for policy in policies
        for rule in policy.rules
    )


def digest(policies: Sequence[Policy]) -> str:
    """SHA-256, lower-case hex, of the policies as they were applied: what a receipt names."""
    return hashlib.sha256(msgspec.json.encode(list(policies), order="sorted")).hexdigest()


def refusal(verdict: Verdict, direction: Direction) -> Blocked:
    """The error that tells a caller what was blocked and for what."""
    what = "request" if direction is Direction.INPUT else "model's answer"
    met = sorted(finding.category.value for finding in verdict.findings if finding.action >= Action.BLOCK)
    return Blocked(
        f"The {what} was blocked by this node's policy: {', '.join(met)}.",
        code="content_blocked" if direction is Direction.INPUT else "answer_blocked",
        remedy="Word it otherwise; if it is harmless, appeal with the request's id: prsm safety appeal REQUEST_ID.",
    )


def read_policy(document: bytes) -> Policy:
    """A policy from its JSON. Raises InvalidRequest that says where it is wrong."""
    try:
        return msgspec.json.decode(document, type=Policy)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The policy cannot be used: {error}.", param="policy") from error


def _rules(action: str, threshold: float, *categories: Category, direction: str = "both") -> tuple[Rule, ...]:
    return tuple(
        msgspec.convert(
            {"category": category, "action": action, "threshold": threshold, "direction": direction}, type=Rule
        )
        for category in categories
    )


_NEVER: Final = _rules("escalate", 0.5, Category.BANNED, Category.SEXUAL_MINORS)
_SPOKEN: Final = (Category.HATE, Category.SEXUAL, Category.VIOLENCE, Category.SELF_HARM, Category.ILLICIT)
# By what the card of the content model says of each category: harassment and the protection of minors are found late,
# a forbidden form of personal data for certain, a name likely.
_NOTED: Final = (
    *_rules("annotate", 0.7, *_SPOKEN),
    *_rules("annotate", 0.5, Category.JAILBREAK, Category.SECRETS),
    *_rules("annotate", 0.3, Category.HARASSMENT),
    *_rules("annotate", 0.2, Category.SEXUAL_MINORS),
    *_rules("annotate", 0.9, Category.PERSONAL_DATA),
)

PRESETS: Final[dict[str, Policy]] = {
    "observe": Policy((*_NEVER, *_NOTED)),
    "standard": Policy(
        (
            *_NEVER,
            *_NOTED,
            *_rules("review", 0.3, Category.SEXUAL_MINORS),
            *_rules("review", 0.95, Category.JAILBREAK, direction="input"),
            *_rules("block", 0.98, Category.HATE, Category.SEXUAL, direction="output"),
        )
    ),
    "strict": Policy(
        (
            *_NEVER,
            *_NOTED,
            *_rules("block", 0.7, *_SPOKEN, Category.JAILBREAK),
            *_rules("block", 0.4, Category.HARASSMENT),
            *_rules("block", 0.2, Category.SEXUAL_MINORS),
            *_rules("redact", 0.9, Category.PERSONAL_DATA),
            *_rules("redact", 0.5, Category.SECRETS),
        ),
        stream_lag_chars=0,
    ),
}
"""What a node applies until its operator writes a policy of its own, by the name that the setting gives."""
