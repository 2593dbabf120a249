"""Requests to a deployment: the options that select it, its client, and the errors of its responses."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import httpx
import msgspec

from tidewire.tools.cli.output import CANNOT_START, FAILED, UNREACHABLE, Failed, plain

TIMEOUT = 30.0  # seconds; a page may wait for 20

_Function = TypeVar("_Function", bound=Callable[..., Any])


def url_option(function: _Function) -> _Function:
    """Add `--url`."""
    return click.option(
        "--url",
        envvar="TIDEWIRE_URL",
        default="http://127.0.0.1:8787",
        show_default=True,
        show_envvar=True,
        callback=_address,
        help="Address of the deployment.",
    )(function)


def key_option(function: _Function) -> _Function:
    """Add `--key`; the environment variable keeps the key out of the process list."""
    return click.option("--key", envvar="TIDEWIRE_KEY", show_envvar=True, help="A publish key.")(function)


def token_option(function: _Function) -> _Function:
    """Add `--token`."""
    return click.option("--token", envvar="TIDEWIRE_TOKEN", show_envvar=True, help="A subscriber token.")(function)


def filter_options(function: _Function) -> _Function:
    """Add `--types`, `--user` and `--cursor`."""
    for option in (
        click.option("--cursor", default="", help="Start after this cursor."),
        click.option("--user", help="Receive the events of this user; only if authentication is off."),
        click.option("--types", default="", help="Event types, separated by commas; default: all."),
    ):
        function = option(function)
    return function


def connect(url: str, credential: str | None = None) -> httpx.Client:
    """Return a client of the deployment that sends the key or token. Raises Failed if a header cannot carry it."""
    headers = {"accept-encoding": "identity"}
    if credential:
        if not credential.isascii() or not credential.isprintable() or " " in credential:
            raise Failed("the key or token has characters that a header cannot carry", CANNOT_START)
        headers["authorization"] = f"Bearer {credential}"
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT)


def request(http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Return the response, whatever its status. Raises Failed if there is none."""
    try:
        return http.request(method, path, **options)
    except httpx.RequestError as error:
        raise Failed(f"{http.base_url}: no response ({type(error).__name__})", UNREACHABLE) from None
    except httpx.InvalidURL:
        raise Failed("--url is not a URL", CANNOT_START) from None


def expect(response: httpx.Response, status: int) -> httpx.Response:
    """Return the response if it has this status. Raises Failed with the server's problem."""
    if response.status_code == status:
        return response
    is_temporary = response.status_code in (429, 502, 503, 504)
    raise Failed(f"{response.status_code}: {problem_of(response)}", UNREACHABLE if is_temporary else FAILED)


def problem_of(response: httpx.Response) -> str:
    """Return the problem of an error response (RFC 9457), safe for a terminal."""
    problem = _Problem()
    if "json" in response.headers.get("content-type", ""):
        try:
            problem = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.DecodeError:
            problem = _Problem(detail="the response is not problem+json")
    return plain(problem.detail or problem.title or response.reason_phrase)[:500]


class _Problem(msgspec.Struct):
    title: str = ""
    detail: str = ""


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        parts = httpx.URL(value) if value.isascii() and value.isprintable() else None
    except httpx.InvalidURL:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise click.BadParameter("must be an http:// or https:// address, such as https://app.example.com")
    return value.rstrip("/")
