"""Why nobody answered: names, connections and certificates fail for different reasons, and want different remedies."""

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import httpx

from tidewire.tools.doctor.findings import Finding, fail


class Fault(NamedTuple):
    """What kind of fault it is (`dns`, `tls`, `refused`, `timeout`, `connection`), how it is told, and what helps."""

    kind: str
    reason: str
    advice: str


def unreachable(url: httpx.URL, error: Exception) -> Finding:
    """Return the finding for a request without an answer; what the error itself says may hold anything."""
    fault = _fault(url, error)
    return fail(fault.reason, fault.advice, fault=fault.kind)


def place(url: httpx.URL) -> str:
    """Return an address without what may be secret in it: user, password and query."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _fault(url: httpx.URL, error: Exception) -> Fault:
    host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            advice = "See that --url (or REALTIME_STREAM_URL) is right, and the name's A, AAAA or CNAME record"
            return Fault("dns", f"DNS: the name {host} cannot be resolved", advice)
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = (
                "Renew it, serve its whole chain, and see that it names this host; for an authority of your own,"
                " name its file in SSL_CERT_FILE"
            )
            return Fault("tls", f"TLS: the certificate of {host} does not hold: {cause.verify_message}", advice)
        if isinstance(cause, ssl.SSLError):
            advice = "See that this port speaks TLS 1.2 or newer, and not plain HTTP"
            return Fault("tls", f"TLS: no handshake with {host}:{port}", advice)
        if isinstance(cause, ConnectionRefusedError):
            advice = "Start it, or see that --url, HOST and PORT say the same"
            return Fault("refused", f"nothing listens at {host}:{port}", advice)
    if isinstance(error, httpx.ConnectTimeout):
        advice = "See that a firewall or a security group lets this port through"
        return Fault("timeout", f"no connection to {host}:{port} in time", advice)
    if isinstance(error, httpx.TimeoutException):
        advice = "See the log of the function or process, and the time-outs of what is in front of it"
        return Fault("timeout", f"{place(url)} took the request, and did not answer in time", advice)
    if isinstance(error, httpx.ConnectError):
        return Fault("connection", f"no connection to {host}:{port}", "See that the host is up, and the way to it open")
    advice = "See the log of the process, and of what is in front of it"
    return Fault("connection", f"the connection to {host}:{port} broke before the answer", advice)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address that was tried
            for one in error.exceptions:
                yield from _causes(one)
        error = error.__cause__ or error.__context__
