"""Webhooks: one file per signature scheme, and the sources of `realtime.toml` that use them."""
