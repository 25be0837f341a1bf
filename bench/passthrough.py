"""The named peer: the smallest gateway an engineer would write with Starlette and aiohttp, and write well.

It parses the call, forwards the bytes, returns the answer or relays the stream. No key, limit, money, route or receipt.
Run by uvicorn with uvloop and httptools; ``BENCH_UPSTREAM`` is the base address of the upstream.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_UPSTREAM_URL = os.environ["BENCH_UPSTREAM"] + "/v1/chat/completions"
_HEADERS = {"authorization": "Bearer sk-upstream", "content-type": "application/json"}


async def chat(request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    raw = await request.body()
    try:
        call = json.loads(raw)
        streaming = bool(call["model"] and call.get("stream"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return JSONResponse({"error": {"message": "not a chat call"}}, 400)
    session: aiohttp.ClientSession = request.app.state.session
    upstream = await session.post(_UPSTREAM_URL, data=raw, headers=_HEADERS)
    if streaming:
        return StreamingResponse(_relay(upstream), upstream.status, media_type="text/event-stream")
    async with upstream:
        return Response(await upstream.read(), upstream.status, media_type="application/json")


async def _relay(upstream: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async with upstream:
        async for piece in upstream.content.iter_any():
            yield piece


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncGenerator[None]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        app.state.session = session
        yield


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=_lifespan)
