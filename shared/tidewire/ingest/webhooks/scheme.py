"""The base class of the signature schemes, and the checks that several of them share.

Requests come from the open internet: whatever is wrong with a header, a scheme raises BadSignature and nothing else.
All keys and all signatures are compared, each in constant time: the duration shows neither which one matched nor how
much of it.
"""

import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.document import Table
from tidewire.ingest.mapping.payload import Payload

TOLERANCE = 300.0  # seconds between a signature's time and ours, before and after
MAX_SIGNATURES = 32  # in one header; a provider sends one per secret
MAX_JWT_LENGTH = 8_192  # characters; a longer token is refused before it is split
JWT_LEEWAY = 30.0  # seconds between the provider's clock and ours

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


class Delivery(NamedTuple):
    """A request as received: header names in lower case, the raw body, and the time in seconds since 1970."""

    headers: dict[str, str]
    body: bytes
    now: float

    def header(self, name: str) -> str:
        """Return the value of a header. Raises BadSignature if it is missing or empty."""
        value = self.headers.get(name.lower())
        if not value:
            raise BadSignature(f"The header {name} is missing")
        return value


class Scheme(ABC):
    """One way of signing. Instances hold the settings of `realtime.toml`, and no secret."""

    @classmethod
    def read(cls, table: Table) -> "Scheme":  # noqa: ARG003 — most schemes have no settings
        """Return the scheme that a source's table configures. Problems are recorded in the table's document."""
        return cls()

    def key(self, secret: str) -> bytes:
        """Return the key that the text of a secret stands for. Raises ValueError with the form that it must have."""
        return secret.encode()

    @abstractmethod
    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Raise BadSignature unless one of the keys signed this body within `TOLERANCE`."""

    @abstractmethod
    def delivery_id(self, payload: Payload) -> Any:
        """Return the id that a provider's retry repeats, None if the provider sends none."""

    def challenge(self, payload: Payload) -> str | None:
        """Return the challenge that the provider expects back before it sends deliveries; None for a delivery."""
        return None

    def is_shown(self, payload: Payload) -> bool:
        """Whether the provider shows the response body to a person; the response is then an empty 200."""
        return False


def member(payload: Payload, name: str) -> Any:
    """Return a member of the payload, None if the payload is not an object or has no such member."""
    return payload.value.get(name) if isinstance(payload.value, dict) else None


def check_time(timestamp: str, now: float) -> None:
    """Raise BadSignature unless a time in seconds is within `TOLERANCE`: a recorded request must not work later."""
    if not _TIMESTAMP.fullmatch(timestamp):
        raise BadSignature("The signature's timestamp is not a time in seconds")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise BadSignature(f"The signature's timestamp differs from the server's time by more than {TOLERANCE:g} s")


def check_any(expected: Iterable[str], given: Sequence[str]) -> None:
    """Raise BadSignature unless one of the given signatures is one of those expected."""
    if len(given) > MAX_SIGNATURES:
        raise BadSignature(f"The header holds more than {MAX_SIGNATURES} signatures")
    sent = [signature.encode("utf-8", "surrogatepass") for signature in given]
    found = False
    for one in expected:
        for signature in sent:
            found |= hmac.compare_digest(one.encode(), signature)
    if not found:
        raise BadSignature("The signature does not match")


def check_hex(keys: Iterable[bytes], signed: bytes, given: Sequence[str]) -> None:
    """Raise BadSignature unless a given signature is the HMAC-SHA256 of `signed` under one of the keys.

    Hexadecimal digits may be in either case.
    """
    digests = [hmac.new(key, signed, "sha256").hexdigest() for key in keys]
    check_any(digests, [signature.lower() for signature in given])


def verified_claims(token: str, keys: Sequence[bytes], issuer: str, required: Sequence[str]) -> Mapping[str, Any]:
    """Return the claims of an HS256 token of this issuer, signed with one of the keys. Raises BadSignature."""
    import jwt  # 80 ms of a cold start, only for the schemes that need it

    if len(token) > MAX_JWT_LENGTH:
        raise BadSignature(f"The signature has more than {MAX_JWT_LENGTH:,} characters")
    options: Any = {"require": ["iss", *required]}
    for key in keys:
        try:
            # The receiver chooses the algorithm: the token's own `alg` could be `none`, or take a public key as secret.
            claims = jwt.decode(token, key, algorithms=["HS256"], issuer=issuer, leeway=JWT_LEEWAY, options=options)
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise BadSignature("The signature is malformed, expired, or of another issuer") from None
        return claims
    raise BadSignature("The signature does not match")


def check_hash(claim: object, expected: str) -> None:
    """Raise BadSignature unless a token's claim is the expected hash of the body."""
    if not isinstance(claim, str) or not hmac.compare_digest(claim.encode("utf-8", "surrogatepass"), expected.encode()):
        raise BadSignature("The signature is for another body")
