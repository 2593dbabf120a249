"""Every error that the core raises; the caller catches the branch that it can handle.

TidewireError
├── SettingsError              a variable is missing or wrong: the process stops with this one line
├── InvalidRequest             the request is wrong, and its sender can correct it (400)
│   ├── ContentTooLarge        ... it is larger than a limit (413)
│   ├── UnsupportedCoding      ... its Content-Encoding is not supported (415)
│   ├── EventRefused           ... the log refuses this event permanently (422)
│   └── MappingError           ... a webhook's payload lacks a value that a rule of realtime.toml needs (422)
├── Unauthorized               no credential, or an invalid one (401)
│   └── BadSignature           ... a webhook without a valid signature of its source
├── Forbidden                  a valid credential that does not permit the request (403)
├── SubscriptionStopped        the server ends the subscription, so the client must not reconnect (204)
├── TooManyRequests            a limit of the deployment is exceeded (429)
└── Unavailable                a server that the response depends on cannot be reached now (503)
    └── TransportUnavailable   ... the log: it is unknown whether the events were appended
        └── TransportRefused   ... the log answers, and refuses every append until an operator fixes it
            └── AppendRefused  ... or possibly only this append
"""

from collections.abc import Sequence


class TidewireError(Exception):
    """Base of every error that Tidewire raises on purpose."""


class SettingsError(TidewireError):
    """A setting is missing or wrong; the text names the variable and the remedy, never the value."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable


class InvalidRequest(TidewireError):
    """The request is wrong; `errors` pairs a JSON pointer (RFC 6901) with the problem at that place."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class ContentTooLarge(InvalidRequest):
    """The request is well formed but larger than a stated limit."""


class UnsupportedCoding(InvalidRequest):
    """The Content-Encoding of the body is not supported."""


class EventRefused(InvalidRequest):
    """The log refuses this event permanently: it would refuse the same event again."""


class MappingError(InvalidRequest):
    """The payload is well formed, but a rule of `realtime.toml` cannot map it; the text has no part of the payload."""


class Unauthorized(TidewireError):
    """No credential, or an invalid one; `code` is RFC 6750's error code, None if the request had no credential.

    `retry_after` is the number of seconds until the same credential becomes valid, None if it never will.
    """

    def __init__(self, detail: str, code: str | None = "invalid_token", retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.retry_after = retry_after


class BadSignature(Unauthorized):
    """A webhook's signature is missing, malformed, too old or wrong; the text has no part of it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, None)


class Forbidden(TidewireError):
    """The credential is valid but does not permit the request (RFC 6750: insufficient_scope)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SubscriptionStopped(TidewireError):
    """The server asks the client not to reconnect."""


class TooManyRequests(TidewireError):
    """A limit named `limit` is exceeded, and nothing was accepted; retry after `retry_after` seconds."""

    def __init__(self, detail: str, limit: str, retry_after: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.limit = limit
        self.retry_after = max(1, retry_after)


class Unavailable(TidewireError):
    """A server that the response depends on cannot be reached now; retry after `retry_after` seconds.

    `errors` pairs a JSON pointer with the result of that part of the request, if it is known for each part.
    """

    def __init__(self, detail: str, retry_after: int = 1, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.errors = tuple(errors)


class TransportUnavailable(Unavailable):
    """The transport cannot be reached now: it is unknown whether the events were appended."""


class TransportRefused(TransportUnavailable):
    """The transport answers, and refuses appends until an operator fixes it: no permission, no memory, read-only.

    Not raised if it refuses a single event (which is too large for the store): it may accept the next one.
    """


class AppendRefused(TransportRefused):
    """The transport refused an append, and its answer does not say whether it would accept another one.

    A missing permission for one partition looks like a missing permission for all of them.
    """
