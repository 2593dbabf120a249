"""The log: one line per request, stream or warning, as JSON for machines or as text for a terminal.

No line contains a secret, a query string, a user id or event data: a line names the route (`/api/webhooks/{source}`),
not the path that the client sent. A request id joins the lines of one request.
"""

import functools
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from tidewire.settings.config import LogFormat, LogLevel

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)  # no line breaks that forge a line, no megabytes

OWN = ("tidewire", "functions", "__main__")  # the last is the module that the process was started with

requests = logging.getLogger("tidewire.requests")
streams = logging.getLogger("tidewire.streams")


def configure(level: LogLevel, format: LogFormat) -> None:
    """Send the log of this process to standard error, or to the handlers that the host has installed.

    `auto` means text on a terminal and JSON elsewhere.
    """
    text = format == "text" or (format == "auto" and sys.stderr.isatty())
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(TextLines() if text else JsonLines())
    # Third-party loggers are capped at WARNING: below it botocore logs responses with the secrets in them, Mangum the
    # path that was sent, and httpx the URL of a key set or a REST endpoint.
    root.setLevel(max(getattr(logging, level.upper()), logging.WARNING))
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())
    for unused in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks", "_srcfile"):
        setattr(logging, unused, None)  # no line uses them, and they are a third of its cost (logging HOWTO)


def request_id(given: str | None) -> str:
    """Return the request's own id if it is safe in a log line and a header, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def log_fields(**fields: Any) -> Mapping[str, Any]:
    """Return `extra` for a line with fields: `logger.info("request", extra=log_fields(status=202))`."""
    return {"fields": fields}


class JsonLines(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, the fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line breaks inside it are escaped."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line).decode()
        except (TypeError, UnicodeEncodeError):  # a lone surrogate, or a value that JSON lacks: escape everything
            return msgspec.json.encode({name: ascii(value) for name, value in line.items()}).decode()


class TextLines(logging.Formatter):
    """One line of text: time, level, logger, message and `name=value` for each field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@functools.lru_cache(maxsize=2)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
