"""What a server writes to standard error: one line for each event, JSON unless told otherwise."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asrlife_server.config import Log


class Json(logging.Formatter):
    """A record as one JSON object: time (UTC), level, logger, message, and what was given as `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        told = {"time": stamp(record), "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(told, ensure_ascii=False, default=str)


class Text(logging.Formatter):
    """A record for people: the same, in one line of words; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{stamp(record)} {record.levelname.lower()} {' '.join(record.getMessage().split())}{fields}"
        return line + ("\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip() if record.exc_info else "")


def stamp(record: logging.LogRecord) -> str:
    """When it was, to the ms, in UTC."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


@contextmanager
def written(settings: Log) -> Iterator[None]:
    """Write the log to standard error for as long as the `with` lasts; of other packages, warnings and errors alone."""
    handler, own, root = logging.StreamHandler(sys.stderr), logging.getLogger("asrlife"), logging.getLogger()
    handler.setFormatter(Json() if settings.format == "json" else Text())
    before: tuple[Any, ...] = own.handlers, own.level, own.propagate, root.handlers
    own.handlers, own.propagate, root.handlers = [], True, [handler]
    own.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        own.handlers, own.propagate, root.handlers = before[0], before[2], before[3]
        own.setLevel(before[1])
