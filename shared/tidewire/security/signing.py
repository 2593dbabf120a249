"""Signs subscriber tokens, which a backend gives to its users, and tickets, which open one stream each.

A ticket is part of a URL, and logs and browser histories may keep URLs. A ticket is therefore valid for one minute, is
signed with a key derived for tickets (no ticket passes as a token and no token as a ticket), and its stream ends when
the token expires that the ticket was made from.
"""

import hmac
import time
from collections.abc import Callable
from typing import Any

from tidewire.errors import Unauthorized
from tidewire.model.permissions import AllowedTypes
from tidewire.security.tokens import MAX_TOKEN_LENGTH, Identity, identity_of
from tidewire.settings.config import Settings

TICKET_SECONDS = 60
MAX_TTL = 86_400  # seconds; never more than the retention, after which a revocation is forgotten
DEFAULT_TTL = 3_600

_TICKET_KEY = b"tidewire ticket"


class Signer:
    """Signs with REALTIME_JWT_SECRET, which also verifies subscriber tokens; `enabled` is False without that secret."""

    def __init__(
        self,
        secret: str | None,
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0.0,
        *,
        maximum: float = MAX_TTL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.enabled = secret is not None
        self.max_ttl = max(1, int(min(MAX_TTL, maximum - leeway)))
        self._secret = secret or ""
        self._ticket_key = hmac.digest(self._secret.encode(), _TICKET_KEY, "sha256")
        self._fixed = {name: text for name, text in (("iss", issuer), ("aud", audience)) if text is not None}
        self._leeway = leeway
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings) -> "Signer":
        """Return the signer for these settings.

        The log keeps a revocation for the retention: a signed token must not be valid for longer.
        """
        s = settings
        return cls(s.jwt_secret, s.jwt_issuer, s.jwt_audience, s.jwt_leeway, maximum=s.retention)

    def token(self, user_id: str | None, types: AllowedTypes | None, ttl: int) -> str:
        """Return a subscriber token that is valid for `ttl` seconds; `types` None allows all types."""
        now = self._clock()
        # With its fraction: a token made after a revocation in the same second must not count as older than that.
        claims = {**self._fixed, **_claims(user_id, types), "iat": round(now, 3), "exp": int(now) + ttl}
        return _encode(claims, self._secret, "JWT")

    def ticket(self, identity: Identity) -> str:
        """Return a ticket that opens a stream for this identity."""
        claims: dict[str, Any] = {
            **_claims(identity.user_id, identity.types),
            "exp": int(self._clock()) + TICKET_SECONDS,
            "iat": identity.issued_at,  # the token's: a revocation of the token revokes the ticket too
        }
        if identity.expires_at is not None:
            claims["end"] = identity.expires_at
        return _encode(claims, self._ticket_key, "ticket+jwt")

    def redeem(self, ticket: str) -> Identity:
        """Return the identity in the ticket, which expires when its token does; raises Unauthorized."""
        import jwt

        if not self.enabled or len(ticket) > MAX_TOKEN_LENGTH:
            raise Unauthorized("The ticket is not valid")
        options: Any = {"require": ["exp"], "verify_iat": False}
        try:
            claims = jwt.decode(ticket, self._ticket_key, algorithms=["HS256"], leeway=self._leeway, options=options)
        except jwt.ExpiredSignatureError:
            raise Unauthorized(f"The ticket has expired after {TICKET_SECONDS} s: request a new one") from None
        except (jwt.PyJWTError, ValueError):
            raise Unauthorized("The ticket is not valid") from None
        end = claims.pop("end", None)
        if end is not None and end + self._leeway <= self._clock():
            raise Unauthorized("The token that the ticket was made from has expired")
        del claims["exp"]
        return identity_of(claims if end is None else {**claims, "exp": end})


def _claims(user_id: str | None, types: AllowedTypes | None) -> dict[str, Any]:
    subject = {} if user_id is None else {"sub": user_id}
    return subject if types is None else {**subject, "types": types.patterns()}


def _encode(claims: dict[str, Any], key: str | bytes, kind: str) -> str:
    import jwt

    return jwt.encode(claims, key, "HS256", {"typ": kind})
