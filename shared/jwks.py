"""The issuer's public keys (RFC 7517), fetched when they are needed, kept while they last."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from shared.errors import Unavailable

logger = logging.getLogger(__name__)

FRESH = 600.0  # seconds that a fetched set is used without asking again
REFETCH = 30.0  # seconds between two fetches at least: a token with a made-up kid must not make us hammer the issuer
TIMEOUT = 5.0
MAX_BYTES = 256 * 1024


class KeySet:
    """A JWKS behind a URL."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: list[Any] = []
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, kid: str | None, algorithm: str) -> Any | None:
        """Return the public key with this id for this algorithm, None where the set has none.

        Without a kid the set's only key for the algorithm is taken. A key that is not known, or a set that is
        old, is fetched again, by one caller at a time. Raises Unavailable where no set could be had yet.
        """
        key = self._find(kid, algorithm)
        if key is not None and self._age() < FRESH:
            return key
        async with self._fetching:
            if self._may_fetch():
                await self._fetch()
        if self._fetched is None:
            raise Unavailable("The key set of REALTIME_JWKS_URL cannot be fetched now", retry_after=int(REFETCH))
        return self._find(kid, algorithm)

    def _find(self, kid: str | None, algorithm: str) -> Any | None:
        fitting = [key for key in self._keys if key.algorithm_name == algorithm]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.key_id == kid), None)

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._clock() - self._fetched

    def _may_fetch(self) -> bool:
        return self._tried is None or self._clock() - self._tried >= REFETCH

    async def _fetch(self) -> None:
        import httpx

        self._tried = self._clock()
        try:
            async with (
                asyncio.timeout(TIMEOUT),  # in all: an issuer that drips bytes would hold every caller
                httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream("GET", self._url, headers={"accept": "application/json"}) as response,
            ):
                response.raise_for_status()
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ValueError("the key set is too large")
            self._keys = _parse(body)
            self._fetched = self._clock()
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            # The keys that we have stay good: an issuer that is down must not log everyone out.
            logger.warning("cannot fetch the key set of REALTIME_JWKS_URL: %s", type(error).__name__)


def _parse(body: bytes) -> list[Any]:
    """Return the signature keys of a JWKS that we can use; others are left out. Raises ValueError."""
    import jwt

    usable: dict[Any, str] = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
    content = msgspec.json.decode(body)
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a key set")
    keys = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            algorithm = usable.get((entry.get("kty"), entry.get("crv")))
            if algorithm is not None and entry.get("alg", algorithm) == algorithm:
                keys.append(jwt.PyJWK(entry, algorithm))
        except (jwt.PyJWTError, ValueError, TypeError):
            logger.warning("a key of REALTIME_JWKS_URL cannot be read and is left out")
    return keys
