"""The node API: everything that does not ask a model, as FastAPI with OpenAPI docs at ``/docs``.

This file has the application itself, its errors, health, metrics and the list of models; the routes of users and of
admins stand in their own files. Every refusal has the shape of OpenAI's errors.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from prsm import __version__
from prsm.agents.call import Target
from prsm.api.admin_routes import admin_routes
from prsm.api.door import Door
from prsm.api.user_routes import user_routes
from prsm.api.wire import models as wire_models
from prsm.api.wire.errors import http_status, openai_error, retry_after
from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.node import Node, readiness

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_KINDS = {404: Kind.NOT_FOUND, 405: Kind.INVALID, 413: Kind.TOO_LARGE}


def build_node_api(node: Node, door: Door) -> FastAPI:
    """The ASGI application over one node."""
    app = FastAPI(
        title="PRSM node",
        version=__version__,
        description="Keys, wallet, models, sessions, receipts and health of one node. "
        "Questions are asked at the OpenAI and Anthropic routes under /v1.",
        redoc_url=None,
    )
    app.add_exception_handler(PrsmError, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_input)
    app.add_exception_handler(HTTPException, _refuse_http)
    _health_routes(app, node)
    _model_routes(app, node, door)
    app.include_router(user_routes(node, door), prefix="/node/v1")
    app.include_router(admin_routes(node, door), prefix="/node/v1")
    return app


def _health_routes(app: FastAPI, node: Node) -> None:
    @app.get("/healthz", tags=["health"], summary="Alive: the process answers.")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/readyz", tags=["health"], summary="Ready: each part by name with its latency; 503 without PostgreSQL.")
    async def readyz(response: Response) -> dict[str, Any]:
        parts = await readiness(node)
        if not parts["postgres"]["ok"]:
            response.status_code = 503
        return parts

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics.", response_class=Response)
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type=_TEXT)

    @app.get("/node/v1/node", tags=["health"], summary="Who this node is, for those who verify its receipts.")
    async def whoami() -> dict[str, str]:
        return {"id": node.key.node_id, "public_key": node.key.public_key_hex, "version": __version__}

    @app.get("/node/v1/verifier", tags=["health"], summary="The standalone receipt verifier.", response_class=Response)
    async def verifier() -> Response:
        source = Path(__file__).parents[1] / "receipt_verifier.py"
        return Response(source.read_bytes(), media_type="text/x-python; charset=utf-8")


def _model_routes(app: FastAPI, node: Node, door: Door) -> None:
    admit = door.of(None)

    def entries() -> list[wire_models.ModelEntry]:
        return [_entry(node, target) for target in node.path.models.by_name.values()]

    @app.get("/v1/models", tags=["models"], summary="All models, in OpenAI's or (by header) Anthropic's shape.")
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

    @app.get("/v1/models/{name:path}", tags=["models"], summary="One model.")
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
            "input_price_micro_per_mtok": target.input_price_micro,
            "output_price_micro_per_mtok": target.output_price_micro,
            "version": target.version,
            "resting": node.breakers.resting(target.name),
        },
    )


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _refuse(_request: Request, error: Exception) -> Response:
    refused = error if isinstance(error, PrsmError) else PrsmError("The node failed at this request.")
    response = Response(openai_error(refused), http_status(refused.kind), media_type="application/json")
    after = retry_after(refused)
    if after is not None:
        response.headers["retry-after"] = after
    if refused.kind is Kind.UNAUTHENTICATED:
        response.headers["www-authenticate"] = "Bearer"
    return response


def _refuse_input(request: Request, error: Exception) -> Response:
    """Only where and why: what was sent may not be writable again, and may be a secret."""
    first: dict[str, Any] = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    place = ".".join(str(part) for part in first.get("loc", ())[1:])
    message = f"{place or 'The request'}: {first.get('msg', 'is not valid')}."
    printable = message.encode("utf-8", "replace").decode()
    return _refuse(request, InvalidRequest(printable, param=place.encode("utf-8", "replace").decode() or None))


def _refuse_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:200].encode("utf-8", "replace").decode()
    refusal = PrsmError(
        f"{request.method} {path} is not served here.", kind=_KINDS.get(status, Kind.INVALID), code="not_found"
    )
    response = _refuse(request, refusal)
    response.status_code = status
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
