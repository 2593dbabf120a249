"""Signatures that are JSON Web Tokens over the body's hash: what Netlify and QStash have in common."""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from tidewire.errors import BadSignature

MAX_LENGTH = 8_192  # characters; nothing longer is even split
LEEWAY = 30.0  # seconds between the provider's clock and ours


def verified_claims(token: str, keys: Sequence[bytes], issuer: str, required: Sequence[str]) -> Mapping[str, Any]:
    """Return the claims of an HS256 token of this issuer under one of the keys; raises BadSignature."""
    import jwt  # 80 ms of a cold start, where a source needs it

    if len(token) > MAX_LENGTH:
        raise BadSignature(f"The signature has more than {MAX_LENGTH:,} characters")
    options: Any = {"require": ["iss", *required]}
    for key in keys:
        try:
            # The algorithm is ours to choose: `none`, or a public key taken as a secret, is the oldest attack on JWT.
            claims = jwt.decode(token, key, algorithms=["HS256"], issuer=issuer, leeway=LEEWAY, options=options)
        except jwt.InvalidSignatureError:
            continue
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError):
            raise BadSignature("The signature is malformed, expired, or of another issuer") from None
        return claims
    raise BadSignature("The signature does not match")


def check_hash(claim: object, expected: str) -> None:
    """Raise BadSignature unless a token's claim is the hash of the body that came with it."""
    if not isinstance(claim, str) or not hmac.compare_digest(claim.encode("utf-8", "surrogatepass"), expected.encode()):
        raise BadSignature("The signature is that of another body")
