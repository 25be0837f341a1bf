"""``/v1/moderations`` in OpenAI's shape: what the node's detectors find in texts, and what its policy makes of it.

Free of charge, within the caller's rate. A category that no detector looks for is null, never false.
"""

from typing import Annotated, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.core.clock import uuid7
from prsm.core.errors import Unavailable
from prsm.core.identity import CHAT, ApiKey
from prsm.node import Node
from prsm.safety.policy import Direction, judge
from prsm.safety.seams import Assessment, Category

MAX_INPUTS: Final = 64
_OF_OPENAI: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_ALL: Final = tuple(dict.fromkeys((*_OF_OPENAI, *(category.value for category in Category))))
Text = Annotated[str, Field(max_length=1_000_000)]


class TextPart(BaseModel):
    """A text among several inputs; images are not looked at and so are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ModerationWanted(BaseModel):
    """One text or several; ``model`` is taken as OpenAI's clients send it, the node has one set of detectors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Text | Annotated[list[Text | TextPart], Field(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = Field(default=None, max_length=200)


class Found(BaseModel):
    """Where something stands: characters ``start`` to ``end``, half open."""

    category: str
    kind: str
    start: int
    end: int


class Details(BaseModel):
    """What OpenAI's clients ignore: where spans stand, which rules matched."""

    spans: list[Found]
    rules: list[str]


class Result(BaseModel):
    """What was found in one text; ``flagged`` and ``categories`` are by the policies in force for the caller."""

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]
    category_applied_input_types: dict[str, list[str]]
    prsm: Details


class Moderated(BaseModel):
    """One result for each input, in order."""

    id: str
    model: str = Field(description="The detectors that looked.")
    results: list[Result]


def moderation_route(node: Node, door: Door) -> APIRouter:
    """The route over one node."""
    router = APIRouter(tags=["safety"])
    asker = door.of(CHAT)

    @router.post("/moderations", summary="What the node's detectors find in texts.")
    async def moderate(wanted: ModerationWanted, caller: Annotated[ApiKey, asker]) -> Moderated:
        screening = node.safety.screening
        if screening is None:
            raise Unavailable(
                "This node has its detectors switched off.",
                code="screening_off",
                remedy="Its operator starts them with the setting screening: prsm --set screening=standard up.",
            )
        given = [wanted.input] if isinstance(wanted.input, str) else wanted.input
        assessed = await screening.assess([one if isinstance(one, str) else one.text for one in given])
        policies = node.safety.policies.in_force(caller.id).policies
        results = [_result(one, set(judge(policies, [one], Direction.INPUT).categories)) for one in assessed]
        return Moderated(id=f"modr-{uuid7().hex}", model=screening.name, results=results)

    return router


def _result(found: Assessment, flagged: set[str]) -> Result:
    scores: dict[str, float] = {category.value: score for category, score in found.scores.items()}
    spans = [Found(category=s.category.value, kind=s.kind, start=s.start, end=s.end) for s in found.spans]
    return Result(
        flagged=bool(flagged),
        categories={name: name in flagged if name in scores else None for name in _ALL},
        category_scores={name: scores.get(name) for name in _ALL},
        category_applied_input_types={name: ["text"] if name in scores else [] for name in _ALL},
        prsm=Details(spans=spans, rules=list(found.rules)),
    )
