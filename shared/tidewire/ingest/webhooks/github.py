"""GitHub ("Validating webhook deliveries" in its documentation): the body, signed with HMAC-SHA256."""

from collections.abc import Sequence

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hex
from tidewire.model.event import ID_PATTERN

PREFIX = "sha256="


class GitHub(Scheme):
    """Header `X-Hub-Signature-256: sha256=<hex>`. No time and no header is signed."""

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify; the older X-Hub-Signature (SHA-1) is not looked at."""
        signature = delivery.header("X-Hub-Signature-256")
        if not signature.startswith(PREFIX):
            raise BadSignature(f"X-Hub-Signature-256 does not begin with {PREFIX}")
        if not ID_PATTERN.fullmatch(delivery.header("X-GitHub-Delivery")):
            raise BadSignature("X-GitHub-Delivery is not 1 to 256 visible ASCII characters")
        check_hex(keys, delivery.body, [signature.removeprefix(PREFIX)])

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the delivery's GUID, which a redelivery has again."""
        return payload.headers.get("x-github-delivery")
