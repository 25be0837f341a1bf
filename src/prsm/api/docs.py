"""The node's own documentation: the page at ``/docs``, and in the OpenAPI document the routes FastAPI does not serve.

The page is one file without any third party: no script, style or font comes from elsewhere, and its policy says so.
"""

import hashlib
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from prsm.agents.call import Json

_QUESTION = [{"role": "user", "content": "What is 127 + 385?"}]
# Path: what it is, and a body that a fresh node answers.
_QUESTIONS: dict[str, tuple[str, Json]] = {
    "/v1/chat/completions": ("OpenAI Chat Completions.", {"model": "auto", "messages": _QUESTION}),
    "/v1/responses": ("OpenAI Responses.", {"model": "auto", "input": "What is 127 + 385?"}),
    "/v1/embeddings": ("OpenAI Embeddings.", {"model": "auto", "input": ["a sentence", "another one"]}),
    "/v1/messages": ("Anthropic Messages.", {"model": "auto", "max_tokens": 256, "messages": _QUESTION}),
    "/v1/messages/count_tokens": ("Anthropic token counts, estimated; free.", {"model": "auto", "messages": _QUESTION}),
}
QUESTION_PATHS = frozenset(_QUESTIONS)
"""Paths that ``api/main.py`` serves by itself, all by POST."""


def add_docs(app: FastAPI) -> None:
    """Serve ``/docs`` and complete ``/openapi.json``; called when all other routes are there."""
    page = Path(__file__).with_name("docs_page.html").read_text(encoding="utf-8")
    headers = {"content-security-policy": content_security_policy(page), "x-content-type-options": "nosniff"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    # FastAPI keeps the document it makes here, and serves it.
    app.openapi()["paths"] |= {path: {"post": _operation(path)} for path in _QUESTIONS}


def content_security_policy(page: str) -> str:
    """Let the page run its own script and style, by hash, and talk to this node; nothing else."""
    hashes = {
        tag: " ".join(
            f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
            for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        )
        for tag in ("script", "style")
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _operation(path: str) -> dict[str, Any]:
    summary, example = _QUESTIONS[path]
    refusal = {"$ref": f"#/components/schemas/{'AnthropicRefusal' if path.startswith('/v1/messages') else 'Refusal'}"}
    shape = {"type": "object", "required": list(example), "example": example}
    return {
        "tags": ["questions"],
        "summary": summary,
        "description": "Paid from the caller's account. The body is that of the named API, passed on to the model; "
        'its field `prsm` may hold `{"max_cost_micro": ..., "session_id": ...}`.',
        "operationId": path.removeprefix("/").replace("/", "_"),
        "security": [{"HTTPBearer": []}, {"APIKeyHeader": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": shape}}},
        "responses": {
            "200": {
                "description": "The answer; with `stream`, as server-sent events.",
                "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
            },
            "4XX": {
                "description": "Refused; nothing is charged.",
                "content": {"application/json": {"schema": refusal}},
            },
            "5XX": {
                "description": "The node or the model's provider failed; nothing is charged.",
                "content": {"application/json": {"schema": refusal}},
            },
        },
    }
