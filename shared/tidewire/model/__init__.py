"""Values of the domain: events, audiences, partitions, positions and records."""
