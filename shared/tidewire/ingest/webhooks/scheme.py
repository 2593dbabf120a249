"""What every signature scheme does, and the comparisons that all of them need.

A scheme looks at what stands in the open internet: whatever is wrong with a header, it raises BadSignature and nothing
else. All keys and all signatures are compared, each in constant time: which one matched, and how much of it, does not
show in the time.
"""

import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.document import Table
from tidewire.ingest.mapping.payload import Payload

TOLERANCE = 300.0  # seconds between a signature's time and ours, before and after
MAX_SIGNATURES = 32  # in one header; a provider sends one a secret

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Delivery(NamedTuple):
    """A request as it came: header names in lower case, the body not decoded, and the time in s since 1970."""

    headers: dict[str, str]
    body: bytes
    now: float

    def header(self, name: str) -> str:
        """Return a header's text; raises BadSignature where it is missing or empty."""
        value = self.headers.get(name.lower())
        if not value:
            raise BadSignature(f"The header {name} is missing")
        return value


class Scheme(ABC):
    """One way of signing. Instances hold what `realtime.toml` says, and no secret."""

    @classmethod
    def read(cls, table: Table) -> "Scheme":  # noqa: ARG003 — most schemes have nothing to configure
        """Return the scheme as a source's table configures it; what is wrong is noted in the table's document."""
        return cls()

    def key(self, secret: str) -> bytes:
        """Return the key that a secret's text stands for; raises ValueError saying what the text must be."""
        return secret.encode()

    @abstractmethod
    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Return where one of the keys has signed this body, in time; raises BadSignature."""

    @abstractmethod
    def delivery_id(self, payload: Payload) -> Any:
        """Return the id that a provider's retry has again, None where the provider sends none."""

    def challenge(self, payload: Payload) -> str | None:
        """Return what a provider wants to hear back before it sends deliveries, None where this is a delivery."""
        return None

    def is_shown(self, payload: Payload) -> bool:
        """Whether the provider shows the answer's body to a person: then it is a 200 without one."""
        return False


def member(payload: Payload, name: str) -> Any:
    """Return a member of the payload, None where it is no object or has none of this name."""
    return payload.value.get(name) if isinstance(payload.value, dict) else None


def check_time(timestamp: str, now: float) -> None:
    """Raise BadSignature unless a time in seconds is near: a request that was recorded cannot be sent later."""
    if not _TIMESTAMP.fullmatch(timestamp):
        raise BadSignature("The signature's timestamp is not a time in seconds")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise BadSignature(f"The signature's timestamp is more than {TOLERANCE:g} s away")


def check_any(expected: Iterable[str], given: Sequence[str]) -> None:
    """Raise BadSignature unless one of the signatures given is one of those expected."""
    if len(given) > MAX_SIGNATURES:
        raise BadSignature(f"More than {MAX_SIGNATURES} signatures were sent")
    sent = [signature.encode("utf-8", "surrogatepass") for signature in given]
    found = False
    for one in expected:
        for signature in sent:
            found |= hmac.compare_digest(one.encode(), signature)
    if not found:
        raise BadSignature("The signature does not match")


def check_hex(keys: Iterable[bytes], signed: bytes, given: Sequence[str]) -> None:
    """Raise BadSignature unless one of these is the HMAC-SHA256 of the signed bytes under one of the keys.

    Hexadecimal digits may be of either case.
    """
    digests = [hmac.new(key, signed, "sha256").hexdigest() for key in keys]
    check_any(digests, [signature.lower() for signature in given])
