"""Tidewire: durable realtime events for serverless apps."""

__version__ = "0.1.0"
