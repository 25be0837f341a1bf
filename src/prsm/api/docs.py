"""The node's own documentation: the page at ``/docs``, and in the OpenAPI document the routes FastAPI does not serve.

The page is one file without any third party: no script, style or font comes from elsewhere, and its policy says so.
"""

import hashlib
import re
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse

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
_SECURITY: list[Json] = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
_REFUSAL = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def add_docs(app: FastAPI) -> None:
    """Serve ``/docs`` and complete ``/openapi.json``; called when all other routes are there."""
    page = Path(__file__).with_name("docs_page.html").read_text(encoding="utf-8")
    headers = {"content-security-policy": content_security_policy(page), "x-content-type-options": "nosniff"}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    # Making the document takes a second of a processor: it is made, and kept, when it is first asked for.
    make, lock = app.openapi, threading.Lock()

    def document() -> dict[str, Any]:
        with lock:
            if app.openapi_schema is None:
                app.openapi_schema = make()
                paths: dict[str, Any] = app.openapi_schema["paths"]
                paths |= {path: {"post": _operation(path)} for path in _QUESTIONS} | _streamed()
            return app.openapi_schema

    @app.get("/openapi.json", include_in_schema=False)
    def openapi() -> JSONResponse:  # no coroutine: it runs in a thread
        return JSONResponse(document())

    app.openapi = document


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
        'its field `prsm` may hold `{"max_cost_micro": ..., "session_id": ..., "quote_id": ...}` and a policy on who '
        "answers (`min_quality`, `max_expected_micro`, `max_input_price_micro`, `max_output_price_micro`, "
        "`answer_value_micro`, `regions`, `licences`, `allow_providers`, `deny_providers`, `capabilities`).",
        "operationId": path.removeprefix("/").replace("/", "_"),
        "security": _SECURITY,
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


def _streamed() -> dict[str, Any]:
    """What ``api/storage_content.py`` serves."""
    profile = _parameter("query", "profile", "unixfs-v1-2025 or kubo-v1; by default the node's setting.")
    read = {
        "200": {"description": "All of it.", "content": _BYTES},
        "206": {"description": "The part that ``Range`` names.", "content": _BYTES},
        "304": {"description": "The caller has it already, by ``If-None-Match``."},
        "409": {"description": "What is stored of it is damaged.", "content": _REFUSAL},
        "412": {"description": "It is not here, and ``only-if-cached`` was asked.", "content": _TEXT},
        "416": {"description": "The range begins behind the end; ``Content-Range`` says where that is."},
    }
    shared = {
        "4XX": {"description": "Refused.", "content": _REFUSAL},
        "503": {"description": "Busy.", "content": _REFUSAL},
    }
    add = _streamed_operation(
        "Add a file: the body, of any size, is taken in as it comes, and kept for the caller.",
        [profile],
        {"201": {"description": "Added.", "content": {"application/json": {"schema": _ref("Added")}}}} | shared,
    )
    kinds: Json = {"application/vnd.ipld.raw": {}, "application/vnd.ipld.car": {}}
    gateway: Json = {
        "200": {"description": "A block, or a CAR.", "content": kinds},
        "206": {"description": "A part of a block.", "content": {"application/vnd.ipld.raw": {}}},
        "406": {"description": "Neither a block nor a CAR was asked for.", "content": _TEXT},
    }
    asked = [
        _parameter("query", "format", "raw or car; ``Accept`` does as well."),
        _parameter("query", "dag-scope", "Of a CAR: all, entity or block."),
        _parameter("query", "entity-bytes", "Of a CAR: FROM:TO, the bytes of a file; TO may be *."),
    ]
    return {
        "/node/v1/storage/content": {"post": add | {"requestBody": {"content": _BYTES}, "security": _SECURITY}},
        "/node/v1/storage/content/{cid}": {
            "get": _streamed_operation(
                "The bytes of a file; a path below a directory's CID leads to those of an entry. What is not here "
                "is sent while it is fetched, for a key with the scope storage.",
                [_parameter("path", "cid", "A CID, and a path below it.")],
                read | shared,
            )
            | {"security": _SECURITY}
        },
        "/ipfs/{cid}": {
            "get": _streamed_operation(
                "The trustless gateway: blocks and CARs of what is here, for everybody.",
                [_parameter("path", "cid", "A CID; for a CAR also a path below it."), *asked],
                read | shared | gateway,
            )
        },
    }


def _streamed_operation(summary: str, parameters: list[Json], responses: Json) -> Json:
    return {"tags": ["storage"], "summary": summary, "parameters": parameters, "responses": responses}


def _parameter(place: str, name: str, meaning: str) -> Json:
    return {
        "in": place, "name": name, "description": meaning, "required": place == "path", "schema": {"type": "string"}
    }  # fmt: skip


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
