"""Netlify's deploy notifications ("Payload signature" in its documentation): a JWS over the body's SHA-256."""

import hashlib
from collections.abc import Sequence

from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hash, verified_claims


class Netlify(Scheme):
    """Header `X-Webhook-Signature`: HS256, claims `iss` (netlify) and `sha256` (of the body, in hexadecimal)."""

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the token, and that it is for this body."""
        claims = verified_claims(delivery.header("X-Webhook-Signature"), keys, "netlify", ["sha256"])
        check_hash(claims.get("sha256"), hashlib.sha256(delivery.body).hexdigest())

    def delivery_id(self, payload: Payload) -> None:
        """Return None: Netlify sends no id. The body's hash identifies it by the deploy's id, state and time."""
