"""Slack ("Verifying requests from Slack" in its documentation): HMAC-SHA256 over the time and the body."""

from collections.abc import Sequence
from typing import Any

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hex, check_time, member

PREFIX = "v0="


class Slack(Scheme):
    """Headers `X-Slack-Request-Timestamp` and `X-Slack-Signature: v0=<hex>`.

    The Events API sends JSON; slash commands and interactive components send forms.
    """

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify the time and the signature."""
        time, signature = delivery.header("X-Slack-Request-Timestamp"), delivery.header("X-Slack-Signature")
        check_time(time, delivery.now)
        if not signature.startswith(PREFIX):
            raise BadSignature(f"X-Slack-Signature does not begin with {PREFIX}")
        signed = b"v0:%b:%b" % (time.encode(), delivery.body)
        check_hex(keys, signed, [signature.removeprefix(PREFIX)])

    def delivery_id(self, payload: Payload) -> Any:
        """Return the event's id from the signed body, which a retry repeats. Forms have no id, and are not retried."""
        return member(payload, "event_id")

    def challenge(self, payload: Payload) -> str | None:
        """Return the challenge of url_verification, which Slack sends when its user enters the URL."""
        challenge = member(payload, "challenge")
        is_verification = member(payload, "type") == "url_verification" and isinstance(challenge, str)
        return challenge if is_verification else None

    def is_shown(self, payload: Payload) -> bool:
        """Whether it is a form: Slack shows the response to a command or a click as a message, and requires a 200."""
        return payload.is_form
