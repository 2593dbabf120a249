"""`settings`: the settings in this shell, checked before any request."""

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import httpx

from tidewire.client.retry import claims_of, expiry_of
from tidewire.errors import SettingsError
from tidewire.security.tokens import MIN_SECRET_BYTES
from tidewire.settings.config import Settings
from tidewire.settings.secrets import references
from tidewire.tools.doctor.deployment import Deployment
from tidewire.tools.doctor.findings import Finding, Measured, Verdict, public
from tidewire.wiring import survey

_TRANSPORTS = "See the requirements of the store in docs/transports.md"

MIN_KEY_CHARACTERS = 16  # a shorter key can be guessed by trial


class _Problem(NamedTuple):
    verdict: Verdict
    reason: str
    advice: str


async def settings(deployment: Deployment) -> Finding:
    """Check the address, the credentials, and the deployment's variables if this shell has them."""
    problems = [
        *_address(deployment),
        *_key(deployment),
        *_token(deployment.token),
        *_variables(deployment.environ),
        *await _store(deployment.environ),
    ]
    if deployment.key is not None and not _is_sendable(deployment.key):
        deployment.key = None
    if deployment.token is not None and not _is_sendable(deployment.token):
        deployment.token = None
    where = public(httpx.URL(deployment.url))
    measured: dict[str, Measured] = {"url": where, "key": bool(deployment.key), "token": bool(deployment.token)}
    if not problems:
        return Finding("", "ok", f"{where}, with {_credentials(deployment)}", measured)
    verdict: Verdict = "fail" if any(problem.verdict == "fail" for problem in problems) else "warn"
    reasons, advice = (
        "; ".join(texts)
        for texts in ([problem.reason for problem in problems], dict.fromkeys(problem.advice for problem in problems))
    )
    return Finding("", verdict, reasons, measured, advice)


def _credentials(deployment: Deployment) -> str:
    given = [name for name, secret in (("a key", deployment.key), ("a token", deployment.token)) if secret]
    return " and ".join(given) or "no credentials"


def _address(deployment: Deployment) -> Iterator[_Problem]:
    url = httpx.URL(deployment.url)
    if not deployment.url_given:
        yield _Problem("warn", "TIDEWIRE_URL is not set: checking this machine", "Use --url or set TIDEWIRE_URL")
    if url.userinfo:
        yield _Problem("fail", "--url contains a user or password", "Remove them: credentials belong in TIDEWIRE_KEY")
    if url.query or url.fragment or url.path.rstrip("/").endswith("/api"):
        yield _Problem("fail", "--url is more than the address", "Use it without /api, query and fragment")
    if url.scheme == "http" and not deployment.is_local:
        yield _Problem(
            "fail",
            "--url is http://: keys, tokens and events travel unencrypted",
            "Put a proxy with TLS in front, and use the https:// address"
            " (docs/containers.md, Proxies and load balancers)",
        )


def _key(deployment: Deployment) -> Iterator[_Problem]:
    key = deployment.key
    if key is None:
        if not deployment.is_local:
            yield _Problem(
                "warn" if deployment.token else "fail",
                "TIDEWIRE_KEY is not set: the checks that publish are skipped",
                "Set TIDEWIRE_KEY to one of REALTIME_PUBLISH_KEYS",
            )
    elif not _is_sendable(key):
        yield _Problem(
            "fail",
            "TIDEWIRE_KEY has a space or a character that a header cannot carry",
            "Set it to one key, without quotes and line ends",
        )
    elif "," in key:
        yield _Problem("fail", "TIDEWIRE_KEY has a comma: it is a list", "Set it to one of REALTIME_PUBLISH_KEYS")
    elif len(key) < MIN_KEY_CHARACTERS and not deployment.is_local:
        yield _Problem(
            "warn",
            f"TIDEWIRE_KEY has only {len(key)} characters, and can be guessed",
            "Make one with openssl rand -hex 32, and list it in REALTIME_PUBLISH_KEYS beside the old one for a while",
        )


def _token(token: str | None) -> Iterator[_Problem]:
    if token is None:
        return
    expiry = expiry_of(token)
    if not _is_sendable(token) or not claims_of(token):
        yield _Problem("fail", "TIDEWIRE_TOKEN is not a JWT", "Make one: tidewire token --remote USER")
    elif expiry is not None and expiry < time.time():
        yield _Problem("fail", "TIDEWIRE_TOKEN has expired", "Make another one: tidewire token --remote USER")


def _variables(environ: Mapping[str, str]) -> Iterator[_Problem]:
    """Check the deployment's own variables, which a container's shell has."""
    try:
        named = references(environ)  # only AWS can resolve these
        if "REALTIME_TRANSPORT" in environ and not named:
            Settings.from_env(environ)
    except SettingsError as error:
        reason = f"a deployment with this shell's variables would not start: {error}"
        yield _Problem("warn", reason, "See docs/configuration.md for every variable")
        return
    secret = environ.get("REALTIME_JWT_SECRET", "").strip()
    if secret and "REALTIME_JWT_SECRET" not in named and len(secret.encode()) < MIN_SECRET_BYTES:
        yield _Problem(
            "warn",
            f"REALTIME_JWT_SECRET is shorter than {MIN_SECRET_BYTES} bytes, and can be guessed offline from one token",
            "Make one with openssl rand -hex 32",
        )


async def _store(environ: Mapping[str, str]) -> list[_Problem]:
    """Check the settings of the store, if this shell has its address."""
    try:
        if "REALTIME_TRANSPORT" not in environ or references(environ):
            return []
        configured = Settings.from_env(environ)
    except SettingsError:
        return []  # reported by `_variables`
    try:
        warnings = await survey(configured)
    except SettingsError as error:
        return [_Problem("fail", f"a deployment with this shell's variables would not start: {error}", _TRANSPORTS)]
    return [_Problem("warn", warning, _TRANSPORTS) for warning in warnings]


def _is_sendable(credential: str) -> bool:
    return credential.isascii() and credential.isprintable() and " " not in credential
