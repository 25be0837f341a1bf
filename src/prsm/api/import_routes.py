"""Importing a model over HTTP: one request, answered with how far it is, line by line, and what was registered."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from prsm.api.door import Door
from prsm.api.registry_schemas import VersionShown, shown_version
from prsm.api.schemas import Refusal
from prsm.api.storage_keeping import owner_of
from prsm.api.wire.errors import openai_error_object
from prsm.core.errors import PrsmError
from prsm.core.identity import ADMIN, ApiKey
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.versions import LABEL_PATTERN, MAX_TOKENS, MODEL_PATTERN
from prsm.node import Node, reload_models
from prsm.node.import_facts import Wish
from prsm.node.model_import import Imported, Step, import_model
from prsm.tokenomics.enrolment import account_of

_NDJSON = "application/x-ndjson"
_MAX_TOLD = 100


class NewImport(BaseModel):
    """What is to be imported. Whatever is left out is taken from the source, where that says it."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1, max_length=400, description="hf:ORG/NAME, hf:ORG/NAME@REVISION, or the CID of a folder or file."
    )
    model: str | None = Field(None, pattern=MODEL_PATTERN, description="Default: the name on the hub.")
    version: str | None = Field(None, pattern=LABEL_PATTERN, description="Default: after its commit, or its CID.")
    capabilities: list[Literal["chat", "tools", "vision", "embeddings"]] = []
    context_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    licence: str = Field("", max_length=200)
    description: str = Field("", max_length=4000)
    state: Literal["draft", "candidate", "live"] = "draft"


class ImportShown(BaseModel):
    """What was imported; ``left_out`` names files of the source that were not wanted, the first of them."""

    version: VersionShown
    left_out: list[str]
    left_out_count: int


def import_routes(node: Node, door: Door) -> APIRouter:
    """The route over one node."""
    router = APIRouter(prefix="/registry", tags=["registry"])

    @router.post(
        "/imports",
        summary="Import a model from a hub or from storage; says how far it is, one JSON a line, the version last.",
        response_class=StreamingResponse,
        responses={"200": {"content": {_NDJSON: {}}}, "502": {"model": Refusal, "description": "The hub failed."}},
    )
    async def import_from(new: NewImport, caller: Annotated[ApiKey, door.of(ADMIN)]) -> Response:
        wish = Wish(
            source=new.source,
            model=new.model or "",
            version=new.version or "",
            capabilities=tuple(new.capabilities),
            context_tokens=new.context_tokens,
            licence=new.licence,
            description=new.description,
            state=State(new.state),
        )
        steps = import_model(node, wish, owner=owner_of(caller), by=account_of(caller.principal_id))
        # What fails within the first moments is refused with a status; the second step comes after a quarter second.
        first = [step async for step in _at_most(2, steps)]
        return StreamingResponse(_told(node, first, steps), media_type=_NDJSON)

    return router


async def _at_most(count: int, steps: AsyncGenerator[Step | Imported]) -> AsyncGenerator[Step | Imported]:
    for _ in range(count):
        step = await anext(steps, None)
        if step is None:
            return
        yield step


async def _told(
    node: Node, first: list[Step | Imported], steps: AsyncGenerator[Step | Imported]
) -> AsyncGenerator[bytes]:
    """The lines of an import; one that fails in the midst ends with the error as a line."""
    try:
        for step in first:
            yield await _line(node, step)
        async for step in steps:
            yield await _line(node, step)
    except PrsmError as error:
        yield _encoded({"error": openai_error_object(error)})
    finally:
        await steps.aclose()


async def _line(node: Node, step: Step | Imported) -> bytes:
    if isinstance(step, Step):
        return _encoded({"phase": step.phase, "done_bytes": step.done_bytes, "total_bytes": step.total_bytes})
    node.outbox.hint()
    await reload_models(node)
    catalogue = node.registry.catalogue
    shown = ImportShown(
        version=shown_version(catalogue, catalogue.versions[step.registered.version.ref]),
        left_out=list(step.left_out[:_MAX_TOLD]),
        left_out_count=len(step.left_out),
    )
    return shown.model_dump_json().encode() + b"\n"


def _encoded(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"
