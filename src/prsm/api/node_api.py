"""The node API: everything that does not ask a model, as FastAPI with OpenAPI docs at ``/docs``.

This file has the application itself, its errors, health, metrics and the list of models; the routes of users and of
admins stand in their own files. Every refusal has the shape of OpenAI's errors.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException

from prsm import __version__
from prsm.agents.call import Target
from prsm.agents.routers.roster import served_model
from prsm.api.admin_routes import admin_routes
from prsm.api.alert_routes import alert_routes
from prsm.api.audit_routes import audit_routes
from prsm.api.discovery_routes import discovery_routes
from prsm.api.docs import add_docs
from prsm.api.door import Door
from prsm.api.feedback import feedback_route, quality_routes
from prsm.api.first_page import add_first_page
from prsm.api.import_routes import import_routes
from prsm.api.liveness_routes import liveness_routes
from prsm.api.market_routes import market_routes
from prsm.api.moderations import moderation_route
from prsm.api.preference_routes import preference_routes
from prsm.api.privacy_routes import privacy_routes
from prsm.api.publishing_routes import publishing_routes
from prsm.api.registry_routes import registry_routes
from prsm.api.rollout_routes import rollout_routes
from prsm.api.route_routes import route_routes
from prsm.api.safety_routes import breaker_routes, safety_routes
from prsm.api.schemas import Alive, AnthropicRefusal, NodeIdentity, Part, Refusal
from prsm.api.status_routes import status_routes
from prsm.api.storage_routes import storage_routes
from prsm.api.training_routes import training_routes
from prsm.api.user_routes import user_routes
from prsm.api.wire import models as wire_models
from prsm.api.wire.errors import error_body, http_status, retry_after
from prsm.core.database import UNREACHABLE, unreachable
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.verifier_file import verifier_file
from prsm.node import Node, readiness

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_REFUSED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "Refused; the message says why, and what to do."},
    "503": {"model": Refusal, "description": "A part that the request needs is away for now."},
}
_ADMITTED: dict[int | str, dict[str, Any]] = {
    "401": {"model": Refusal, "description": "No API key, or none that is alive."},
    "403": {"model": Refusal, "description": "The key lacks the scope, or may not grant what is asked."},
    "404": {"model": Refusal, "description": "There is no such thing, or it is not the caller's."},
    "409": {"model": Refusal, "description": "The state of things does not allow it."},
    "429": {"model": Refusal, "description": "The key has used up its requests for now; see Retry-After."},
}


def build_node_api(node: Node, door: Door) -> FastAPI:
    """The ASGI application over one node."""
    app = FastAPI(
        title="PRSM node",
        version=__version__,
        description="Keys, wallet, models, sessions, receipts and health of one node. "
        "Questions are asked at the OpenAI and Anthropic routes under /v1.",
        openapi_url=None,  # add_docs serves it
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_REFUSED,
    )
    app.add_exception_handler(PrsmError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_input)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(Exception, _refuse)
    for away in UNREACHABLE:
        app.add_exception_handler(away, _refuse)
    _health_routes(app, node)
    _model_routes(app, node, door)
    app.include_router(user_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(admin_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(audit_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(privacy_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(liveness_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(alert_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(status_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(registry_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(import_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(market_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(route_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(rollout_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(storage_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(discovery_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(preference_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(publishing_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(training_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(safety_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(breaker_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    app.include_router(moderation_route(node, door), prefix="/v1", responses=_ADMITTED)
    app.include_router(feedback_route(node, door), prefix="/v1", responses=_ADMITTED)
    app.include_router(quality_routes(node, door), prefix="/node/v1", responses=_ADMITTED)
    add_first_page(app)
    add_docs(app)
    return app


def _health_routes(app: FastAPI, node: Node) -> None:
    @app.get("/healthz", tags=["health"], summary="Alive: the process answers.")
    async def healthz() -> Alive:
        return Alive(ok=True)

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Ready: each part by name with its latency; 503 without PostgreSQL.",
        response_model=dict[str, Part],
        response_model_exclude_none=True,
        responses={"503": {"model": dict[str, Part], "description": "PostgreSQL is away."}},
    )
    async def readyz(response: Response) -> dict[str, Any]:
        parts = await readiness(node)
        if not parts["postgres"]["ok"]:
            response.status_code = 503
        return parts

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type=_TEXT)

    @app.get("/node/v1/node", tags=["health"], summary="Who this node is, for those who verify its receipts.")
    async def whoami() -> NodeIdentity:
        return NodeIdentity(id=node.key.node_id, public_key=node.key.public_key_hex, version=__version__)

    @app.get("/node/v1/verifier", tags=["health"], summary="The standalone receipt verifier.", response_class=_Python)
    async def verifier() -> Response:
        return _Python(verifier_file().read_bytes())


def _model_routes(app: FastAPI, node: Node, door: Door) -> None:
    admit = door.of(None)
    known: dict[int | str, Any] = {
        status: {**(_REFUSED | _ADMITTED)[status], "model": Refusal | AnthropicRefusal}
        for status in ("4XX", "401", "404", "429", "503")
    }

    def entries() -> list[wire_models.ModelEntry]:
        return [_entry(node, target) for target in node.path.models.by_name.values()]

    @app.get(
        "/v1/models",
        tags=["models"],
        summary="All models, in OpenAI's or (by header) Anthropic's shape.",
        responses=known,
    )
    async def list_models(
        _caller: Annotated[Any, admit],
        anthropic_version: Annotated[str | None, Header()] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
        after_id: str | None = None,
        before_id: str | None = None,
    ) -> Response:
        if anthropic_version is None:
            return _json(wire_models.openai_list(entries()))
        return _json(wire_models.anthropic_list(entries(), limit=limit, after_id=after_id, before_id=before_id))

    @app.get("/v1/models/{name:path}", tags=["models"], summary="One model.", responses=known)
    async def get_model(
        name: str, _caller: Annotated[Any, admit], anthropic_version: Annotated[str | None, Header()] = None
    ) -> Response:
        target = node.path.models.by_name.get(name)
        if target is None:
            raise PrsmError(f"There is no model {name[:200]!r}.", kind=Kind.NOT_FOUND, code="model_not_found")
        write = wire_models.openai_model if anthropic_version is None else wire_models.anthropic_model
        return _json(write(_entry(node, target)))


def _entry(node: Node, target: Target) -> wire_models.ModelEntry:
    return wire_models.ModelEntry(
        id=target.name,
        created=datetime.fromtimestamp(0, UTC),
        owned_by=target.provider,
        context_tokens=target.context_tokens,
        max_output_tokens=target.max_output_tokens,
        prsm={
            "capabilities": sorted(target.capabilities),
            "domain": target.domain,
            "context_tokens": target.context_tokens,
            "max_output_tokens": target.max_output_tokens,
            "input_price_micro_per_mtok": target.input_price_micro,
            "output_price_micro_per_mtok": target.output_price_micro,
            "model": served_model(target),
            "version": target.version,
            "licence": target.licence,
            "region": target.region,
            "cached_input_price_micro_per_mtok": target.cached_input_price_micro,
            "resting": node.safety.boards.models.resting(target.name),
        },
    )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


class _Python(PlainTextResponse):
    media_type = "text/x-python"


def _refuse(request: Request, error: Exception) -> Response:
    refused = error if isinstance(error, PrsmError) else unreachable(error)
    refused = refused or PrsmError("The node failed at this request.")
    body = error_body(
        refused,
        request.url.path,
        request.headers.get("anthropic-version"),
        getattr(request.state, "request_id", None),
    )
    response = Response(body, http_status(refused.kind), media_type="application/json")
    after = retry_after(refused)
    if after is not None:
        response.headers["retry-after"] = after
    if refused.kind is Kind.UNAUTHENTICATED:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _refuse_input(request: Request, error: Exception) -> Response:
    """Only where and why: what was sent may not be writable again, and may be a secret."""
    first: dict[str, Any] = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    place = _printable(".".join(str(part) for part in first.get("loc", ())[1:]))
    if first.get("loc") == ("body",):
        return _refuse(
            request, InvalidRequest("The body must be a JSON object, sent with `content-type: application/json`.")
        )
    message = _printable(f"{place or 'The request'}: {first.get('msg', 'is not valid')}.")
    return _refuse(request, InvalidRequest(message, param=place or None))


def _refuse_http(request: Request, error: Exception) -> Response:
    """What FastAPI refuses by itself: no such path (404), no such method (405), a body that is no JSON (400)."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = f"{request.method} {_printable(request.url.path[:200])}"
    if status == 404:
        refusal = PrsmError(f"{what} is not served here.", kind=Kind.NOT_FOUND, code="not_found")
    elif status == 405:
        refusal = InvalidRequest(f"{what} is not served here; see Allow.", code="method_not_allowed")
    else:
        refusal = InvalidRequest("The body is not valid JSON in UTF-8, or nests too deep.")
    response = _refuse(request, refusal)
    response.status_code = status
    if status == 405:
        response.headers["allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """All methods of the path; the framework names only those of the first route that has it."""
    path = request.url.path
    routes: Any = iter_route_contexts(request.app.routes)
    found = {method for route in routes if route.path_regex.match(path) for method in route.methods or ()}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
