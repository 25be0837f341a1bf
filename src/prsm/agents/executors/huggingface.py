"""Hugging Face Inference Providers: its OpenAI-compatible router, with the notions that are its own.

Chat goes to ``{base_url}/chat/completions`` (https://router.huggingface.co/v1) through the OpenAI executor; embeddings
go to the feature-extraction pipeline beside it, because the router has no /embeddings.
"""

from collections.abc import AsyncIterator

import msgspec

from prsm.agents.call import ChatCall, Completion, Delta, EmbedCall, Embeddings, Target
from prsm.agents.executors.http_client import Headers, HttpClient
from prsm.agents.executors.openai_compatible import OpenAICompatibleExecutor, checked_vectors, estimated_usage
from prsm.agents.executors.upstream_errors import bad_answer, parse_error_body, status_error
from prsm.agents.seams import UpstreamError
from prsm.core.errors import InvalidRequest


class HuggingFaceExecutor:
    """An Executor."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._chat = OpenAICompatibleExecutor(client, read_error=read_error)

    async def chat(self, target: Target, call: ChatCall) -> Completion:
        """The whole answer."""
        return await self._chat.chat(target, call)

    def chat_stream(self, target: Target, call: ChatCall) -> AsyncIterator[list[Delta]]:
        """The answer as it comes."""
        return self._chat.chat_stream(target, call)

    async def embed(self, target: Target, call: EmbedCall) -> Embeddings:
        """One vector per text, from a model with a pooling layer. The upstream does not meter: usage is estimated."""
        if call.dimensions is not None:
            raise InvalidRequest(
                "dimensions cannot be chosen for Hugging Face models.",
                param="dimensions",
                remedy="Leave it out: the model's own length is returned.",
            )
        body = msgspec.json.encode({"inputs": call.texts})
        response = await self._client.post(_pipeline_url(target), self._chat.headers(target.api_key), body)
        if response.status != 200:
            raise read_error(response.status, response.headers, response.body, target.api_key)
        try:
            vectors = _VECTORS.decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise bad_answer("is not one vector per text; the model may give one per token") from error
        return Embeddings(checked_vectors(vectors, len(call.texts)), estimated_usage(call.texts))

    async def list_models(self, base_url: str, api_key: str) -> list[str]:
        """The chat models that the router serves now."""
        return await self._chat.list_models(base_url, api_key)

    async def aclose(self) -> None:
        """Close pooled connections."""
        await self._client.aclose()


def read_error(status: int, headers: Headers, body: bytes, secret: str) -> UpstreamError:
    """As everywhere, and: a 503 with ``estimated_time`` is a model being loaded, to be asked again after that time."""
    error = status_error(status, headers, body, secret=secret)
    loading_s = parse_error_body(body).estimated_time_s
    if status == 503 and loading_s is not None and error.retry_after_s is None and 0 <= loading_s < 86_400:
        error.retry_after_s = loading_s
        error.code = "upstream_loading"
    return error


def _pipeline_url(target: Target) -> str:
    root = target.base_url.removesuffix("/v1")
    return f"{root}/hf-inference/models/{target.upstream_name.partition(':')[0]}/pipeline/feature-extraction"


_VECTORS = msgspec.json.Decoder(list[list[float]])
