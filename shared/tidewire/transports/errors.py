"""Errors between a process and its store, and `REFUSALS`: the meaning of each refusal of Redis (READONLY, OOM …).

StoreError
├── ConnectionLost       no connection could be opened, or it broke: the command may have been executed
│   └── NotServing       ... the server refuses all work for now (READONLY, LOADING …); another connection may help
├── ReadTimeout          the server neither took nor sent a byte in time
├── ProtocolError        the reply is not of the protocol, or has no end
├── ConnectionClosed     this process closed its connections: a retry does not help
└── CommandError         the store refused one command
"""

import re
from enum import Flag, auto
from typing import NamedTuple

from tidewire.errors import AppendRefused, TransportRefused, TransportUnavailable


class StoreError(Exception):
    """Base of all. Its text is ours or a code, never text from the wire, so it may be logged and returned."""


class ConnectionLost(StoreError):
    """No connection could be opened, or it broke. Sending again may repeat what was done."""


class NotServing(ConnectionLost):
    """The server refuses all work for now; `code` says why. Another connection may lead to one that serves."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class ReadTimeout(StoreError):
    """The server neither took nor sent a byte in time."""


class ProtocolError(StoreError):
    """The reply is not of the protocol, or has no end."""


class ConnectionClosed(StoreError):
    """This process closed its connections."""


class Redirection(NamedTuple):
    """The node of a cluster to which MOVED or ASK sends a command.

    https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """

    asking: bool  # ASK: only this command, after ASKING; else the slot has moved
    slot: int
    host: str  # '' is the host of the node that answers
    port: int


class CommandError(StoreError):
    """The store refused one command; `code` is the first word of its reply: NOSCRIPT, OOM, READONLY …"""

    redirection: Redirection | None
    """Where MOVED and ASK lead. Not part of the text."""

    def __init__(self, text: str) -> None:
        self.code = code_of(text)
        self.redirection = _redirection(text)
        super().__init__(self.code)


class Refusal(Flag):
    """What a refusal says beyond the one command."""

    NOT_SERVING = auto()
    """The server does no work now, or is not the primary any more. After a failover the address leads to another one,
    and only open connections still lead here: they are dropped, and the call is made again."""
    LASTING = auto()
    """Every append is refused until an operator acts."""
    ONE_APPEND = auto()
    """It may concern the keys or the values of one append alone: a right that is missing for one partition, a key of
    another type, a limit. It may as well concern all of them."""
    CLUSTER = auto()
    """The server runs in cluster mode, which needs another URL. From a node of a cluster it passes: slots are being
    moved, or a primary is being replaced."""


_NOT_SERVING, _LASTING, _ONE_APPEND, _CLUSTER = Refusal
REFUSALS: dict[str, Refusal] = {
    "MASTERDOWN": _NOT_SERVING,
    "UNBLOCKED": _NOT_SERVING,
    "LOADING": _NOT_SERVING,
    "READONLY": _NOT_SERVING | _LASTING,
    "NOAUTH": _NOT_SERVING | _LASTING,
    "MOVED": _NOT_SERVING | _LASTING | _CLUSTER,
    "ASK": _LASTING | _CLUSTER,
    "CROSSSLOT": _LASTING | _CLUSTER,
    "CLUSTERDOWN": _LASTING | _CLUSTER,
    "TRYAGAIN": _LASTING | _CLUSTER,
    "MISCONF": _LASTING,
    "NOREPLICAS": _LASTING,
    "OOM": _LASTING,
    "WRONGPASS": _LASTING,
    "NOPERM": _LASTING | _ONE_APPEND,
    "WRONGTYPE": _ONE_APPEND,
    "ERR": _ONE_APPEND,
}
"""Redis' error codes, over TCP and REST alike (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""

_NONE = Refusal(0)
_WRAPPED = re.compile(rf"\b({'|'.join(code for code, means in REFUSALS.items() if means != _ONE_APPEND)})\b")
# NOPERM inside a script: Redis up to 7.0 and KeyDB; Redis from 7.2 and Valkey.
_NOT_ALLOWED = ("The user executing the script can't", "ACL failure in script")
_LIMIT = re.compile(r"max [a-z ]{1,40} exceeded")  # Upstash: "max request size exceeded"


def code_of(text: str) -> str:
    """Return the code of an error reply: its first word, or the limit of Upstash that it names; else ERR.

    Redis 6.2 wraps an error inside a script in an ERR of its own: then the code inside is returned, if it is known.
    """
    if (limit := _LIMIT.search(text)) is not None:
        return limit[0]
    word = text.partition(" ")[0]
    if not (word.isascii() and word.isupper() and word.isalpha()):
        word = "ERR"
    if word == "ERR":
        if any(words in text for words in _NOT_ALLOWED):
            return "NOPERM"
        if "script" in text and (inside := _WRAPPED.search(text)) is not None:
            return inside[1]
    return word


_REDIRECTION = re.compile(r"(MOVED|ASK) (\d{1,5}) ([^ ?]*):(\d{1,5})", re.ASCII)  # an IPv6 address has no brackets


def _redirection(text: str) -> Redirection | None:
    found = _REDIRECTION.fullmatch(text)
    return None if found is None else Redirection(found[1] == "ASK", int(found[2]), found[3], int(found[4]))


def is_not_serving(reply: object) -> bool:
    """Return whether a reply says that the server does no work now, or is not the primary any more."""
    return isinstance(reply, CommandError) and Refusal.NOT_SERVING in REFUSALS.get(reply.code, _NONE)


def unavailable(
    store: str, error: Exception | str, retry_after: int = 1, *, is_cluster: bool = False
) -> TransportUnavailable:
    """Return the error for the caller; its type follows from the code of a refusal.

    `error` is the exception, or a reason of our own. Of an exception that is not ours, only the type is named.
    `is_cluster` says that the store is used as a cluster.
    """
    code = error.code if isinstance(error, CommandError | NotServing) else None
    means = _NONE if code is None else REFUSALS.get(code, _NONE)
    if is_cluster and _CLUSTER in means:
        means = _NONE
    kind = TransportUnavailable
    if Refusal.LASTING in means:
        kind = TransportRefused
    if Refusal.ONE_APPEND in means:
        kind = AppendRefused
    hint = ": it runs in cluster mode, which needs a URL that begins with redis+cluster://" if _CLUSTER in means else ""
    reason = error if isinstance(error, str) else describe(error)
    return kind(f"{store} cannot be used now ({reason}){hint}", retry_after)


def describe(error: BaseException) -> str:
    """Name the error and its text if that is ours: a driver's may hold a host, or a URL with its password."""
    cause = error.__cause__ if isinstance(error, TransportUnavailable) and error.__cause__ else error
    name = type(cause).__name__
    return f"{name}: {cause}" if isinstance(cause, StoreError) and str(cause) else name
