"""One entry per deployed function."""
