"""The node API: keys, wallet, models, sessions, receipts and health, as FastAPI with OpenAPI docs at ``/docs``."""

from fastapi import FastAPI, Response

from prsm import __version__
from prsm.api.answers import Answers
from prsm.node import Node, readiness


def build_node_api(node: Node, answers: Answers) -> FastAPI:
    """The ASGI application of everything that does not ask a model."""
    app = FastAPI(title="PRSM node", version=__version__)

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, object]:
        parts = await readiness(node)
        if not parts["postgres"]["ok"]:
            response.status_code = 503
        return parts

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(node.metrics.render(), media_type="text/plain; version=0.0.4")

    return app
