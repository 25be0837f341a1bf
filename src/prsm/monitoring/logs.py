"""Structured logs: one line an event, the request id in each, and never a secret or a prompt.

Whoever logs names fields; texts of callers and of models are not among them, and what looks like a secret is cut.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET = re.compile(r"(\bprsm_[A-Za-z0-9]{8}_|\bsk-|\bhf_|Bearer )[A-Za-z0-9_\-\.]{6,}|(?<=://)[^/@\s]*:[^/@\s]+(?=@)")


def configure(level: str, style: str) -> None:
    """Send all logs to standard error as ``console`` lines or as ``json``, from ``level`` upward."""
    render = structlog.processors.JSONRenderer() if style == "json" else structlog.dev.ConsoleRenderer(colors=False)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(threshold, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )


def _redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: _SECRET.sub("[cut]", value) if isinstance(value, str) else value for name, value in event.items()}
