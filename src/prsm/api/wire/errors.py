"""PrsmError as each API's clients expect it: the HTTP status, the body, and when to come back.

Every kind has exactly one status; the type names are those that each API's own errors carry, so that a client
written against them takes the same branch here.
"""

import math

import msgspec

from prsm.agents.call import Json
from prsm.core.errors import Kind, PrsmError

_STATUS = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.PAYMENT_REQUIRED: 402,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.UNPROCESSABLE: 422,
    Kind.RATE_LIMITED: 429,
    Kind.INTERNAL: 500,
    Kind.UPSTREAM: 502,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
}

# OpenAI answers a wrong key and an unknown model with invalid_request_error too: there the code tells them apart.
_OPENAI_TYPE = {
    Kind.PAYMENT_REQUIRED: "insufficient_quota",
    Kind.FORBIDDEN: "permission_error",
    Kind.RATE_LIMITED: "rate_limit_error",
    Kind.INTERNAL: "server_error",
    Kind.UPSTREAM: "server_error",
    Kind.UNAVAILABLE: "server_error",
    Kind.TIMEOUT: "server_error",
}

_ANTHROPIC_TYPE = {
    Kind.UNAUTHENTICATED: "authentication_error",
    Kind.PAYMENT_REQUIRED: "billing_error",
    Kind.FORBIDDEN: "permission_error",
    Kind.NOT_FOUND: "not_found_error",
    Kind.TOO_LARGE: "request_too_large",
    Kind.RATE_LIMITED: "rate_limit_error",
    Kind.INTERNAL: "api_error",
    Kind.UPSTREAM: "api_error",
    Kind.UNAVAILABLE: "overloaded_error",
    Kind.TIMEOUT: "timeout_error",
}


def http_status(kind: Kind) -> int:
    """The HTTP status of a refusal."""
    return _STATUS[kind]


def retry_after(error: PrsmError) -> str | None:
    """The value of ``Retry-After``: whole seconds, at least 1; None when the error does not say when to come back."""
    if error.retry_after_s is None:
        return None
    return str(max(1, math.ceil(error.retry_after_s)))


def error_body(error: PrsmError, path: str, anthropic_version: str | None, request_id: str | None) -> bytes:
    """The body of a refusal as the client of that path reads it; both APIs have ``/v1/models``."""
    if path.startswith("/v1/messages") or (anthropic_version is not None and path.startswith("/v1/models")):
        return anthropic_error(error, request_id)
    return openai_error(error)


def openai_error(error: PrsmError, prsm: Json | None = None) -> bytes:
    """The body of a refusal as the OpenAI API writes it; the remedy stands in the message.

    ``prsm`` stands under ``error``, where the SDK shows it as ``body`` of what it raises.
    """
    shown = openai_error_object(error)
    return msgspec.json.encode({"error": shown if prsm is None else {**shown, "prsm": prsm}})


def openai_error_object(error: PrsmError) -> dict[str, str | None]:
    """What stands under ``error`` in a body or an event of the OpenAI API."""
    return {
        "message": str(error),
        "type": _OPENAI_TYPE.get(error.kind, "invalid_request_error"),
        "param": error.param,
        "code": error.code,
    }


def anthropic_error(error: PrsmError, request_id: str | None = None, prsm: Json | None = None) -> bytes:
    """The body of a refusal as the Anthropic API writes it; ``details.error_code`` is our stable code."""
    return msgspec.json.encode(
        ({} if prsm is None else {"prsm": prsm})
        | {
            "type": "error",
            "error": {
                "type": _ANTHROPIC_TYPE.get(error.kind, "invalid_request_error"),
                "message": str(error),
                "details": {"error_code": error.code},
            },
            "request_id": request_id,
        }
    )
