"""How a command reaches a deployment: where it is, with which credentials, and what its refusals mean."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
import httpx
import msgspec

from tidewire.tools.cli.exits import CANNOT_START, FAILED, UNREACHABLE, Failed
from tidewire.tools.cli.output import plain

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
        help="Where the deployment is.",
    )(function)


def key_option(function: _Function) -> _Function:
    """Add `--key`; the environment keeps it out of the list of processes."""
    return click.option("--key", envvar="TIDEWIRE_KEY", show_envvar=True, help="A publish key.")(function)


def token_option(function: _Function) -> _Function:
    """Add `--token`."""
    return click.option("--token", envvar="TIDEWIRE_TOKEN", show_envvar=True, help="A subscriber token.")(function)


def connect(url: str, credential: str | None = None) -> httpx.Client:
    """Return a client of the deployment, which sends the key or token. Raises Failed where no header can carry it."""
    headers = {"accept-encoding": "identity"}
    if credential:
        if not credential.isascii() or not credential.isprintable() or " " in credential:
            raise Failed("the key or token holds characters that no header can carry", CANNOT_START)
        headers["authorization"] = f"Bearer {credential}"
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT)


def ask(http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """Return the answer, whatever its status. Raises Failed where there is none."""
    try:
        return http.request(method, path, **options)
    except httpx.RequestError as error:
        raise Failed(f"{http.base_url}: no answer ({type(error).__name__})", UNREACHABLE) from None
    except httpx.InvalidURL:
        raise Failed("--url is not a URL", CANNOT_START) from None


def expect(response: httpx.Response, status: int) -> httpx.Response:
    """Return the answer if it has this status. Raises Failed with what the server says."""
    if response.status_code == status:
        return response
    later = response.status_code in (429, 502, 503, 504)
    raise Failed(f"{response.status_code}: {problem_of(response)}", UNREACHABLE if later else FAILED)


def problem_of(response: httpx.Response) -> str:
    """Return what an answer that is an error says (RFC 9457), fit for a terminal."""
    told = _Problem()
    if "json" in response.headers.get("content-type", ""):
        try:
            told = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.DecodeError:
            told = _Problem(detail="an answer that is no problem+json")
    return plain(told.detail or told.title or response.reason_phrase)[:500]


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
