"""Webhooks: one file a signature scheme, and the sources of `realtime.toml` that use them."""
