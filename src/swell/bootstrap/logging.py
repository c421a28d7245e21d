"""Configures logging: one line per event on stderr, without secrets."""

import logging
import sys
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from swell.core.redact import hide_secrets
from swell.core.telemetry import request_id
from swell.settings.backend_settings import LogSettings


def configure_logging(settings: LogSettings, *, worker: str | None = None) -> None:
    """Send the log to stderr.

    Args:
        settings: The format and the lowest level.
        worker: Name of the worker that this process is, added to each line.
    """
    import structlog

    level = getattr(logging, settings.level.upper())
    # Tracebacks without local values: these may contain keys and users' inputs.
    rendered: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.json_lines
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    before: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        partial(_add_context, worker),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendered,
                # A library's text may quote a header or a URL.
                lambda logger, name, line: hide_secrets(str(line)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The commands report starts and stops themselves.
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))
    # The sender of a broken form gets the error in the response.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _add_context(
    worker: str | None, logger: Any, name: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if worker is not None:
        line.setdefault("worker", worker)
    if request := request_id.get():
        line.setdefault("request_id", request)
    return line
