"""Transports: one adapter per technology, all behind the protocols of `base`."""
