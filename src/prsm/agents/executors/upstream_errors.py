"""What an upstream's refusal means here: one mapping from HTTP status and error body to UpstreamError.

The provider's own sentence is passed on, shortened and without anything that looks like a key; where keys are what
failed (401, 403) it is left out, because providers like to repeat them.
"""

import re
from dataclasses import dataclass

import msgspec

from prsm.agents.executors.http_client import Headers, find_header
from prsm.agents.seams import UpstreamError
from prsm.core.errors import Kind

_MAX_MESSAGE = 300
_MAX_ERROR_BYTES = 64 * 1024
_SECRET = re.compile(r"\b(?:sk|hf|pk|rk|gsk|xai|prsm)[-_][\w*.\-]{4,}|(?i:bearer)\s+\S+|\b[\w\-]{32,}")
_RETRYABLE_4XX = frozenset({408, 409, 425, 429})
_FINAL_5XX = frozenset({501, 505})
_OUT_OF_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_error"})


@dataclass(frozen=True, slots=True)
class _Meaning:
    says: str
    code: str
    kind: Kind = Kind.UPSTREAM
    blames_caller: bool = False
    quotes: bool = True


_REJECTED = _Meaning("rejected the request", "upstream_rejected", Kind.INVALID, blames_caller=True)
_FAILED = _Meaning("failed", "upstream_failed")
_NO_CREDIT = _Meaning("has no credit left for this node's account", "upstream_no_credit", quotes=False)
_REFUSED_KEY = _Meaning("refused this node's key", "upstream_key_refused", quotes=False)
_MEANINGS = {
    400: _REJECTED,
    401: _REFUSED_KEY,
    402: _NO_CREDIT,
    403: _REFUSED_KEY,
    404: _Meaning("does not know the model or the address", "upstream_unknown_model"),
    408: _Meaning("timed out", "upstream_timeout", Kind.TIMEOUT),
    413: _Meaning("finds the request too large", "upstream_rejected", Kind.TOO_LARGE, blames_caller=True),
    414: _REJECTED,
    415: _REJECTED,
    422: _REJECTED,
    429: _Meaning("limits the rate of requests", "upstream_rate_limited", Kind.UNAVAILABLE),
    503: _Meaning("is overloaded or away", "upstream_unavailable", Kind.UNAVAILABLE),
    504: _Meaning("timed out", "upstream_timeout", Kind.TIMEOUT),
    529: _Meaning("is overloaded or away", "upstream_unavailable", Kind.UNAVAILABLE),
}


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What could be read of an error body: OpenAI, Anthropic, Hugging Face and FastAPI shapes."""

    message: str = ""
    code: str = ""
    estimated_time_s: float | None = None


def status_error(status: int, headers: Headers, body: bytes, *, secret: str = "") -> UpstreamError:
    """The error for an answer that is not 200; ``secret`` is cut out of the message wherever it stands."""
    parsed = parse_error_body(body)
    meaning = _MEANINGS.get(status, _FAILED if status >= 500 else _Meaning("gave an unexpected answer", "upstream_odd"))
    if parsed.code in _OUT_OF_CREDIT:
        meaning = _NO_CREDIT
    retryable = status in _RETRYABLE_4XX or (status >= 500 and status not in _FINAL_5XX)
    quote = clean(parsed.message, secret) if meaning.quotes else ""
    return UpstreamError(
        f"The model provider {meaning.says} (HTTP {status}){f': {quote}' if quote else '.'}",
        retryable=retryable and meaning is not _NO_CREDIT,
        upstream_status=status,
        blames_caller=meaning.blames_caller,
        kind=meaning.kind,
        code=meaning.code,
        retry_after_s=retry_after_s(headers) if retryable else None,
    )


def read_error(status: int, headers: Headers, body: bytes, secret: str) -> UpstreamError:
    """``status_error`` where a provider has no notions of its own."""
    return status_error(status, headers, body, secret=secret)


def stream_error(body: bytes, *, secret: str = "", retryable: bool = True) -> UpstreamError:
    """The error for one that a provider reports inside a stream that began with 200."""
    quote = clean(parse_error_body(body).message, secret)
    return UpstreamError(
        f"The model provider failed in the middle of its answer{f': {quote}' if quote else '.'}",
        retryable=retryable,
        upstream_status=200,
        code="upstream_failed",
    )


def bad_answer(why: str) -> UpstreamError:
    """An answer that is not in the provider's own format."""
    return UpstreamError(f"The model provider's answer {why}.", retryable=False, code="upstream_bad_answer")


def cut_off() -> UpstreamError:
    """A stream that ended before the model said it had finished."""
    return UpstreamError(
        "The model provider ended its stream before the answer was finished.", retryable=True, code="upstream_cut_off"
    )


def parse_error_body(body: bytes) -> ErrorBody:
    """Read an error body as far as it is readable; never raises."""
    if len(body) > _MAX_ERROR_BYTES:
        return ErrorBody()
    try:
        shape = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody()
    error = shape.error
    if isinstance(error, _Error):
        return ErrorBody(error.message, str(error.code or error.type or ""), shape.estimated_time)
    text = error or shape.message or (shape.detail if isinstance(shape.detail, str) else "")
    return ErrorBody(text, "", shape.estimated_time)


def retry_after_s(headers: Headers) -> float | None:
    """Seconds of ``retry-after-ms`` or ``retry-after`` where they are given as a number; a date is not read."""
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = find_header(headers, name).strip()
        if value and len(value) < 12 and value.replace(b".", b"", 1).isdigit():
            return float(value) * unit
    return None


def clean(message: str, secret: str = "") -> str:
    """One bounded printable line of ``message`` without keys."""
    if secret:
        message = message.replace(secret, "[key]")
    line = " ".join(_SECRET.sub("[key]", message[: 4 * _MAX_MESSAGE]).split())
    line = "".join(c for c in line if c.isprintable())
    return line if len(line) <= _MAX_MESSAGE else f"{line[:_MAX_MESSAGE]}..."


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    type: str | None = None
    code: str | int | None = None


class _Shape(msgspec.Struct, frozen=True):
    error: _Error | str | None = None
    message: str = ""
    detail: str | list[object] | dict[str, object] | None = None
    estimated_time: float | None = None


_DECODER = msgspec.json.Decoder(_Shape)
