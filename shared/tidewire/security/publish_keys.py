"""Publish keys: finds the key of a request, and checks the event types and permissions of that key."""

import hashlib
import hmac
from collections.abc import Iterable

from tidewire.errors import Forbidden, Unauthorized
from tidewire.model.event import Event
from tidewire.model.permissions import PublishKey


class PublishKeys:
    """The keys of REALTIME_PUBLISH_KEYS; only their SHA-256 digests are compared."""

    def __init__(self, keys: tuple[PublishKey, ...]) -> None:
        self._keys = [(_digest(key.secret), key) for key in keys]

    def check(self, secret: str | None) -> PublishKey:
        """Return the key with this secret, which is None if the request has no Authorization header.

        Raises Unauthorized. Every digest is compared, each in constant time: the response time reveals neither the
        length of a key nor how many of its characters were right.
        """
        if secret is None:
            raise Unauthorized("Send a publish key: Authorization: Bearer <key>", None)
        digest = _digest(secret)
        matches = [key for known, key in self._keys if hmac.compare_digest(digest, known)]
        if not matches:
            raise Unauthorized("The publish key is not one of REALTIME_PUBLISH_KEYS")
        return matches[0]


def check_types(key: PublishKey, events: Iterable[Event]) -> None:
    """Raise Forbidden if the key does not allow the type of one of the events."""
    if key.types is not None:
        for event in events:
            if event.type not in key.types:
                raise Forbidden(f"The publish key does not allow the type {event.type!r}")


def check_permission(key: PublishKey, permission: str) -> None:
    """Raise Forbidden if the key is limited and this permission is not listed with it."""
    if permission not in key.permissions:
        raise Forbidden(f"The publish key lacks the permission {permission}: list the key again with :{permission}")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
