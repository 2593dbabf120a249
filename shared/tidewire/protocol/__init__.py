"""Bytes in, bytes out: requests, server-sent events, JSON pages, CloudEvents and problem details."""
