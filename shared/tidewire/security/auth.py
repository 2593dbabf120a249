"""Who is asking: publish keys, and subscriber tokens (JWT, RFC 7519) → identity.

PyJWT and cryptography are imported at the first token, so that a function that never sees one does not pay for
them at its cold start.
"""

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from tidewire.errors import Forbidden, Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.event import Event, is_user_id
from tidewire.model.permissions import TYPE_OR_PATTERN, AllowedTypes, PublishKey
from tidewire.security.jwks import KeySet
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

MAX_TOKEN_LENGTH = 8_192  # characters; nothing longer is even split
MAX_RETRY_AFTER = 86_400.0  # seconds; a token may begin in the year 9999
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: a key of the same size as the hash output, or larger

ALGORITHMS: Mapping[str, str] = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""The one algorithm that each type of public key verifies. A token does not choose: a public key taken as an HMAC
secret, or `none`, is the oldest attack on JWT (RFC 8725 section 2.1)."""


TOKEN_TYPES = ("jwt", "at+jwt")
"""The `typ` that a subscriber token may have, if it has one. An issuer signs other things with the same key: a logout
token or a proof of possession is not a subscriber's (RFC 8725 section 3.11)."""


class Identity(msgspec.Struct, frozen=True):
    """What a token says: the user, the types allowed (None is all), when it ends and when it was issued.

    Times are in s since 1970. A token that does not say when it was issued is older than every revocation.
    """

    user_id: str | None = None
    types: AllowedTypes | None = None
    expires_at: float | None = None
    issued_at: float = 0.0


class PublishKeys:
    """The keys that may publish."""

    def __init__(self, keys: tuple[PublishKey, ...]) -> None:
        self._keys = [(hashlib.sha256(key.secret.encode()).digest(), key) for key in keys]

    def check(self, token: str | None) -> PublishKey:
        """Return the key and its rights; raises Unauthorized.

        Digests are compared, in constant time and all of them: neither the length of a key nor how much of it
        was right shows in the time.
        """
        if token is None:
            raise Unauthorized("Send a publish key: Authorization: Bearer <key>", None)
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        matches = [key for known, key in self._keys if hmac.compare_digest(digest, known)]
        if not matches:
            raise Unauthorized("The publish key is not one of REALTIME_PUBLISH_KEYS")
        return matches[0]


def check_types(key: PublishKey, events: Iterable[Event]) -> None:
    """Raise Forbidden where the key may not publish one of the events."""
    if key.types is not None:
        for event in events:
            if event.type not in key.types:
                raise Forbidden(f"The publish key does not allow the type {event.type!r}")


def check_right(key: PublishKey, right: str) -> None:
    """Raise Forbidden where the key is limited and this right is not among its limits."""
    if right not in key.permissions:
        raise Forbidden(f"The publish key does not have the right {right}: list it again with :{right}")


class Verifier:
    """Verifies subscriber tokens: HS256 with the shared secret, RS256, ES256 and EdDSA with the key set."""

    def __init__(
        self,
        secret: str | None,
        keys: KeySet | None,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        self._secret = secret
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway
        if secret is not None and len(secret.encode()) < MIN_SECRET_BYTES:
            logger.warning(
                "REALTIME_JWT_SECRET is shorter than %d bytes and can be guessed from one token; make one with:"
                " openssl rand -hex 32",
                MIN_SECRET_BYTES,
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Verifier":
        """Return the verifier that the settings describe; the key set is not fetched yet."""
        keys = KeySet(settings.jwks_url) if settings.jwks_url is not None else None
        return cls(settings.jwt_secret, keys, settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway)

    async def verify(self, token: str | None) -> Identity:
        """Return who the token speaks for.

        Raises Unauthorized, with `retry_after` if the token only begins later (the issuer's clock is ahead by more than
        the leeway), and Unavailable if its key is not known and cannot be looked up now.
        """
        if token is None:
            raise Unauthorized("Send a subscriber token: Authorization: Bearer <token>, or the cookie", None)
        if len(token) > MAX_TOKEN_LENGTH:
            raise Unauthorized("The token is too long to be one of ours")
        import jwt

        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise Unauthorized("The token is not a JWT") from None
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TOKEN_TYPES:
            raise Unauthorized("The token is of another type: its typ must be JWT or at+jwt")
        key, algorithm = await self._key(header)
        try:
            try:
                claims = self._decode(token, key, algorithm)
            except jwt.ImmatureSignatureError:
                claims = self._decode(token, key, algorithm, verify_iat=False, verify_nbf=False)
                raise self._not_valid_yet(claims) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Unauthorized(f"The token does not hold: {_reason(error)}") from None
        return identity_of(claims)

    def _decode(self, token: str, key: Any, algorithm: str, **options: Any) -> dict[str, Any]:
        """Return the claims of a token that holds; raises what PyJWT raises, which is not only its own errors."""
        import jwt

        options["verify_aud"] = self._audience is not None
        options["require"] = [name for name, set_ in (("iss", self._issuer), ("aud", self._audience)) if set_]
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            options=cast("jwt.types.Options", options),
        )

    def _not_valid_yet(self, claims: Mapping[str, Any]) -> Unauthorized:
        """Return the error for a token that holds in all but its beginning; raises what `int` raises."""
        begins = max(int(claims[name]) for name in ("nbf", "iat") if name in claims)
        wait = math.ceil(min(MAX_RETRY_AFTER, max(1.0, begins - self._leeway - time.time())))
        return Unauthorized("The token does not hold: it is not valid yet", retry_after=wait)

    async def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the key for this header and the one algorithm that it verifies."""
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            return self._secret, "HS256"
        if algorithm in ALGORITHMS.values() and self._keys is not None:
            kid = header.get("kid")
            key = await self._keys.find(kid if isinstance(kid, str) else None, str(algorithm))
            if key is not None:
                return key, str(algorithm)
            raise Unauthorized("The token's key is not in the key set")
        raise Unauthorized("The token's algorithm is not one that this server verifies")


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of the Authorization header, None where there is no header; raises Unauthorized."""
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Use the Bearer scheme: Authorization: Bearer <token>", None)
    return token.strip()


def subscriber_token(headers: Mapping[str, str]) -> str | None:
    """Return the token of the Authorization header, else of the cookie `realtime_token`."""
    token = bearer(headers)
    if token is not None:
        return token
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == "realtime_token" and value:
            return value.strip('"')
    return None


def interest_of(identity: Identity, wanted: frozenset[str] | None) -> Interest:
    """Return what to deliver: what is wanted, within what the token allows. Raises Forbidden."""
    allowed = identity.types
    if allowed is None or allowed == _EVERY_TYPE:
        return Interest(identity.user_id, wanted)
    if not allowed.names and not allowed.prefixes:
        raise Forbidden("The token allows no event type at all")
    if wanted is None:
        return Interest(identity.user_id, allowed.names, allowed.prefixes)
    if refused := [name for name in wanted if name not in allowed]:
        raise Forbidden(f"The token does not allow the type {min(refused)!r}")
    return Interest(identity.user_id, wanted)


_EVERY_TYPE = AllowedTypes.parse(["*"])


def identity_of(claims: Mapping[str, Any]) -> Identity:
    """Return what verified claims say; raises Unauthorized where one of them is not of its form."""
    subject, types = claims.get("sub"), claims.get("types")
    if subject is not None and not (isinstance(subject, str) and is_user_id(subject)):
        raise Unauthorized("The token's sub is not a user id")
    if types is not None and not (
        isinstance(types, list) and all(isinstance(t, str) and TYPE_OR_PATTERN.fullmatch(t) for t in types)
    ):
        raise Unauthorized("The token's types must be a list of event types, or of the beginnings of some and *")
    try:
        expires = float(claims["exp"]) if "exp" in claims else None
        issued = float(claims.get("iat", 0.0))
    except OverflowError:
        raise Unauthorized("The token's exp or iat is not a time") from None
    return Identity(subject, None if types is None else AllowedTypes.parse(types), expires, issued)


def _reason(error: Exception) -> str:
    """Name what is wrong without any part of the token."""
    import jwt

    reasons: list[tuple[type[Exception], str]] = [
        (jwt.ExpiredSignatureError, "it has expired"),
        (jwt.InvalidIssuerError, "its issuer is not REALTIME_JWT_ISSUER"),
        (jwt.InvalidAudienceError, "its audience is not REALTIME_JWT_AUDIENCE"),
        (jwt.MissingRequiredClaimError, "it lacks a claim that is required here (iss or aud)"),
        (jwt.InvalidSignatureError, "its signature does not match"),
    ]
    return next((text for kind, text in reasons if isinstance(error, kind)), "it is malformed")
