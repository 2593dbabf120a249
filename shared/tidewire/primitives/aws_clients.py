"""Clients of AWS's own APIs, made where one is needed: boto3 alone takes longer to import than all of ours."""

import functools
import threading
from typing import Any

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
TRIES = 3  # of one request: throttling, 5xx and lost connections are tried again, with backoff and jitter

_making = threading.Lock()  # threads may share a client, but not make two of one session at once


def client(service: str, region: str | None = None) -> Any:
    """Return a boto3 client; it blocks, so a coroutine calls it in a thread.

    Lambda brings boto3 with its runtime; elsewhere requirements-aws.txt does.
    """
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    with _making:
        return _session().client(service, region_name=region, config=config)


def failures() -> tuple[type[Exception], ...]:
    """Return what a call of a client raises: AWS's refusals, and connections that fail."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def code(error: Exception) -> str:
    """Name the failure by AWS's code for it; its text may hold the names and numbers of an account."""
    answer: dict[str, Any] = getattr(error, "response", {})
    return str(answer.get("Error", {}).get("Code") or type(error).__name__)


@functools.cache
def _session() -> Any:
    """Return the session that all clients share: it has read the descriptions of the services once."""
    import boto3

    return boto3.session.Session()
