"""What models a provider offers: OpenAI's and Anthropic's lists have one form."""

from collections.abc import Callable

import msgspec

from prsm.agents.executors.http_client import Headers, HttpClient
from prsm.agents.executors.upstream_errors import bad_answer
from prsm.agents.seams import UpstreamError

_MAX_MODELS = 10_000
_TOTAL_S = 15.0


async def fetch_models(
    client: HttpClient,
    url: str,
    headers: bytes,
    api_key: str,
    read_error: Callable[[int, Headers, bytes, str], UpstreamError],
) -> list[str]:
    """The provider's own names of its models, as far as it lists them at once. Raises UpstreamError."""
    response = await client.get(url, headers, total_s=_TOTAL_S)
    if response.status != 200:
        raise read_error(response.status, response.headers, response.body, api_key)
    try:
        return [model.id for model in _MODELS.decode(response.body).data[:_MAX_MODELS]]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_answer("is not a list of models") from error


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_MODELS = msgspec.json.Decoder(_Models)
