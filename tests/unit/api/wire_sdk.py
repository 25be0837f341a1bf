"""The official SDKs over an in-memory transport that serves bytes which our renderers made: no socket is opened."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream"}


class Served:
    """A transport that answers every request with the given bytes and remembers the last request body."""

    def __init__(self, body: bytes, *, status: int = 200, headers: dict[str, str] = JSON) -> None:
        self.body, self.status, self.headers = body, status, headers
        self.seen = b""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen = request.read()
        content: Any = pieces(self.body) if self.headers is EVENTS else self.body
        return httpx2.Response(self.status, headers=self.headers, content=content)

    def openai(self, *, strict: bool = True) -> openai.OpenAI:
        return openai.OpenAI(
            api_key="k",
            base_url="http://node/v1",
            max_retries=0,
            _strict_response_validation=strict,
            http_client=httpx2.Client(transport=httpx2.MockTransport(self)),
        )

    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            api_key="k",
            base_url="http://node",
            max_retries=0,
            _strict_response_validation=True,
            http_client=httpx2.Client(transport=httpx2.MockTransport(self)),
        )


def pieces(body: bytes, size: int = 37) -> Iterator[bytes]:
    """``body`` cut at places that mean nothing, as a network does."""
    for start in range(0, len(body), size):
        yield body[start : start + size]
