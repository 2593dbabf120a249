"""The core of Tidemark: log, cursor, filter, hub and SSE, apart from any way of deploying them."""
