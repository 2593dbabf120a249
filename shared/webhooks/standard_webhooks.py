"""Standard Webhooks (https://www.standardwebhooks.com): id, time and body, signed with HMAC-SHA256."""

import base64
import binascii
import hmac
from collections.abc import Sequence

from shared.errors import BadSignature
from shared.event import ID_PATTERN
from shared.mapping.payload import Payload
from shared.webhooks.scheme import Delivery, Scheme, check_any, check_time

PREFIX = "whsec_"


class StandardWebhooks(Scheme):
    """Headers `webhook-id`, `webhook-timestamp`, and `webhook-signature`: a list of `v1,<base64>`, one a secret."""

    def key(self, secret: str) -> bytes:
        """Return the bytes that follow `whsec_` in base64, with or without padding."""
        text = secret.removeprefix(PREFIX)
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise ValueError(f"must be base64, after {PREFIX}")
        return key

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify; signatures of other versions than v1 (v1a is asymmetric) are passed over."""
        id, time = delivery.header("webhook-id"), delivery.header("webhook-timestamp")
        if not ID_PATTERN.fullmatch(id):
            raise BadSignature("The webhook-id is not 1 to 256 visible ASCII characters")
        check_time(time, delivery.now)
        signed = b"%b.%b.%b" % (id.encode(), time.encode(), delivery.body)
        given = [
            item.removeprefix("v1,") for item in delivery.header("webhook-signature").split(" ") if item[:3] == "v1,"
        ]
        check_any([base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys], given)

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the id, which the signature covers."""
        return payload.headers.get("webhook-id")
