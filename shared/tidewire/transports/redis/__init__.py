"""Redis: the log on Streams, and Pub/Sub without a log."""
