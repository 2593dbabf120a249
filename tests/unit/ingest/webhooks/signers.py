"""Signed deliveries: by the provider's SDK if possible, else by its documentation."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jwt
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook

URL = "https://app.example.com/api/webhooks/qstash"

Sign = Callable[[bytes, str, str, int], dict[str, str]]
"""(body, secret, delivery id, time in s) → headers."""


class Signer(NamedTuple):
    """A scheme of `realtime.toml` with its settings, secrets in the provider's format, and its SDK."""

    scheme: str
    sign: Sign
    secrets: tuple[str, str]
    settings: str = ""
    has_time: bool = True
    variable: str = "WEBHOOK_SECRET"

    def table(self, name: str, rules: str = 'type = "t"') -> str:
        """The source's table in `realtime.toml`, with two secrets."""
        return (
            f'[sources.{name}]\nscheme = "{self.scheme}"\n'
            f'secrets = ["{self.variable}", "{self.variable}_NEXT"]\n{self.settings}\n'
            f"[[sources.{name}.events]]\n{rules}\n"
        )

    def environ(self) -> dict[str, str]:
        """The variables that `table` names."""
        return {self.variable: self.secrets[0], f"{self.variable}_NEXT": self.secrets[1]}


def _standard_webhooks(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    signature = Webhook(secret).sign(id, datetime.fromtimestamp(now, UTC), body.decode())
    return {"webhook-id": id, "webhook-timestamp": str(now), "webhook-signature": signature}


def _github(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": id, "x-github-event": "push"}


def _stripe(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    import stripe  # half a second, for the tests that need it

    return {"stripe-signature": stripe.WebhookSignature.generate_signature_header(body.decode(), secret, now)}


def _slack(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    signature = SignatureVerifier(secret).generate_signature(timestamp=str(now), body=body)
    assert signature is not None
    return {"x-slack-request-timestamp": str(now), "x-slack-signature": signature}


def _netlify(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    claims = {"iss": "netlify", "sha256": hashlib.sha256(body).hexdigest()}
    return {"x-webhook-signature": jwt.encode(claims, secret, "HS256")}


def qstash_claims(body: bytes, now: int) -> dict[str, Any]:
    """The claims that QStash signs; its documentation pads `body`, its deliveries do not."""
    hashed = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
    times = {"iat": now, "nbf": now, "exp": now + 300}
    return {"iss": "Upstash", "sub": URL, "jti": "jwt_1", "body": hashed, **times}


def _qstash(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    return {
        "upstash-signature": jwt.encode(qstash_claims(body, now), secret, "HS256"),
        "upstash-message-id": id,
        "upstash-retried": "0",
    }


def _hmac(body: bytes, secret: str, id: str, now: int) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha512).digest()
    return {"x-signature": f"sha512:{base64.b64encode(digest).decode()}", "x-delivery": id}


_HMAC = 'header = "X-Signature"\nprefix = "sha512:"\nhash = "sha512"\nencoding = "base64"\nidHeader = "X-Delivery"'

SIGNERS: Mapping[str, Signer] = {
    "standard-webhooks": Signer(
        "standard-webhooks",
        _standard_webhooks,
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODw=="),
    ),
    "github": Signer("github", _github, ("It's a Secret to Everybody", "another secret"), has_time=False),
    "stripe": Signer("stripe", _stripe, ("whsec_test_secret_of_stripe", "whsec_next_secret_of_stripe")),
    "slack": Signer("slack", _slack, ("8f742231b10e8888abcd99yyyzzz85a5", "0123456789abcdef0123456789abcdef")),
    "netlify": Signer("netlify", _netlify, ("n" * 32, "m" * 32), has_time=False),
    "qstash": Signer("qstash", _qstash, ("sig_" + "c" * 28, "sig_" + "n" * 28), f'url = "{URL}"'),
    "hmac": Signer("hmac", _hmac, ("first", "second"), _HMAC, has_time=False),
}


def body_of(id: str) -> bytes:
    """A payload with the id where the signing providers put theirs."""
    return json.dumps({"id": id, "event_id": id, "type": "event_callback", "n": 1.0}).encode()
