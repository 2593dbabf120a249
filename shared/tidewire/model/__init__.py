"""The domain: events, audiences, permissions, partitions, cursors and records."""
