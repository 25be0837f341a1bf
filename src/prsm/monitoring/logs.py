"""Structured logs: one line an event, the request id in each, and never a secret or a prompt.

Whoever logs names fields; texts of callers and of models are not among them, and what looks like a secret is cut.
A trace shows where and of which type an exception was, never its text: a driver's quotes the values it was given.
"""

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, cast

import structlog

_SECRET = re.compile(
    r"(?i:\b(?:prsm_[a-z0-9]{8}_|[sr]k-|pk-|hf_|gsk_|xai-)[a-z0-9_\-.]{6,}"
    r"|\b(?:bearer|basic)\s+[a-z0-9_\-.~+/=]{6,}"
    r"|(?<=://)[^/\s]+(?=@)"
    r"|(?<=[?&])(?:[a-z_\-]*(?:key|token|password|secret|signature)|sig)=[^&\s'\"]+"
    r"|(?<=x-api-key: )\S+)"
)
_MAX_CAUSES = 8


def configure(level: str, style: str) -> None:
    """Send all logs to standard error as ``console`` lines or as ``json``, from ``level`` upward."""
    render = structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_trace),
            _redact,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(_Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[others])


class _Formatter(logging.Formatter):
    """For what libraries log."""

    def format(self, record: logging.LogRecord) -> str:
        return _SECRET.sub("[cut]", super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return _trace(ei)


def _trace(exc_info: Any) -> str:
    """The places an exception came through and its type, and so for those it came of."""
    shown: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(shown) < _MAX_CAUSES:
        shown.append("".join(traceback.format_tb(error.__traceback__)) + _kind(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\ncame of\n".join(shown)


def _kind(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions[:_MAX_CAUSES]
        return f"{name} of {', '.join(map(_kind, inner))}"
    return name


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _SECRET.sub("[cut]", value) if isinstance(value, str) else value for name, value in event.items()}
