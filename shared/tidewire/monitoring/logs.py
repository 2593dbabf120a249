"""The log: one line a happening, as JSON for machines or as text for a terminal; and what it may hold.

Never a secret, a query string, a user, or an event's data: a line names the route as the code spells it, not the path
as a client sent it. A request id ties the lines of one request together.
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
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)  # nothing that could forge a line, or flood it

OWN = ("tidewire", "shared", "functions", "__main__")  # the last is the module that a process was started with

requests = logging.getLogger("tidewire.requests")
streams = logging.getLogger("tidewire.streams")


def configure(level: LogLevel, format: LogFormat) -> None:
    """Write the log of this process to the standard error, or to where its host's handler writes.

    `auto` is text on a terminal and JSON elsewhere.
    """
    text = format == "text" or (format == "auto" and sys.stderr.isatty())
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        handler.setFormatter(TextLines() if text else JsonLines())
    # Others' lines below a warning hold what ours never do: botocore's the answers with the secrets themselves,
    # Mangum's the path as it was sent, httpx's the URL of a key set or of a REST endpoint.
    root.setLevel(max(getattr(logging, level.upper()), logging.WARNING))
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())
    for unused in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks", "_srcfile"):
        setattr(logging, unused, None)  # a third of a line's cost, for nothing that a line holds (logging HOWTO)


def request_id(given: str | None) -> str:
    """Return the id that the request came with, if it is fit for a log and a header, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def told(**fields: Any) -> Mapping[str, Any]:
    """Return the fields of a line: `logger.info("request", extra=told(status=202))`."""
    return {"fields": fields}


class JsonLines(logging.Formatter):
    """A line of JSON: `time`, `level`, `logger`, `message`, the fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line ends within it are escaped."""
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
        except (TypeError, UnicodeEncodeError):  # a lone surrogate, or what is no JSON: rather told badly than lost
            return msgspec.json.encode({name: ascii(value) for name, value in line.items()}).decode()


class TextLines(logging.Formatter):
    """A line to read: time, level, logger, message and `name=value` for each field."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback below it where there is one."""
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@functools.lru_cache(maxsize=2)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
