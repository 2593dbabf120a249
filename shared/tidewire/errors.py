"""Every error that the core raises; the caller catches the branch it can answer.

TidewireError
├── SettingsError              a variable is missing or wrong: the start stops with this one line
├── InvalidRequest             the caller sent something wrong, and can mend it (400)
│   ├── ContentTooLarge        ... by sending less (413)
│   ├── UnsupportedCoding      ... by sending the body in another Content-Encoding (415)
│   ├── EventRefused           ... by sending another event: the log refuses this one for good (422)
│   └── MappingError           a webhook's payload has not what a rule of realtime.toml looks for (422)
├── Unauthorized               no credential, or none that holds (401)
│   └── BadSignature           ... a webhook that none of its source's secrets has signed in time
├── Forbidden                  a good credential that does not reach this far (403)
├── SubscriptionStopped        the server asks a client not to come back (204)
├── TooManyRequests            more than a limit of the deployment allows (429)
└── Unavailable                something that we need does not answer now (503)
└── TransportUnavailable   ... the log: what was published is not known to be kept
    └── TransportRefused   ... and it answers: it refuses whatever is appended, until somebody mends it
        └── AppendRefused  ... or perhaps this append alone
"""

from collections.abc import Sequence


class TidewireError(Exception):
    """Base of everything raised on purpose."""


class SettingsError(TidewireError):
    """A setting is missing or wrong; the text names the variable and what to do, never its value."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable


class InvalidRequest(TidewireError):
    """The request cannot be taken as it is; `errors` pairs a JSON pointer (RFC 6901) with what is wrong there."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class ContentTooLarge(InvalidRequest):
    """The request is well formed but larger than a stated limit."""


class UnsupportedCoding(InvalidRequest):
    """The body is in a Content-Encoding that is not taken."""


class EventRefused(InvalidRequest):
    """The log answers, and refuses this event for good: sent again as it is, it is refused again."""


class MappingError(InvalidRequest):
    """The payload is well formed, but a rule of `realtime.toml` does not fit it; no part of the payload is told."""


class Unauthorized(TidewireError):
    """No credential, or none that holds; `code` is RFC 6750's error code, None where none was sent.

    `retry_after` (s) is when the same credential will hold, None if it never will.
    """

    def __init__(self, detail: str, code: str | None = "invalid_token", retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.retry_after = retry_after


class BadSignature(Unauthorized):
    """A webhook's signature is missing, malformed, too old or not ours; the text holds no part of it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, None)


class Forbidden(TidewireError):
    """The credential is good but does not cover what was asked (RFC 6750: insufficient_scope)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class SubscriptionStopped(TidewireError):
    """The server asks its client not to come back."""


class TooManyRequests(TidewireError):
    """More than a limit allows; `limit` is its name, `retry_after` in seconds. Nothing was accepted."""

    def __init__(self, detail: str, limit: str, retry_after: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.limit = limit
        self.retry_after = max(1, retry_after)


class Unavailable(TidewireError):
    """Something that the answer depends on cannot be reached now; `retry_after` is in seconds.

    `errors` pairs a JSON pointer with what became of the part there, where it is known of each part.
    """

    def __init__(self, detail: str, retry_after: int = 1, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.errors = tuple(errors)


class TransportUnavailable(Unavailable):
    """The transport cannot be reached now: what was published is not known to be kept."""


class TransportRefused(TransportUnavailable):
    """The transport answers, and refuses appends until somebody mends it: no right, no memory, read-only.

    Not for a refusal of one event (too large for the store): the next event may be accepted.
    """


class AppendRefused(TransportRefused):
    """The same, where the answer does not say whether another append would be accepted.

    A right that is missing for one partition looks like one that is missing for all of them.
    """
