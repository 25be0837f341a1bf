"""Publishing what was trained, and the gates in front of its callers, over HTTP. For admins; evidence is for all."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.registry_schemas import Label
from prsm.core.errors import InvalidRequest
from prsm.core.identity import ADMIN, READ, ApiKey
from prsm.core.money import BASIS_POINTS
from prsm.federation.model_registry import MAX_PRICE_MICRO
from prsm.federation.registry.versions import LABEL_PATTERN, Parent, split_reference
from prsm.node import Node, reload_models
from prsm.node.gates import pass_gate
from prsm.node.publishing import Publication, publish
from prsm.teachers.evaluation.gate import GatePolicy
from prsm.teachers.evaluation.outcomes import Evaluation, read_evaluation
from prsm.teachers.runs.evidence_book import KeptDecision, KeptEvaluation
from prsm.tokenomics.enrolment import account_of

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}$"
_Model = Annotated[str, Path(pattern=NAME_PATTERN)]
_Version = Annotated[str, Path(pattern=LABEL_PATTERN)]
_Text = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[\x20-\x7e]+$")]
_Price = Annotated[int, Field(ge=0, le=MAX_PRICE_MICRO, description="Micro-FTNS per million tokens.")]


class ParentNamed(BaseModel):
    """A registered version that this one was made from, and its part of what this one earns its owner."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str = Field(min_length=1, max_length=300, description="MODEL@VERSION, or MODEL for its stable version.")
    share_bps: int = Field(default=0, ge=0, le=BASIS_POINTS)


class NewPublication(BaseModel):
    """What a run made becomes a version of ``model``; its evaluation is what another run found of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: Annotated[UUID, Field(strict=False)]
    evaluation_run: Annotated[UUID, Field(strict=False)]
    model: str = Field(pattern=NAME_PATTERN)
    title: _Text
    purpose: str = Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")
    domain: _Text
    licence: _Text
    questions: list[_Text] = Field(default=[], max_length=200)
    parents: list[ParentNamed] = Field(default=[], max_length=16)
    limits: list[_Text] = Field(default=[], max_length=50)
    input_price_micro: _Price = 20_000_000
    output_price_micro: _Price = 60_000_000


class PublicationShown(BaseModel):
    """The version that was published, a draft; ``instance`` serves it as soon as a gate has passed it."""

    model: str
    version: str
    cid: str
    digest: str
    instance: str


class EvaluationMade(BaseModel):
    """What a run of the kind evaluate found, to be kept of a version that is registered."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: Annotated[UUID, Field(strict=False)]
    model: str = Field(pattern=NAME_PATTERN)


class EvaluationShown(BaseModel):
    """An evaluation that is kept: right answers by task and level; its plan says what was asked."""

    digest: str
    model: str
    version: str
    run_id: UUID | None
    by: str
    at: datetime
    plan: dict[str, Any]
    scores: list[dict[str, Any]]
    answer_ms: float | None
    size_bytes: int | None


class GateAsked(BaseModel):
    """Which version is to become stable, by which policy; ``override_reason`` makes it stable whatever is found."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(pattern=NAME_PATTERN)
    version: Label
    policy: dict[str, Any] = {}
    override_reason: str = Field(default="", max_length=2000, pattern=r"^[^\x00]*$")


class GateShown(BaseModel):
    """What a gate decided, with every criterion in words and figures; ``promoted`` is what holds in the end."""

    number: int
    model: str
    version: str
    against: str
    promoted: bool
    by: str
    at: datetime
    decision: dict[str, Any]
    override: dict[str, Any] | None


def publishing_routes(node: Node, door: Door) -> APIRouter:
    """The routes over one node."""
    router = APIRouter(prefix="/training", tags=["training"])
    admin, reader = door.of(ADMIN), door.of(READ)
    evidence = node.training.evidence

    @router.post("/publications", status_code=201, summary="Publish what a run made, as a draft.")
    async def publish_run(new: NewPublication, caller: Annotated[ApiKey, admin]) -> PublicationShown:
        run = await node.training.book.run(new.run)
        found = await _evaluation_of(node, new.evaluation_run)
        account = account_of(caller.principal_id)
        made = await publish(node, run, found, _publication(node, new), owner=account, by=account)
        node.outbox.hint()
        await reload_models(node)
        version = made.registered.version
        return PublicationShown(
            model=version.model,
            version=version.version,
            cid=version.weights_cid,
            digest=made.registered.digest,
            instance=made.instance,
        )

    @router.post("/evaluations", status_code=201, summary="Keep what an evaluation found of a registered version.")
    async def keep(new: EvaluationMade, caller: Annotated[ApiKey, admin]) -> EvaluationShown:
        found = await _evaluation_of(node, new.run)
        await node.registry.reload()
        if (new.model, found.learner) not in node.registry.catalogue.versions:
            raise InvalidRequest(f"{new.model}@{found.learner} is not registered.", param="model")
        by = account_of(caller.principal_id)
        digest = await evidence.keep_evaluation(new.model, found.learner, found, run_id=new.run, by=by)
        return _shown(await evidence.evaluation(digest))

    @router.get("/evaluations/{model}/{version}", summary="The evaluations of a version, the newest first.")
    async def evaluations(
        model: _Model, version: _Version, _caller: Annotated[ApiKey, reader]
    ) -> list[EvaluationShown]:
        return [_shown(kept) for kept in await evidence.evaluations(model, version)]

    @router.post("/gates", summary="Judge a version against the stable one; it takes its place where it passes.")
    async def gate(asked: GateAsked, caller: Annotated[ApiKey, admin]) -> GateShown:
        try:
            policy = msgspec.convert(asked.policy, GatePolicy)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"The policy cannot be used: {error}.", param="policy") from None
        if 0 < len(asked.override_reason) < 10:
            raise InvalidRequest("A reason to override has at least 10 characters.", param="override_reason")
        by = account_of(caller.principal_id)
        await pass_gate(node, asked.model, asked.version, policy, by=by, override_reason=asked.override_reason)
        return _decided((await evidence.decisions(asked.model, limit=1))[0])

    @router.get("/gates/{model}", summary="What gates decided of a model's versions, the newest first.")
    async def gates(model: _Model, _caller: Annotated[ApiKey, reader]) -> list[GateShown]:
        return [_decided(kept) for kept in await evidence.decisions(model)]

    return router


async def _evaluation_of(node: Node, run_id: UUID) -> Evaluation:
    run = await node.training.book.run(run_id)
    if run.kind != "evaluate" or run.state != "done":
        raise InvalidRequest(f"The run {run_id} is no evaluation that is done.", param="evaluation_run")
    return read_evaluation(node.training.supervisor.folder_of(run_id) / "evaluation.json")


def _publication(node: Node, new: NewPublication) -> Publication:
    return Publication(
        model=new.model,
        title=new.title,
        purpose=new.purpose,
        domain=new.domain,
        licence=new.licence,
        questions=tuple(new.questions),
        parents=tuple(_parent(node, parent) for parent in new.parents),
        input_price_micro=new.input_price_micro,
        output_price_micro=new.output_price_micro,
        limits=tuple(new.limits),
    )


def _parent(node: Node, named: ParentNamed) -> Parent:
    model, label = split_reference(named.version)
    found = node.registry.catalogue.meant(model, label)
    if found is None:
        raise InvalidRequest(f"The parent {named.version} is not registered here.", param="parents")
    return Parent(model, found.version.version, named.share_bps, found.digest)


def _shown(kept: KeptEvaluation) -> EvaluationShown:
    found = kept.evaluation
    return EvaluationShown(
        digest=kept.digest,
        model=kept.model,
        version=kept.version,
        run_id=kept.run_id,
        by=kept.by,
        at=kept.at,
        plan=msgspec.to_builtins(found.plan),
        scores=[msgspec.to_builtins(score) for score in found.scores],
        answer_ms=found.answer_ms(),
        size_bytes=found.size_bytes,
    )


def _decided(kept: KeptDecision) -> GateShown:
    record = kept.record
    return GateShown(
        number=kept.number,
        model=kept.model,
        version=kept.version,
        against=kept.against,
        promoted=record.promoted,
        by=kept.by,
        at=kept.at,
        decision=msgspec.to_builtins(record.decision),
        override=msgspec.to_builtins(record.override) if record.override else None,
    )
