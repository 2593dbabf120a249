"""The rules of `realtime.toml`: payloads from other services become events."""
