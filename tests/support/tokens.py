"""Keys, subscriber tokens, and an issuer that publishes its key set over HTTP."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PUBLISH_KEY = "publish-key-for-tests-5d1f0c"
LIMITED_KEY = "limited-key-for-tests-77aa10"  # publishes task-* and deploy-ready
MINTING_KEY = "minting-key-for-tests-30be51"  # publishes task-*, and makes tokens for it
SECRET = "subscriber-secret-for-tests-of-at-least-32-bytes"
ISSUER = "https://issuer.example.com"
AUDIENCE = "tidewire-tests"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def token(claims: Mapping[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    """A signed token with these claims and header fields, whatever they are."""
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm, {"typ": "JWT", **header})


def user_token(user_id: str | None, **claims: Any) -> str:
    """A token for this user, signed with the secret, that ends in an hour."""
    subject = {} if user_id is None else {"sub": user_id}
    return token({"exp": int(time.time()) + 3600, **subject, **claims})


def hs256_by_hand(header: object, claims: object, secret: bytes) -> str:
    """A token as an attacker makes it: no library refuses the header, the claims or the secret."""
    signed = f"{_encoded(header)}.{_encoded(claims)}"
    return f"{signed}.{_base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def unsigned(claims: object, algorithm: str = "none", signature: str = "") -> str:
    """An unsigned token."""
    return f"{_encoded({'alg': algorithm, 'typ': 'JWT'})}.{_encoded(claims)}.{signature}"


def public_pem(key: PrivateKey) -> bytes:
    """The public key as text, as everyone can download it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def jwk(key: PrivateKey, kid: str, **fields: Any) -> dict[str, Any]:
    """The public key as an entry of a key set."""
    if isinstance(key, rsa.RSAPrivateKey):
        entry = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        entry = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        entry = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**entry, "kid": kid, "use": "sig", **fields}


class Issuer:
    """Serves a key set on 127.0.0.1; tests change it, break it and count its requests."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.ed = ed25519.Ed25519PrivateKey.generate()
        self.keys: list[Any] = [jwk(self.rsa, "rsa-1"), jwk(self.ec, "ec-1"), jwk(self.ed, "ed-1")]
        self.body: bytes | None = None  # answered instead of the keys
        self.status = 200
        self.requests = 0
        self._answering = threading.Event()  # cleared, it takes requests and never answers
        self._answering.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/jwks.json"

    def hang(self) -> None:
        """Accept each request from now on, and never answer it."""
        self._answering.clear()

    def recover(self) -> None:
        """Answer again, also what waits."""
        self._answering.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.recover()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requests += 1
                issuer._answering.wait()
                body = json.dumps({"keys": issuer.keys}).encode() if issuer.body is None else issuer.body
                self.send_response(issuer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep quiet."""

        return Handler


def _encoded(value: object) -> str:
    return _base64url(json.dumps(value).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
