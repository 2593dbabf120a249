"""Clients of AWS's own APIs, made where one is needed: boto3 alone takes longer to import than all of ours."""

from typing import Any

CONNECT_SECONDS = 2.0
READ_SECONDS = 5.0
TRIES = 3  # of one request: throttling, 5xx and lost connections are tried again, with backoff and jitter


def client(service: str, region: str | None = None) -> Any:
    """Return a boto3 client; it blocks, so a coroutine calls it in a thread.

    A client may be used by several threads at once, a session may not: each client has one of its own. Lambda
    brings boto3 with its runtime; elsewhere requirements-aws.txt does.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )
    return boto3.session.Session(region_name=region).client(service, config=config)


def failures() -> tuple[type[Exception], ...]:
    """Return what a call of a client raises: AWS's refusals, and connections that fail."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def code(error: Exception) -> str:
    """Name the failure by AWS's code for it; its text may hold the names and numbers of an account."""
    answer: dict[str, Any] = getattr(error, "response", {})
    return str(answer.get("Error", {}).get("Code") or type(error).__name__)
