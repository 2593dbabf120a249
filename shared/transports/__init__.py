"""Adapters: one file a technology, each named after it, all behind the protocols of `base`."""
