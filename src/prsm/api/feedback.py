"""Feedback on answers, and what the node has learnt of its models.

Who asked says how good an answer was, by the id that any SDK shows; admins read what was said; all may see what is
thought of the models. A comment is stored for the operator, and never logged.
"""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from prsm.agents.learning.feedback import MAX_COMMENT_CHARS, parse_request_id
from prsm.agents.learning.outcomes import Reason
from prsm.api.door import Door
from prsm.core.identity import ADMIN, CHAT, READ, ApiKey
from prsm.node import Node
from prsm.tokenomics.enrolment import account_of

_RATINGS = {"good": 1.0, "bad": 0.0}


class Word(BaseModel):
    """What a caller says of one answer: a rating, or a score from 0 (bad) to 1 (good)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str = Field(
        min_length=1,
        max_length=100,
        description="The response's id (chatcmpl-..., resp_..., msg_...), or its x-request-id header.",
    )
    rating: Literal["good", "bad"] | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    reason: Annotated[Reason | None, Field(strict=False)] = None
    comment: str = Field(default="", max_length=MAX_COMMENT_CHARS, pattern=r"^[^\x00]*$")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.rating is None) == (self.score is None):
            raise ValueError("give either rating or score")
        return self

    @property
    def value(self) -> float:
        """0 (bad) to 1 (good)."""
        return _RATINGS[self.rating] if self.rating else self.score or 0.0


class TakenWord(BaseModel):
    """What is stored now of a request; ``model`` gave the answer."""

    request_id: UUID
    model: str
    score: float
    reason: Reason | None


class GivenWord(TakenWord):
    """Feedback as admins see it."""

    principal_id: UUID
    comment: str
    created_at: datetime
    updated_at: datetime


class ClusterQuality(BaseModel):
    """A model in one domain cluster: its ability there in log-odds, more or less ``margin`` (95 %)."""

    cluster: int
    ability: float
    margin: float


class ModelQuality(BaseModel):
    """What is thought of a model: its chance to answer an average prompt well, and its ability in log-odds.

    The low and high ends, and ``margin`` to either side, hold 95 %. ``scores`` counts the evaluations it started from,
    ``outcomes`` what was learnt from since; ``evidence`` is the precision of that, as far as it is not forgotten.
    """

    model: str
    chance: float
    chance_low: float
    chance_high: float
    ability: float
    margin: float
    scores: int
    outcomes: int
    evidence: float
    clusters: list[ClusterQuality]


class Quality(BaseModel):
    """``version`` counts the fitted states; ``learning`` is whether the node learns from outcomes at all."""

    version: int
    learning: bool
    models: list[ModelQuality]


def feedback_route(node: Node, door: Door) -> APIRouter:
    """``POST /v1/feedback``, beside the routes that ask."""
    router = APIRouter()

    @router.post("/feedback", tags=["quality"], summary="Say how good an answer was; saying it again replaces it.")
    async def give(word: Word, caller: Annotated[ApiKey, door.of(CHAT)]) -> TakenWord:
        request_id = parse_request_id(word.request_id)
        account = account_of(caller.principal_id)
        model = await node.learning.feedback.give(
            request_id, caller.principal_id, account, word.value, word.reason, word.comment
        )
        return TakenWord(request_id=request_id, model=model, score=word.value, reason=word.reason)

    return router


def quality_routes(node: Node, door: Door) -> APIRouter:
    """What was said and learnt, under ``/node/v1``."""
    router = APIRouter()

    @router.get("/feedback", tags=["quality"], summary="All feedback, on the newest requests first; by the last id.")
    async def list_feedback(
        caller: Annotated[ApiKey, door.of(ADMIN)],
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: UUID | None = None,
    ) -> list[GivenWord]:
        await node.audit.seen(caller.principal_id, "feedback and comments")
        found = await node.learning.feedback.newest(limit, before)
        return [GivenWord.model_validate(each, from_attributes=True) for each in found]

    @router.get("/quality", tags=["quality"], summary="What is thought of each model, from scores and outcomes.")
    async def quality(_caller: Annotated[ApiKey, door.of(READ)]) -> Quality:
        learning = node.learning
        models = [ModelQuality.model_validate(each, from_attributes=True) for each in learning.board.standings()]
        return Quality(version=learning.version, learning=learning.enabled, models=models)

    return router
