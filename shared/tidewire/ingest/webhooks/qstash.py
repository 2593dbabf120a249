"""Upstash QStash ("Verify Signatures" in its documentation): a JWT over the receiver's URL and the body's SHA-256."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tidewire.errors import BadSignature
from tidewire.ingest.mapping.document import Table
from tidewire.ingest.mapping.payload import Payload
from tidewire.ingest.webhooks.scheme import Delivery, Scheme, check_hash, verified_claims
from tidewire.model.event import ID_PATTERN


@dataclass(frozen=True, slots=True)
class QStash(Scheme):
    """Header `Upstash-Signature`: HS256, claims `iss` (Upstash), `sub` (the URL), `nbf`, `exp` and `body`.

    url: the public address that QStash calls. The request does not show it behind a proxy or a rewrite.
    """

    url: str

    @classmethod
    def read(cls, table: Table) -> Self:
        """Read `url`, which is required."""
        if "url" not in table:
            table.problem("url", "is required: the public URL of this webhook, as QStash calls it")
        return cls(table.text("url", "", pattern=r"https?://[\x21-\x7e]+", rule="a URL, as QStash calls it") or "")

    def verify(self, delivery: Delivery, keys: Sequence[bytes]) -> None:
        """Verify with the current key and the next one; a token is valid for five minutes."""
        required = ["sub", "nbf", "exp", "body"]
        claims = verified_claims(delivery.header("Upstash-Signature"), keys, "Upstash", required)
        if claims["sub"] != self.url:
            raise BadSignature("The signature is for another URL than the source's `url`")
        if not ID_PATTERN.fullmatch(delivery.headers.get("upstash-message-id", "-")):
            raise BadSignature("Upstash-Message-Id is not 1 to 256 visible ASCII characters")
        body, expected = claims["body"], base64.urlsafe_b64encode(hashlib.sha256(delivery.body).digest()).decode()
        check_hash(body.rstrip("=") if isinstance(body, str) else body, expected.rstrip("="))

    def delivery_id(self, payload: Payload) -> str | None:
        """Return the message id, which a retry repeats; the token's `jti` changes with each attempt."""
        return payload.headers.get("upstash-message-id")
