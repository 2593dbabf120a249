"""Credentials: publish keys, subscriber tokens, tickets and signed rewrites."""
