"""Netlify's deploy notifications ("Payload signature" in its documentation): a JWS over the body's SHA-256."""

import hashlib
from collections.abc import Sequence

from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.json_web_token import check_hash, verified_claims
from tidewire.ingest.webhooks.scheme import Delivery, Scheme


class Netlify(Scheme):
    """Header `X-Webhook-Signature`: HS256, claims `iss` (netlify) and `sha256` (of the body, in hexadecimal)."""

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify."""
        claims = verified_claims(delivery.header("X-Webhook-Signature"), keys, "netlify", ["sha256"])
        check_hash(claims.get("sha256"), hashlib.sha256(delivery.body).hexdigest())

    def delivery_id(self, payload: Payload) -> None:
        """Return None: Netlify sends no id. The body's hash is one: it has the deploy's id, state and time."""
