"""The public keys of a token issuer (JWK Set, RFC 7517), fetched on demand and cached."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tidewire.errors import Unavailable

logger = logging.getLogger(__name__)

FRESH = 600.0  # seconds; an older set is still used while one refresh runs in the background
STALE = 3_600.0  # seconds; an older set is refreshed before it is used: the issuer may have withdrawn keys
REFETCH = 30.0  # minimum seconds between two fetches: tokens with invented kids must not flood the issuer
TIMEOUT = 5.0  # seconds for one whole fetch
MAX_BYTES = 256 * 1024


class KeySet:
    """The key set at a URL.

    A known key verifies at once, even if the issuer is unavailable: one refresh runs in the background for all
    requests. Only a request with an unknown key waits for that refresh.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: list[Any] = []
        self._fetched: float | None = None
        self._tried: float | None = None
        self._failing = False  # the last fetch failed while this process was running, not frozen
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> Any | None:
        """Return the public key with this id for this algorithm, None if the current key set has none.

        Without a kid, the only key for the algorithm matches. Raises Unavailable if the key is unknown and the set
        cannot be fetched now: the issuer may have added the key since the last fetch.
        """
        key = self._find(kid, algorithm)
        if key is not None:
            age = self._clock() - (self._fetched or 0.0)
            if age < FRESH:
                return key
            refreshing = self._refresh()
            if age < STALE or self._failing or refreshing is None:
                return key
            await asyncio.wait((refreshing,))  # a cancelled caller must not cancel the fetch for the others
            return self._find(kid, algorithm)
        if self._is_settled(kid, algorithm):
            return None
        fetched, refreshing = self._fetched, self._refresh()
        if refreshing is not None:
            await asyncio.wait((refreshing,))
        if self._fetched == fetched:
            raise Unavailable("The token's key is unknown, and REALTIME_JWKS_URL cannot be fetched now", self._due())
        return self._find(kid, algorithm)

    def _find(self, kid: str | None, algorithm: str) -> Any | None:
        fitting = [key for key in self._keys if key.algorithm_name == algorithm]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.key_id == kid), None)

    def _is_settled(self, kid: str | None, algorithm: str) -> bool:
        """Whether a refresh cannot help: the id belongs to another algorithm, or several keys match without an id."""
        if self._fetched is None or self._clock() - self._fetched >= FRESH:
            return False
        if kid is None:
            return any(key.algorithm_name == algorithm for key in self._keys)
        return any(key.key_id == kid for key in self._keys)

    def _due(self) -> int:
        """Return the seconds until the next fetch may start."""
        return math.ceil(max(1.0, REFETCH - (self._clock() - (self._tried or 0.0))))

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the running refresh, or start one; None within `REFETCH` seconds of the last one."""
        if self._refreshing is not None and not self._refreshing.done():
            return self._refreshing
        if self._tried is not None and self._clock() - self._tried < REFETCH:
            return None
        self._tried = self._clock()
        self._refreshing = asyncio.create_task(self._fetch(self._tried))
        return self._refreshing

    async def _fetch(self, began: float) -> None:
        import httpx

        try:
            async with (
                asyncio.timeout(TIMEOUT),  # for the whole fetch: an issuer that drips bytes would block the requests
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
            self._failing = False
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError, RecursionError) as error:
            # The cached keys stay valid: an unavailable issuer must not log everyone out. On Lambda a fetch may freeze
            # with the process and time out when it thaws, which does not show that the issuer is unavailable.
            self._failing = self._clock() - began < 2 * TIMEOUT
            logger.warning("cannot fetch the key set of REALTIME_JWKS_URL: %s", type(error).__name__)


def _parse(body: bytes) -> list[Any]:
    """Return the supported signature keys of a JWK Set, without any others. Raises ValueError if it is malformed."""
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
            logger.warning("ignored a malformed key of REALTIME_JWKS_URL")
    return keys
