"""The log on Redis Streams, over Upstash's REST API."""
