"""Upstash: the log on Redis Streams over its REST API."""
