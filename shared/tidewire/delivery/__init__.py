"""Delivery: the hub, its subscribers, and their way from the log to the live tail."""
