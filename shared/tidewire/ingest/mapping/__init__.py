"""What comes from elsewhere → events, by the rules of `realtime.toml`."""
