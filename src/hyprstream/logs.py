"""Where log lines go and what they look like. Knows structlog and files; knows nothing of what is logged."""

import logging
import sys
from logging.handlers import TimedRotatingFileHandler

import structlog

from hyprstream.settings import LogSettings

FILE_NAME = "hyprstream.log"
KEPT_DAYS = 14


def start_logging(settings: LogSettings) -> None:
    """Send every log line to standard error, or to a file per day where a directory is set.

    Raises:
        OSError: the directory cannot be made or written to.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _handler(settings)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(settings),
            ],
        )
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)


def _handler(settings: LogSettings) -> logging.Handler:
    if settings.dir is None:
        return logging.StreamHandler(sys.stderr)
    settings.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return TimedRotatingFileHandler(
        settings.dir / FILE_NAME, when="midnight", utc=True, backupCount=KEPT_DAYS, encoding="utf-8"
    )


def _renderer(settings: LogSettings) -> structlog.typing.Processor:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=settings.dir is None and sys.stderr.isatty())
