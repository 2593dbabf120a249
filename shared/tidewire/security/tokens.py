"""Subscriber tokens (JWT, RFC 7519): token → identity → the events that the subscriber may receive.

`Verifier` makes an `Identity` from a token, and `interest_of` makes the audience filter from that identity.
PyJWT and cryptography are imported with the first token, so that a function that never verifies one starts without
them.
"""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from tidewire.errors import Forbidden, Unauthorized
from tidewire.model.audience import Interest
from tidewire.model.event import is_user_id
from tidewire.model.permissions import TYPE_OR_PATTERN, AllowedTypes
from tidewire.protocol.headers import bearer
from tidewire.security.jwks import KeySet
from tidewire.settings.config import Settings

logger = logging.getLogger(__name__)

MAX_TOKEN_LENGTH = 8_192  # characters; a longer token is refused before it is parsed
MAX_RETRY_AFTER = 86_400.0  # seconds; a token may begin in the year 9999
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: a key at least as long as the hash output

COOKIE = "realtime_token"

ALGORITHMS: Mapping[str, str] = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
"""The one algorithm that each type of public key verifies. The token does not choose: a public key used as an HMAC
secret, and the algorithm `none`, are the oldest attacks on JWT (RFC 8725 section 2.1)."""


TOKEN_TYPES = ("jwt", "at+jwt")
"""The accepted values of `typ`, which may also be absent. An issuer signs other things with the same key: a logout
token or a proof of possession must not pass as a subscriber token (RFC 8725 section 3.11)."""


class Identity(msgspec.Struct, frozen=True):
    """The claims of a verified token: user, allowed types (None: all), and times in seconds since 1970.

    A token without `iat` has `issued_at` 0: every revocation of its user covers it.
    """

    user_id: str | None = None
    types: AllowedTypes | None = None
    expires_at: float | None = None
    issued_at: float = 0.0


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
        """Return the verifier for these settings; the key set is fetched with the first token that needs it."""
        keys = KeySet(settings.jwks_url) if settings.jwks_url is not None else None
        return cls(settings.jwt_secret, keys, settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway)

    async def verify(self, token: str | None) -> Identity:
        """Return the identity in the token.

        Raises Unauthorized, with `retry_after` if the token is not valid yet (the issuer's clock is ahead by more than
        the leeway), and Unavailable if the token's key is unknown and the key set cannot be fetched now.
        """
        if token is None:
            raise Unauthorized("Send a subscriber token: Authorization: Bearer <token>, or the cookie", None)
        if len(token) > MAX_TOKEN_LENGTH:
            raise Unauthorized(f"The token is longer than {MAX_TOKEN_LENGTH:,} characters")
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
            raise Unauthorized(f"The token is not valid: {_reason(error)}") from None
        return identity_of(claims)

    def _decode(self, token: str, key: Any, algorithm: str, **options: Any) -> dict[str, Any]:
        """Return the claims of a valid token. PyJWT raises ValueError, TypeError and OverflowError beside its own."""
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
        """Return the error for a token that begins in the future; raises what `int` raises for a malformed time."""
        begins = max(int(claims[name]) for name in ("nbf", "iat") if name in claims)
        wait = math.ceil(min(MAX_RETRY_AFTER, max(1.0, begins - self._leeway - time.time())))
        return Unauthorized("The token is not valid yet", retry_after=wait)

    async def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the key for this JWT header, and the one algorithm that the key verifies."""
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


def subscriber_token(headers: Mapping[str, str]) -> str | None:
    """Return the token of the Authorization header, else of the cookie `realtime_token`; None if there is neither.

    Raises Unauthorized if the header uses another scheme than Bearer.
    """
    token = bearer(headers)
    if token is not None:
        return token
    for pair in headers.get("cookie", "").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE and value:
            return value.strip('"')
    return None


def interest_of(identity: Identity, wanted: frozenset[str] | None) -> Interest:
    """Return the filter of a subscription: the requested types (None: all), limited to those that the token allows.

    Raises Forbidden if the token does not allow a requested type, or allows none at all.
    """
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
    """Return the identity in verified claims; raises Unauthorized if a claim is malformed."""
    subject, types = claims.get("sub"), claims.get("types")
    if subject is not None and not (isinstance(subject, str) and is_user_id(subject)):
        raise Unauthorized("The token's sub is not a user id")
    if types is not None and not (
        isinstance(types, list) and all(isinstance(t, str) and TYPE_OR_PATTERN.fullmatch(t) for t in types)
    ):
        raise Unauthorized("The token's types must be a list of event types and of prefixes that end in *")
    try:
        expires = float(claims["exp"]) if "exp" in claims else None
        issued = float(claims.get("iat", 0.0))
    except OverflowError:
        raise Unauthorized("The token's exp or iat is not a time") from None
    return Identity(subject, None if types is None else AllowedTypes.parse(types), expires, issued)


def _reason(error: Exception) -> str:
    """Return why a token is not valid, without any part of the token."""
    import jwt

    reasons: list[tuple[type[Exception], str]] = [
        (jwt.ExpiredSignatureError, "it has expired"),
        (jwt.InvalidIssuerError, "its issuer is not REALTIME_JWT_ISSUER"),
        (jwt.InvalidAudienceError, "its audience is not REALTIME_JWT_AUDIENCE"),
        (jwt.MissingRequiredClaimError, "it lacks a required claim (iss or aud)"),
        (jwt.InvalidSignatureError, "its signature does not match"),
    ]
    return next((text for kind, text in reasons if isinstance(error, kind)), "it is malformed")
