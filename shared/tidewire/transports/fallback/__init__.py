"""The fallback to memory while the log is unavailable."""
