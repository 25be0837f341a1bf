"""OpenAI Embeddings: a request body to texts, vectors to a body, as numbers or as base64 of float32."""

import base64
import struct
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from prsm.agents.call import Embeddings, Json
from prsm.api.wire.limits import Name, convert, decode
from prsm.api.wire.parsed import PrsmExtension, take_extension
from prsm.core.errors import InvalidRequest

MAX_TEXTS = 2048


class ParsedEmbed(Struct, frozen=True):
    """Texts to embed; ``base64`` says how the caller wants the vectors written."""

    model: str
    texts: list[str]
    dimensions: int | None = None
    base64: bool = False
    prsm: PrsmExtension = PrsmExtension()


def parse(body: bytes, *, max_bytes: int) -> ParsedEmbed:
    """Check a request body; raises InvalidRequest naming the field and what was expected."""
    fields = decode(body, max_bytes)
    prsm = take_extension(fields)
    _refuse_tokens(fields.get("input"))
    known = convert(fields, _Request)
    texts = [known.input] if isinstance(known.input, str) else known.input
    if "" in texts:
        at = "input" if isinstance(known.input, str) else f"input[{texts.index('')}]"
        raise InvalidRequest(f"`{at}` is empty; there is nothing to embed.", param=at)
    return ParsedEmbed(
        model=known.model,
        texts=texts,
        dimensions=known.dimensions,
        base64=known.encoding_format == "base64",
        prsm=prsm,
    )


def render(embeddings: Embeddings, *, model: str, prsm: Json, base64: bool = False) -> bytes:
    """The list object; base64 holds little-endian float32, as the official SDK decodes it."""
    written = _base64 if base64 else list
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": written(vector)}
                for index, vector in enumerate(embeddings.vectors)
            ],
            "model": model,
            "usage": {
                "prompt_tokens": embeddings.usage.input_tokens,
                "total_tokens": embeddings.usage.input_tokens + embeddings.usage.output_tokens,
            },
            "prsm": prsm,
        }
    )


class _Request(Struct):
    model: Name
    input: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_TEXTS)]
    dimensions: Annotated[int, Meta(ge=1, le=65536)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


def _refuse_tokens(value: Any) -> None:
    """Token numbers mean something only to the tokenizer that made them, which this node cannot know."""
    first = cast("list[Any]", value)[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise InvalidRequest(
            "`input` holds token numbers; text is expected.",
            param="input",
            remedy="Send strings (with langchain-openai: check_embedding_ctx_length=False).",
        )


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
