"""What a refusal by Redis means: its code, over TCP and REST alike."""

import re

from tidewire.errors import AppendRefused, TransportRefused, TransportUnavailable

ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED", "NOAUTH", "LOADING", "MOVED"})
"""Codes of a server that does not do its work now, or not any more. After a failover the address leads to another
one, and only an open connection still leads here: it is dropped with all that are idle, and the call made again."""

CLUSTER = frozenset({"MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN"})

LASTING = {"OOM", "NOPERM", "MISCONF", "READONLY", "NOREPLICAS", "NOAUTH", "WRONGPASS", *CLUSTER}
"""Codes that every append gets until somebody mends something."""

PERHAPS_ONE = frozenset({"NOPERM", "WRONGTYPE", "ERR"})
"""Codes that may be about the keys or the values of one append alone: a right that is missing for one partition, a key
of somebody else's, a limit. They may as well be about all of them."""

_INSIDE = re.compile(rf"\b({'|'.join(sorted(LASTING | ELSEWHERE))})\b")
_NOT_ALLOWED = "The user executing the script can't"  # Redis 7.0's words for NOPERM inside a script


def code_of(text: str) -> str:
    """Return the first word of an error reply, such as NOSCRIPT; ERR where it is none.

    Redis 6.2 wraps an error inside a script in an ERR of its own: then the code inside is returned, if it is known.
    """
    word = text.partition(" ")[0]
    if not (word.isascii() and word.isupper() and word.isalpha()):
        word = "ERR"
    if word == "ERR":
        if _NOT_ALLOWED in text:
            return "NOPERM"
        if "script" in text and (inside := _INSIDE.search(text)) is not None:
            return inside[1]
    return word


def unavailable(store: str, reason: str, code: str | None, retry_after: int = 1) -> TransportUnavailable:
    """Return the error for the caller. `reason` is ours or a code; `code` is that of a refusal, None without one."""
    kind: type[TransportUnavailable] = TransportRefused if code in LASTING else TransportUnavailable
    kind = AppendRefused if code in PERHAPS_ONE else kind
    hint = ": it runs in cluster mode, which is not supported; use a server without it" if code in CLUSTER else ""
    return kind(f"{store} cannot be used now ({reason}){hint}", retry_after)
