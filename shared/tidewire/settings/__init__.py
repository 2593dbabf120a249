"""The environment, read once: checked settings, addresses of stores, and secrets by reference."""
