"""Where log lines go and what they look like. Knows structlog and files; knows nothing of what is logged."""

import logging
import sys
from logging.handlers import TimedRotatingFileHandler

import structlog

from hyprstream.settings import LogSettings

FILE_NAME = "hyprstream.log"
KEPT_DAYS = 14


class _StandardError(logging.Handler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def start_logging(settings: LogSettings, *, is_quiet: bool = False) -> None:
    """Send every log line to standard error, or to a file per day where a directory is set.

    `is_quiet` leaves out what is only information, unless everything was asked for.

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
    level = "warning" if is_quiet and settings.level == "info" else settings.level
    # It writes whole addresses at that level, and an address may carry a signature.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _handler(settings: LogSettings) -> logging.Handler:
    if settings.dir is None:
        return _StandardError()
    settings.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return TimedRotatingFileHandler(
        settings.dir / FILE_NAME, when="midnight", utc=True, backupCount=KEPT_DAYS, encoding="utf-8"
    )


def _renderer(settings: LogSettings) -> structlog.typing.Processor:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=settings.dir is None and sys.stderr.isatty())
