"""All that speaks HTTP: the ASGI apps, our server, and the Lambda entry."""
