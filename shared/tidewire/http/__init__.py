"""HTTP: the ASGI apps, their server, and the Lambda handlers."""
