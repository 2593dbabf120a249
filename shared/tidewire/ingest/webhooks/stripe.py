"""Stripe ("Verify webhook signatures" in its documentation): HMAC-SHA256 over the time and the body."""

from collections.abc import Sequence
from typing import Any

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hex, check_time, member


class Stripe(Scheme):
    """Header `Stripe-Signature: t=<time>,v1=<hex>,…`, one v1 per secret; the key is the whole secret, with `whsec_`."""

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the v1 signatures. v0, which test events carry, is ignored: it proves nothing."""
        items = [item.strip().partition("=") for item in delivery.header("Stripe-Signature").split(",")]
        times = [value for name, _, value in items if name == "t"]
        if len(times) != 1:
            raise BadSignature("Stripe-Signature must have exactly one t=")
        check_time(times[0], delivery.now)
        given = [value for name, _, value in items if name == "v1"]
        check_hex(keys, b"%b.%b" % (times[0].encode(), delivery.body), given)

    def delivery_id(self, payload: Payload) -> Any:
        """Return the event's id (`evt_…`), from the signed body."""
        return member(payload, "id")
