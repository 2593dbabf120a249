"""GitHub ("Validating webhook deliveries" in its documentation): HMAC-SHA256 over the body."""

from collections.abc import Sequence

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hex
from tidewire.model.event import ID_PATTERN

PREFIX = "sha256="


class GitHub(Scheme):
    """Header `X-Hub-Signature-256: sha256=<hex>`. Neither a time nor a header is signed."""

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the signature; the older X-Hub-Signature (SHA-1) is ignored."""
        signature = delivery.header("X-Hub-Signature-256")
        if not signature.startswith(PREFIX):
            raise BadSignature(f"X-Hub-Signature-256 does not begin with {PREFIX}")
        if not ID_PATTERN.fullmatch(delivery.header("X-GitHub-Delivery")):
            raise BadSignature("X-GitHub-Delivery is not 1 to 256 visible ASCII characters")
        check_hex(keys, delivery.body, [signature.removeprefix(PREFIX)])

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the delivery's GUID, which a redelivery repeats."""
        return payload.headers.get("x-github-delivery")
