"""Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over the id, the time and the body."""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_any, check_time
from tidewire.model.event import ID_PATTERN

PREFIX = "whsec_"
NAMES = ("webhook", "svix")
"""Prefixes of the header names: Svix and the providers that use it kept theirs from before the standard."""
PARTS = ("id", "timestamp", "signature")


class StandardWebhooks(Scheme):
    """Headers `webhook-id`, `webhook-timestamp`, and `webhook-signature`: a list of `v1,<base64>`, one per secret.

    Or the same three as `svix-…`. The first complete set counts; the sets are never mixed.
    """

    def key(self, secret: str) -> bytes:
        """Return the base64 after `whsec_`, decoded, with or without padding."""
        text = secret.removeprefix(PREFIX)
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise ValueError(f"must be base64, after {PREFIX}")
        return key

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the v1 signatures; other versions (v1a is asymmetric) are ignored."""
        name = _name(delivery.headers)
        id, time = delivery.header(f"{name}-id"), delivery.header(f"{name}-timestamp")
        signatures = delivery.header(f"{name}-signature").split(" ")
        if not ID_PATTERN.fullmatch(id):
            raise BadSignature(f"The {name}-id is not 1 to 256 visible ASCII characters")
        check_time(time, delivery.now)
        signed = b"%b.%b.%b" % (id.encode(), time.encode(), delivery.body)
        given = [item.removeprefix("v1,") for item in signatures if item[:3] == "v1,"]
        check_any([base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys], given)

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the id, which the signature covers."""
        return payload.headers.get(f"{_name(payload.headers)}-id")


def _name(headers: Mapping[str, str]) -> str:
    """Return the prefix of the first complete set, else of the set with the most headers."""
    counts = [sum(bool(headers.get(f"{name}-{part}")) for part in PARTS) for name in NAMES]
    return NAMES[counts.index(max(counts))]
