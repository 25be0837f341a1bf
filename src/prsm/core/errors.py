"""Every error a person can meet is a PrsmError: a stable code, a sentence, and what to do next.

Only the edge (``api``, ``cli``) turns one into an HTTP status or an exit code.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What sort of refusal this is; the edge maps each kind to one HTTP status and one exit code."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    PAYMENT_REQUIRED = "payment_required"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNPROCESSABLE = "unprocessable"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    UPSTREAM = "upstream"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


FAULTS = frozenset({Kind.INTERNAL, Kind.UNAVAILABLE, Kind.UPSTREAM, Kind.TIMEOUT})
"""Kinds of which the caller is not the cause: the node failed, or a model."""


class PrsmError(Exception):
    """Root of all errors of the node.

    ``code`` is stable and machine-readable (``insufficient_funds``); ``message`` is one sentence for a
    person; ``remedy`` says what to do next; ``param`` names the offending field of a request.
    """

    kind: Kind = Kind.INTERNAL
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        kind: Kind | None = None,
        code: str | None = None,
        remedy: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind or type(self).kind
        self.code = code or type(self).code
        self.remedy = remedy
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class InvalidRequest(PrsmError):
    """The request breaks a stated rule; ``param`` names the field."""

    kind = Kind.INVALID
    code = "invalid_request"


class ConfigError(PrsmError):
    """A setting is unknown or wrong, or a configured part cannot be used; the start stops here."""

    kind = Kind.INVALID
    code = "config_error"


class Unavailable(PrsmError):
    """A part the work needs is away for now; the same request may succeed later."""

    kind = Kind.UNAVAILABLE
    code = "unavailable"
