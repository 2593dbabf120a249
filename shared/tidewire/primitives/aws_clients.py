"""boto3 clients, created on first use: importing boto3 takes longer than importing all of Tidewire."""

import functools
import threading
from typing import Any

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
TRIES = 3  # of one request, with backoff and jitter: after throttling, 5xx and lost connections

_creating = threading.Lock()  # threads may share a client, but one session must not create two at once


def client(service: str, region: str | None = None) -> Any:
    """Return a new boto3 client. Blocks: a coroutine must call it in a thread.

    Lambda's runtime includes boto3; elsewhere requirements-aws.txt installs it.
    """
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    with _creating:
        return _session().client(service, region_name=region, config=config)


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that a client call raises: AWS's error responses and failed connections."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def code(error: Exception) -> str:
    """Return AWS's error code; the error's text may contain account names and numbers."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


@functools.cache
def _session() -> Any:
    """Return the session that all clients share: it loads the service descriptions once."""
    import boto3

    return boto3.session.Session()
