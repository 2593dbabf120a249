"""GitHub ("Validating webhook deliveries" in its documentation): the body, signed with HMAC-SHA256."""

from collections.abc import Sequence

from shared.errors import BadSignature
from shared.event import ID_PATTERN
from shared.mapping.payload import Payload
from shared.webhooks.scheme import Delivery, Scheme, check_hex

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
