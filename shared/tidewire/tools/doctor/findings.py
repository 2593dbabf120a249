"""Findings: a verdict with its reason, the values measured, and advice; also for requests without a response."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Literal

import httpx
import msgspec

Verdict = Literal["ok", "warn", "fail", "skip"]
Measured = str | int | float | bool


class Finding(msgspec.Struct, frozen=True):
    """The result of one check; `check` is its stable id. `advice` names what to change, empty if the verdict is ok.

    Names of measured values end with their unit (`…Ms`, `…Seconds`, `…Days`).
    """

    check: str
    verdict: Verdict
    reason: str
    measured: Mapping[str, Measured] = {}
    advice: str = ""


class Decided(Exception):
    """Ends a check with its finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.reason)
        self.finding = finding


def ok(reason: str, **measured: Measured) -> Finding:
    """Return the finding of a check that passed."""
    return Finding("", "ok", reason, measured)


def warn(reason: str, advice: str, **measured: Measured) -> Finding:
    """Return the finding of a check that passed, but needs attention."""
    return Finding("", "warn", reason, measured, advice)


def fail(reason: str, advice: str, **measured: Measured) -> Finding:
    """Return the finding of a check that failed."""
    return Finding("", "fail", reason, measured, advice)


def skip(reason: str, advice: str = "") -> Finding:
    """Return the finding of a check that could not run."""
    return Finding("", "skip", reason, {}, advice)


def milliseconds(seconds: float) -> float:
    """Return a duration in milliseconds, with one decimal."""
    return round(seconds * 1000, 1)


def public(url: httpx.URL) -> str:
    """Return a URL without the parts that may be secret: user, password and query."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def unreachable(url: httpx.URL, error: Exception) -> Finding:
    """Return the finding for a request without a response; `fault` is its kind.

    The error's own text is left out: it may contain anything.
    """
    host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return fail(
                f"DNS: the name {host} cannot be resolved",
                "Check --url (or REALTIME_STREAM_URL), and the name's A, AAAA or CNAME record",
                fault="dns",
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return fail(
                f"TLS: the certificate of {host} is not valid: {cause.verify_message}",
                "Renew it, serve its whole chain, and check that it names this host; for a private certificate"
                " authority, set SSL_CERT_FILE to its file",
                fault="tls",
            )
        if isinstance(cause, ssl.SSLError):
            return fail(
                f"TLS: the handshake with {host}:{port} failed",
                "Check that this port serves TLS 1.2 or newer, and not plain HTTP",
                fault="tls",
            )
        if isinstance(cause, ConnectionRefusedError):
            return fail(
                f"nothing listens on {host}:{port}",
                "Start the server, or check that --url, HOST and PORT agree",
                fault="refused",
            )
    if isinstance(error, httpx.ConnectTimeout):
        return fail(
            f"connecting to {host}:{port} timed out",
            "Check that firewalls and security groups open this port",
            fault="timeout",
        )
    if isinstance(error, httpx.TimeoutException):
        return fail(
            f"{public(url)} accepted the request, but did not respond in time",
            "See the log of the function or process, and check the time-outs of the proxy in front",
            fault="timeout",
        )
    if isinstance(error, httpx.ConnectError):
        return fail(
            f"no connection to {host}:{port}", "Check that the host is up and the network open", fault="connection"
        )
    return fail(
        f"the connection to {host}:{port} broke before the response",
        "See the logs of the process and of the proxy in front",
        fault="connection",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one error per address tried
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__
