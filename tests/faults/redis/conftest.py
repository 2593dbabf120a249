"""A Redis that no other folder's tests use: these tests count its clients, break their connections and pause it."""

from tests.conftest import redis_server  # noqa: F401 — the same fixture, with a server of its own
